// What the products of all types of weights share: the activations they meet, and their sums.
// Compiled once for each instruction set.
#if defined(BASIN_KERNELS_MATVEC_SUMS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef BASIN_KERNELS_MATVEC_SUMS_INL_H_
#undef BASIN_KERNELS_MATVEC_SUMS_INL_H_
#else
#define BASIN_KERNELS_MATVEC_SUMS_INL_H_
#endif

#include "model/kernels/cpu/vectors-inl.h"
#include "model/kernels/decode.h"

#ifndef BASIN_KERNELS_MATVEC_INPUT_  // the same for all instruction sets
#define BASIN_KERNELS_MATVEC_INPUT_
namespace basin::kernels {

/// Activations in the form in which a type of weights meets them: as they are; int16 with a scale
/// for each block (kQ8); or as the sum of two bf16 (kBf16 where the processor multiplies those).
struct Input {
  const float* x = nullptr;         // (count, columns)
  const int16_t* values = nullptr;  // (count, columns)
  const float* scales = nullptr;    // (count, scale_stride)
  int64_t scale_stride = 0;
  const Bf16 *high = nullptr, *low = nullptr;  // (count, padded), zeros behind the columns
  int64_t padded = 0;

  /// From vector n on.
  Input from(int64_t n, int64_t columns) const {
    return {x + n * columns,
            values + n * columns,
            scales + n * scale_stride,
            scale_stride,
            high + n * padded,
            low + n * padded,
            padded};
  }
};

}  // namespace basin::kernels
#endif

HWY_BEFORE_NAMESPACE();
namespace basin::kernels {
namespace HWY_NAMESPACE {

// Independent sums of a product: enough to hide the latency of an addition, few enough for the
// registers.
template <int kVectors>
constexpr int kChains = kVectors == 1   ? 4
                        : kVectors == 2 ? 2
                                        : 1;

// Weights are asked for one page ahead of their use: what the processor fetches by itself stops at
// the end of a page, which for a short row comes often.
HWY_INLINE void prefetch(const void* weights) {
  __builtin_prefetch(static_cast<const char*>(weights) + 4096);
}

template <int kVectors, int C>
HWY_INLINE void store_sums(
    const Vector* sums, const float* bias, int64_t row, int64_t rows, float* y) {
  for (int v = 0; v < kVectors; ++v) {
    Vector sum = sums[v * C];
    for (int c = 1; c < C; ++c) sum = hn::Add(sum, sums[v * C + c]);
    y[v * rows + row] = hn::GetLane(hn::SumOfLanes(Lanes32(), sum)) + (bias ? bias[row] : 0);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace basin::kernels
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard
