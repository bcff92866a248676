// What every CUDA kernel file begins with: launching on the current stream, scratch memory, packs
// of 16 bytes, and sums over a warp or a block. Without nvcc the same sources compile as C++ and
// run on the CPU, one thread block after another (on_cpu.h): that is how they are tested on
// machines without a GPU. So kernels keep to what on_cpu.h knows, and launch by `launch`, not by
// <<<>>>.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>

#include "model/kernels/kernels.h"

#ifdef __CUDACC__
#include <cuda_bf16.h>

#include "model/kernels/cuda/device.h"
#else
#include "model/kernels/cuda/on_cpu.h"
#endif

namespace basin::kernels {

constexpr int kWarp = 32;

#ifdef __CUDACC__
inline int device_attribute(cudaDeviceAttr attribute) {
  int device = 0, value = 0;
  check(cudaGetDevice(&device));
  check(cudaDeviceGetAttribute(&value, attribute, device));
  return value;
}
/// Dynamic shared memory that a block can have beside a kernel's few static arrays, bytes: 226 KiB
/// on an H100, 98 on GeForce cards.
inline int64_t most_shared_memory() {
  constexpr int kStatic = 1024;
  return device_attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin) - kStatic;
}

/// Lets the kernel have that much dynamic shared memory. 48 KiB go unasked, of which its static
/// arrays take some.
template <class Kernel>
void allow_shared_memory(Kernel* kernel, int bytes) {
  if (bytes > 32 * 1024)
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes));
}

template <class... Parameters, class... Arguments>
void launch(void (*kernel)(Parameters...),
            dim3 grid,
            dim3 block,
            int shared_bytes,
            Arguments... arguments) {
  if (grid.x == 0) return;  // nothing to do, which CUDA would refuse
  allow_shared_memory(kernel, shared_bytes);
  kernel<<<grid, block, static_cast<size_t>(shared_bytes), current_stream()>>>(
      static_cast<Parameters>(arguments)...);
  check(cudaGetLastError());
}

/// Dynamic shared memory of the block.
template <class T>
__device__ T* shared_memory() {
  extern __shared__ __align__(16) unsigned char basin_shared_memory[];
  return reinterpret_cast<T*>(basin_shared_memory);
}

/// Copies `count` values from the device and waits for them.
template <class T>
void copy_to_host(T* to, const T* from, int64_t count) {
  check(cudaMemcpyAsync(
      to, from, static_cast<size_t>(count) * sizeof(T), cudaMemcpyDeviceToHost, current_stream()));
  check(cudaStreamSynchronize(current_stream()));
}
#endif

__device__ inline float widen(float x) {
  return x;
}
__device__ inline float widen(Bf16 x) {
#ifdef __CUDACC__
  return __uint_as_float(static_cast<unsigned>(x.bits) << 16);
#else
  return bits_to_float(static_cast<uint32_t>(x.bits) << 16);
#endif
}

template <class Float>
__device__ Float narrow(float x);
template <>
__device__ inline float narrow<float>(float x) {
  return x;
}
template <>
__device__ inline Bf16 narrow<Bf16>(float x) {  // to nearest, ties to even
#ifdef __CUDACC__
  return {__bfloat16_as_ushort(__float2bfloat16_rn(x))};
#else
  return float_to_bf16(x);
#endif
}

/// Consecutive elements, a power of two, read and written as one: 16 bytes unless told otherwise.
template <class Float, int kWidth = 16 / sizeof(Float)>
struct alignas(kWidth * sizeof(Float) < 16 ? kWidth * sizeof(Float) : 16) Pack {
  static constexpr int kSize = kWidth;
  Float values[kSize];
};
/// Whether `p` can be read in packs: 16-byte aligned.
inline bool aligned(const void* p) {
  return reinterpret_cast<uintptr_t>(p) % 16 == 0;
}

/// Sum over the 32 threads of a warp, in every one of them.
template <class T>
__device__ T warp_sum(T x) {
  for (int distance = kWarp / 2; distance > 0; distance /= 2)
    x += __shfl_xor_sync(0xffffffffu, x, distance);
  return x;
}
__device__ inline float warp_max(float x) {
  for (int distance = kWarp / 2; distance > 0; distance /= 2)
    x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, distance));
  return x;
}

/// Sum over a block of whole warps (one dimension), in every thread, always in the same order.
/// `space`: shared memory for 32 values, free again after the next __syncthreads.
template <class T>
__device__ T block_sum(T x, T* space) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp,
            warp = static_cast<int>(threadIdx.x) / kWarp,
            warps = static_cast<int>(blockDim.x) / kWarp;
  x = warp_sum(x);
  __syncthreads();  // an earlier sum's readers are done with the space
  if (lane == 0) space[warp] = x;
  __syncthreads();
  return warp_sum(lane < warps ? space[lane] : T(0));
}
__device__ inline float block_max(float x, float* space) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp,
            warp = static_cast<int>(threadIdx.x) / kWarp,
            warps = static_cast<int>(blockDim.x) / kWarp;
  x = warp_max(x);
  __syncthreads();
  if (lane == 0) space[warp] = x;
  __syncthreads();
  return warp_max(lane < warps ? space[lane] : space[0]);
}

/// Blocks that cover n.
inline int64_t blocks_for(int64_t n, int64_t per_block) {
  return (n + per_block - 1) / per_block;
}

}  // namespace basin::kernels
