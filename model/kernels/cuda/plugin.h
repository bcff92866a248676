// What libbasin_cuda.so gives a program that was built without CUDA's libraries: kernels, graphs
// and what the device says of itself. model/cuda.h loads it.
#pragma once

#include <functional>
#include <string>

#include "model/kernels/cuda/attention.h"
#include "model/kernels/cuda/decode_kernels.h"
#include "model/kernels/cuda/decode_layers.h"
#include "model/kernels/cuda/norm_pair.h"
#include "model/kernels/cuda/sums.h"
#include "model/kernels/kernel_set.h"

namespace basin::kernels {

struct CudaPlugin {
  KernelSet kernels;
  decltype(&kernels::rotary_split<Bf16>) rotary_split;
  decltype(&kernels::rotary_merge<Bf16>) rotary_merge;
  decltype(&kernels::fold_sink<Bf16>) fold_sink;
  decltype(&kernels::sink_logit_gradient<Bf16>) sink_logit_gradient;
  decltype(&kernels::takes_norm_pair<Bf16>) takes_norm_pair;
  decltype(&kernels::norm_pair_forward<Bf16>) norm_pair_forward;
  decltype(&kernels::norm_pair_backward<Bf16>) norm_pair_backward;
  decltype(&kernels::sum_rows<Bf16>) sum_rows;
  DecodeKernels decode;
  decltype(&kernels::takes_decode_layers) takes_decode_layers;
  decltype(&kernels::decode_layers) decode_layers;
  decltype(&kernels::decode_layers_scratch) decode_layers_scratch;

  // Runs `body` a few times, then records it, on a stream of its own; the result is replayed and in
  // the end released. `body` must do the same work each time and wait for nothing.
  void* (*capture)(const std::function<void()>& body);
  void (*replay)(void* graph);
  void (*release)(void* graph);

  // Of the current device:
  std::string (*device_name)();
  int (*compute_capability)();     // 90 for an H100
  int64_t (*peak_memory_bytes)();  // most that LibTorch's allocator had reserved since the reset
  void (*reset_peak_memory)();
};

}  // namespace basin::kernels

extern "C" const basin::kernels::CudaPlugin* basin_cuda_plugin();
