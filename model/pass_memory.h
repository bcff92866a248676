// Memory of one forward and backward pass of training, part of the cost function (model/cost.h):
// the tensors that ops and recompute.cpp make, taken and given back in the order in which autograd
// does, so that the peak is a peak and not a sum of everything.
#pragma once

#include <cstdint>
#include <string>

#include "model/config.h"

namespace basin {

/// A forward and backward pass over a micro-batch, on one device.
struct PassShape {
  int64_t micro_batch = 1;      // samples
  int64_t sequence_length = 0;  // T, sink tokens not counted
  bool bf16 = false;            // else fp32
  bool recompute = false;       // train.recompute_activations
  bool cuda = false;            // else the CPU's kernels and allocator
};

/// Bytes beyond weights, their flat gradient and the optimizer, as the device's allocator counts
/// them (model/cpu_allocator.h).
struct PassMemory {
  int64_t kept = 0;     // activations kept for the backward pass when the forward pass ends
  int64_t peak = 0;     // at the most at any moment
  std::string peak_at;  // what runs at that moment: "the loss", "the backward pass of a block", ...
  int64_t logits = 0;   // of these: the chunk of logits that exists at once
};

/// `config.vocab_size` must be known.
PassMemory pass_memory(const ModelConfig& config, const PassShape& shape);

/// What a tensor of so many bytes takes on the device: allocators round up.
int64_t block_bytes(int64_t bytes, bool cuda);

}  // namespace basin
