// What the kernels of a decoding step do alike: weights that are read once, sums that many lanes
// hold a part of, and rotation.
#pragma once

#include "model/kernels/cuda/launch.cuh"

namespace basin::kernels {

using Words = Pack<uint32_t>;

// Weights, which are read once: past L1.
__device__ inline Words stream_words(const unsigned char* from) {
#ifdef __CUDA_ARCH__
  Words words;
  uint32_t(&v)[4] = reinterpret_cast<uint32_t(&)[4]>(words.values);
  asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v[0]), "=r"(v[1]), "=r"(v[2]), "=r"(v[3])
               : "l"(from));
  return words;
#else
  return *reinterpret_cast<const Words*>(from);
#endif
}

__device__ inline int lane_index() {
  return static_cast<int>(threadIdx.x) % kWarp;
}
__device__ inline int warp_index() {
  return static_cast<int>(threadIdx.x) / kWarp;
}

// Half of the first 2 * kLeft values change hands, and so on, until every lane is left with one. By
// recursion: all indices are constants, so that the values stay in registers.
template <int kLeft, int kValues>
__device__ void halve(float (&values)[kValues]) {
  if constexpr (kLeft > 0) {
    const bool upper = lane_index() & kLeft;
#pragma unroll
    for (int i = 0; i < kLeft; ++i) {
      const float away = upper ? values[i] : values[i + kLeft],
                  kept = upper ? values[i + kLeft] : values[i];
      values[i] = kept + __shfl_xor_sync(0xffffffffu, away, kLeft);
    }
    halve<kLeft / 2>(values);
  }
}

// Values of a warp's lanes -> their sums: lane l has that of values[l % kValues].
template <int kValues>
__device__ float gathered_sum(float (&values)[kValues]) {
  halve<kValues / 2>(values);
  float sum = values[0];
#pragma unroll
  for (int distance = kValues; distance < kWarp; distance *= 2)
    sum += __shfl_xor_sync(0xffffffffu, sum, distance);
  return sum;
}

// How element i of a head turns with its partner; beyond the rotation it stays as it is. Without
// branches, so that nothing waits before all of an element's loads are out.
struct Turn {
  float cosine, sine;
};
__device__ inline int partner_of(int i, int half) {
  return i >= 2 * half ? i : i < half ? i + half : i - half;
}
__device__ inline Turn turn_of(int i, int half, const float* cosines) {
  const bool rotates = i < 2 * half;
  const int pair = i < half ? i : i - half;
  const float cosine = rotates ? cosines[pair] : 1.0f, sine = rotates ? cosines[half + pair] : 0.0f;
  return {cosine, i < half ? -sine : sine};
}
__device__ inline float turned(const Turn& turn, float x, float partner) {
  return x * turn.cosine + partner * turn.sine;
}

}  // namespace basin::kernels
