// For kernels that work on `kWidth` elements at a time: a pack of 16 bytes where everything is
// aligned to packs, else a single element. The host asks `packable` and picks by `with_width` or
// `in_packs`; the same kernel serves both.
#pragma once

#include <algorithm>
#include <type_traits>

#include "model/kernels/cuda/launch.cuh"

namespace basin::kernels {

/// kWidth elements as fp32, and back.
template <int kWidth, class Float>
__device__ void load(const Float* from, float (&to)[kWidth]) {
  const auto pack = *reinterpret_cast<const Pack<Float, kWidth>*>(from);
  for (int j = 0; j < kWidth; ++j) to[j] = widen(pack.values[j]);
}
template <int kWidth, class Float>
__device__ void store(const float (&from)[kWidth], Float* to) {
  Pack<Float, kWidth> pack;
  for (int j = 0; j < kWidth; ++j) pack.values[j] = narrow<Float>(from[j]);
  *reinterpret_cast<Pack<Float, kWidth>*>(to) = pack;
}

/// Where this thread's elements begin when the grid covers an array, kWidth elements a thread.
template <int kWidth>
__device__ int64_t first_element() {
  return (int64_t{blockIdx.x} * blockDim.x + threadIdx.x) * kWidth;
}

/// Whether rows of `size` elements, at these addresses (or null), can be read in packs of Float.
template <class Float, class... Pointers>
bool packable(int64_t size, const Pointers*... pointers) {
  return size % Pack<Float>::kSize == 0 && (aligned(pointers) && ...);
}

/// Calls body with the width to work in, as a constant.
template <class Float, class Body>
void with_width(bool packed, const Body& body) {
  if (packed)
    body(std::integral_constant<int, Pack<Float>::kSize>());
  else
    body(std::integral_constant<int, 1>());
}

/// Calls body(width, begin, count) for the part of n elements that divides into packs, none without
/// alignment, and for the rest. Either may be empty.
template <class Float, class Body>
void in_packs(int64_t n, bool aligned, const Body& body) {
  const int64_t packed = aligned ? n - n % Pack<Float>::kSize : 0;
  body(std::integral_constant<int, Pack<Float>::kSize>(), int64_t{0}, packed);
  body(std::integral_constant<int, 1>(), packed, n - packed);
}

/// Threads for a block that shares `items` of work: whole warps, at most `most`.
inline int64_t threads_for(int64_t items, int64_t most) {
  return std::clamp<int64_t>(blocks_for(items, kWarp) * kWarp, kWarp, most);
}

}  // namespace basin::kernels
