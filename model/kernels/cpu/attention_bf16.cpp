// Attention for bf16 with AVX512-BF16 dot products (two bf16 products a lane, summed in fp32).
// Highway 1.0.3 has no such target, so the shared algorithm is compiled here for its AVX3 target
// with avx512bf16 added; used when the processor has it.
#include <algorithm>
#include <cmath>

#include "model/kernels/cpu/attention_plan.h"
#include "model/kernels/cpu/bf16_instruction.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "model/kernels/cpu/attention_bf16.cpp"
// foreach_target.h has to come first.
// clang-format off
#include <hwy/foreach_target.h>
#include <hwy/highway.h>
#include <hwy/contrib/math/math-inl.h>
// clang-format on

HWY_BEFORE_NAMESPACE();
#if HWY_TARGET == HWY_AVX3
#pragma GCC push_options
#pragma GCC target("avx512bf16")
#endif
#include "model/kernels/cpu/attention_backward-inl.h"
#include "model/kernels/cpu/attention_forward-inl.h"
#include "model/kernels/cpu/attention_stream-inl.h"

#if HWY_TARGET == HWY_AVX3
namespace basin::kernels::HWY_NAMESPACE {
namespace {

/// Policy for bf16 dot products: a word is a pair of bf16, the first in the low half.
struct Bf16Words {
  static constexpr int64_t kPair = 2;
  static constexpr int kExpDegree = 3;

  static HWY_INLINE V dot(V a, V b, V c) {
    return V{_mm512_dpbf16_ps(
        c.raw, reinterpret_cast<__m512bh>(a.raw), reinterpret_cast<__m512bh>(b.raw))};
  }
  using HalfV = hn::Vec<hn::Half<Floats>>;
  static HWY_INLINE HalfV dot(HalfV a, HalfV b, HalfV c) {
    return HalfV{_mm256_dpbf16_ps(
        c.raw, reinterpret_cast<__m256bh>(a.raw), reinterpret_cast<__m256bh>(b.raw))};
  }

  /// Two vectors of floats -> 32 bf16 in their order.
  static HWY_INLINE __m512i round(V low, V high) {
    return reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(high.raw, low.raw));
  }

  static HWY_INLINE void pack_row(const float* row, int64_t words, float* dst) {
    const Floats d;
    for (int64_t i = 0; i < words; i += kLanes)
      _mm512_storeu_si512(dst + i,
                          round(hn::Load(d, row + 2 * i), hn::Load(d, row + 2 * i + kLanes)));
  }
  static HWY_INLINE void pack_pair(const float* row0, const float* row1, int64_t n, float* dst) {
    const Floats d;
    for (int64_t i = 0; i < n; i += kLanes)
      _mm512_storeu_si512(
          dst + i,
          _mm512_permutexvar_epi16(interleave_halves(),
                                   round(hn::Load(d, row0 + i), hn::Load(d, row1 + i))));
  }
  static HWY_INLINE void store_rows(const V (&x)[kRows][2], float* rows) {
#pragma GCC unroll 8
    for (int m = 0; m < kRows; ++m) _mm512_store_si512(rows + m * kLanes, round(x[m][0], x[m][1]));
  }
  static HWY_INLINE void store_pairs(const V (&x)[kRows][2], float* pairs) {
#pragma GCC unroll 4
    for (int m = 0; m < kRows; m += 2) {
      _mm512_store_si512(
          pairs + m * kLanes,
          _mm512_permutexvar_epi16(interleave_halves(), round(x[m][0], x[m + 1][0])));
      _mm512_store_si512(
          pairs + m * kLanes + kLanes,
          _mm512_permutexvar_epi16(interleave_halves(), round(x[m][1], x[m + 1][1])));
    }
  }

 private:
  /// 0 16 1 17 ... 15 31.
  static HWY_INLINE __m512i interleave_halves() {
    return _mm512_set_epi16(31,
                            15,
                            30,
                            14,
                            29,
                            13,
                            28,
                            12,
                            27,
                            11,
                            26,
                            10,
                            25,
                            9,
                            24,
                            8,
                            23,
                            7,
                            22,
                            6,
                            21,
                            5,
                            20,
                            4,
                            19,
                            3,
                            18,
                            2,
                            17,
                            1,
                            16,
                            0);
  }
};

}  // namespace

void forward_item_dot(const ForwardCall<Bf16>& call, const WorkItem& item) {
  Forward<Bf16Words, Bf16>(call, item).run();
}
void backward_item_dot(const BackwardCall<Bf16>& call, const WorkItem& item) {
  Backward<Bf16Words, Bf16>(call, item).run();
}

void stream_item_dot(const StreamChunk<Bf16>& chunk, const WorkItem& item) {
  StreamForward<Bf16Words, Bf16>(chunk, item).run();
}

DotKernels dot_kernels_of_target() {
  return has_bf16_instruction
             ? DotKernels{forward_item_dot, backward_item_dot, stream_item_dot}
             : DotKernels{};
}

}  // namespace basin::kernels::HWY_NAMESPACE
#pragma GCC pop_options
#else
namespace basin::kernels::HWY_NAMESPACE {
DotKernels dot_kernels_of_target() {
  return {};
}
}  // namespace basin::kernels::HWY_NAMESPACE
#endif
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace basin::kernels {

HWY_EXPORT(dot_kernels_of_target);
DotKernels dot_kernels() {
  return HWY_DYNAMIC_DISPATCH(dot_kernels_of_target)();
}

}  // namespace basin::kernels
#endif
