// Launches that overlap, for the many short kernels of a decoding step (programmatic dependent
// launch, from sm_90 on; elsewhere they run one after another). The rule: every kernel begins with
// `let_next_start`; before `await_inputs` it reads only what no kernel of a step writes, and it
// writes nothing. A wait ends when the launch before has ended, and that one had waited, too: so
// all launches before are complete.
#pragma once

#include <algorithm>

#include "model/kernels/cuda/launch.cuh"

#ifndef __CUDACC__
#define __grid_constant__
#endif

namespace basin::kernels {

#ifdef __CUDACC__
inline int multiprocessors() {
  return device_attribute(cudaDevAttrMultiProcessorCount);
}

/// As `launch`; the kernel may start before the one before it has ended.
template <class... Parameters, class... Arguments>
void launch_early(void (*kernel)(Parameters...),
                  dim3 grid,
                  dim3 block,
                  int shared_bytes,
                  Arguments... arguments) {
  allow_shared_memory(kernel, shared_bytes);
  cudaLaunchAttribute early{};
  early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  early.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = static_cast<size_t>(shared_bytes);
  config.stream = current_stream();
  config.attrs = &early;
  config.numAttrs = device_attribute(cudaDevAttrComputeCapabilityMajor) >= 9 ? 1 : 0;
  check(cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...));
}
#else
inline int multiprocessors() {
  return 2;  // few, so that blocks have several turns
}
template <class... Parameters, class... Arguments>
void launch_early(void (*kernel)(Parameters...),
                  dim3 grid,
                  dim3 block,
                  int shared_bytes,
                  Arguments... arguments) {
  launch(kernel, grid, block, shared_bytes, arguments...);
}
#endif

/// Lets blocks of the next launch take what room there is, once all blocks of this one run.
__device__ inline void let_next_start() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

/// Waits until the launches before have ended. Every thread of every block calls it.
__device__ inline void await_inputs() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

/// Asks for bytes [begin, end) of `data` to come to L2; only a hint. Threads `index` of `count`
/// share the lines.
#ifdef __CUDACC__
__device__ inline void prefetch_lines(
    const void* data, int64_t begin, int64_t end, int64_t index, int64_t count) {
  constexpr int64_t kLine = 128;
#pragma unroll 1
  for (int64_t at = begin + index * kLine; at < end; at += count * kLine)
    asm volatile("prefetch.global.L2 [%0];" ::"l"(static_cast<const char*>(data) + at));
}
#else
inline void prefetch_lines(const void*, int64_t, int64_t, int64_t, int64_t) {}
#endif

/// Whether all other of `blocks` blocks that share the counter have come here before: then what
/// they wrote can be read (past L1: volatile). The counter is zero again afterwards.
__device__ inline bool is_last_block(unsigned* counter, unsigned blocks) {
  __shared__ bool last;
  __syncthreads();
  if (threadIdx.x == 0) {
    __threadfence();
    last = atomicAdd(counter, 1u) == blocks - 1;
    if (last) *counter = 0;
    __threadfence();
  }
  __syncthreads();
  return last;
}

__device__ inline float from_bits(uint32_t bits) {
#ifdef __CUDACC__
  return __uint_as_float(bits);
#else
  return bits_to_float(bits);
#endif
}

}  // namespace basin::kernels
