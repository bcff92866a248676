// Forward and backward pass of a micro-batch. On a GPU with Basin's kernels one can be recorded as
// a CUDA graph, and each that calls no hooks is then one launch: a small model's hundreds of
// launches take longer than their work.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>

#include "model/cuda.h"
#include "model/transformer.h"

namespace basin {

class ForwardBackward {
 public:
  /// `model`'s parameters must already have what collects their gradients (GradientBuckets).
  explicit ForwardBackward(const Transformer& model);

  /// Before the first run, where there will be runs without hooks: samples (micro-batch, T + 1) of
  /// the shape that all runs will have. May run the model, so that gradients collected so far are
  /// void.
  void prepare(const at::Tensor& samples);
  /// Adds the micro-batch's mean loss to the sum, and its gradient to what collects them. A graph
  /// does so without calling the parameters' hooks, unless they are asked for.
  void run(const at::Tensor& samples, bool with_hooks = false);

  /// Since the last reset_loss. Waits for the device.
  double loss_sum() const { return loss_sum_.item<double>(); }
  void reset_loss() { loss_sum_.zero_(); }

 private:
  void add_loss(const at::Tensor& samples);

  const Transformer& model_;
  at::Tensor loss_sum_;          // fp64 scalar on the model's device
  at::Tensor samples_;           // what the graph reads
  LayerAttention rotary_table_;  // keeps what the graph has the address of
  std::optional<CudaGraph> graph_;
};

}  // namespace basin
