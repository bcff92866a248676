// Products of a weight matrix with a few vectors. Bound by reading the weights: each is read once
// and meets all vectors in a register, widened to fp32; 8-bit weights have a file of their own.
#include <algorithm>
#include <vector>

#include "model/kernels/cpu/parallel.h"
#include "model/kernels/decode.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "model/kernels/cpu/matvec.cpp"
#include "hwy/foreach_target.h"
#include "model/kernels/cpu/matvec_q8-inl.h"

HWY_BEFORE_NAMESPACE();
namespace basin::kernels {
namespace HWY_NAMESPACE {

// Rows kRows at a time: with several vectors the activations no longer fit the inner cache, and
// each of them that is loaded meets kRows weights.
template <class Float, int kVectors, int kRows>
HWY_INLINE void plain_rows(
    const WeightMatrix& w, int64_t begin, int64_t end, const float* x, float* y) {
  constexpr int C = kRows == 1 ? kChains<kVectors> : 1;
  const int64_t D = w.columns;
  for (int64_t row = begin; row < end; row += kRows) {
    const Float* at = static_cast<const Float*>(w.data) + row * D;
    Vector sums[kRows * kVectors * C];
    unrolled<kRows * kVectors * C>([&](auto i) BASIN_INLINE_BODY { sums[i()] = constant(0); });
    const auto add = [&](int64_t i, auto c, auto lanes) BASIN_INLINE_BODY {
      Vector weights[kRows];
      unrolled<kRows>([&](auto r) BASIN_INLINE_BODY {
        prefetch(at + r() * D + i);
        weights[r()] = load(at + r() * D + i, lanes);
      });
      unrolled<kVectors>([&](auto v) BASIN_INLINE_BODY {
        const Vector value = load(x + v() * D + i, lanes);
        unrolled<kRows>([&](auto r) BASIN_INLINE_BODY {
          constexpr int sum = (r() * kVectors + v()) * C + c();
          sums[sum] = hn::MulAdd(weights[r()], value, sums[sum]);
        });
      });
    };
    int64_t i = 0;
    for (; i + C * kLanes <= D; i += C * kLanes)
      unrolled<C>([&](auto c) BASIN_INLINE_BODY { add(i + c() * kLanes, c, Whole()); });
    for_vectors(D - i, [&](int64_t j, auto lanes) BASIN_INLINE_BODY {
      add(i + j, std::integral_constant<int, 0>(), lanes);
    });
    unrolled<kRows>([&](auto r) BASIN_INLINE_BODY {
      store_sums<kVectors, C>(sums + r() * kVectors * C, w.bias, row + r(), w.rows, y);
    });
  }
}

#if HWY_TARGET == HWY_AVX3
// sums + products of neighbouring pairs of bf16: vdpbf16ps, for which this version of Highway has
// no target.
HWY_INLINE Vector bf16_products(__m512i a, __m512i b, Vector sums) {
  asm("vdpbf16ps %2, %1, %0" : "+v"(sums.raw) : "v"(a), "vm"(b));
  return sums;
}

void split_activations(int64_t n, int64_t padded, const float* x, Bf16* high, Bf16* low) {
  for_vectors(n, [&](int64_t i, auto lanes) BASIN_INLINE_BODY {
    const Vector value = load(x + i, lanes), rounded = rounded_for(high, value);
    store(rounded, high + i, lanes);
    store(hn::Sub(value, rounded), low + i, lanes);
  });
  std::fill(high + n, high + padded, Bf16{0});
  std::fill(low + n, low + padded, Bf16{0});
}

// Rows kRows at a time: with several vectors the activations no longer fit the inner cache, and
// each of them that is loaded meets kRows weights.
template <int kVectors, int kRows>
HWY_INLINE void dot_rows(
    const WeightMatrix& w, int64_t begin, int64_t end, const Input& x, float* y) {
  constexpr int64_t kPairs = 2 * kLanes;  // bf16 in a vector
  // Sums of a product: of high and low parts, and of kPairs in turn, while there are registers.
  constexpr int C = kVectors * kRows == 1 ? 2 : 1, kSums = kRows == 1 ? 2 * C : 1;
  const hn::ScalableTag<uint16_t> d16;
  const int64_t D = w.columns, padded = x.padded;
  for (int64_t row = begin; row < end; row += kRows) {
    const auto* at = reinterpret_cast<const uint16_t*>(w.data) + row * D;
    Vector sums[kRows * kVectors * kSums];
    unrolled<kRows * kVectors * kSums>([&](auto i) BASIN_INLINE_BODY { sums[i] = constant(0); });
    const auto add = [&](const auto& weights, int64_t i, auto c) BASIN_INLINE_BODY {
      unrolled<kVectors>([&](auto v) BASIN_INLINE_BODY {
        const auto of_vector = [&](const Bf16* x_of) BASIN_INLINE_BODY {
          return hn::LoadU(d16, reinterpret_cast<const uint16_t*>(x_of + v() * padded + i)).raw;
        };
        const __m512i high = of_vector(x.high), low = of_vector(x.low);
        unrolled<kRows>([&](auto r) BASIN_INLINE_BODY {
          constexpr int sum = (r() * kVectors + v()) * kSums + (kRows == 1 ? 2 * c() : 0),
                        sum_of_low = kRows == 1 ? sum + 1 : sum;
          sums[sum] = bf16_products(weights[r()], high, sums[sum]);
          sums[sum_of_low] = bf16_products(weights[r()], low, sums[sum_of_low]);
        });
      });
    };
    int64_t i = 0;
    for (; i + C * kPairs <= D; i += C * kPairs)
      unrolled<C>([&](auto c) BASIN_INLINE_BODY {
        __m512i weights[kRows];
        unrolled<kRows>([&](auto r) BASIN_INLINE_BODY {
          const uint16_t* from = at + r() * D + i + c() * kPairs;
          prefetch(from);
          weights[r()] = hn::LoadU(d16, from).raw;
        });
        add(weights, i + c() * kPairs, c);
      });
    for (; i < D; i += kPairs) {
      __m512i weights[kRows];
      unrolled<kRows>([&](auto r) BASIN_INLINE_BODY {
        HWY_ALIGN uint16_t rest[kPairs] = {};
        std::copy(at + r() * D + i, at + r() * D + std::min(D, i + kPairs), rest);
        weights[r()] = hn::Load(d16, rest).raw;
      });
      add(weights, i, std::integral_constant<int, 0>());
    }
    unrolled<kRows>([&](auto r) BASIN_INLINE_BODY {
      store_sums<kVectors, kSums>(sums + r() * kVectors * kSums, w.bias, row + r(), w.rows, y);
    });
  }
}
#endif

bool has_dot_products(const WeightMatrix& w) {
#if HWY_TARGET == HWY_AVX3
  return w.type == WeightType::kBf16 && has_bf16_instruction;
#else
  return static_cast<void>(w), false;
#endif
}

// Activations (count, columns) in the form that the weights want, in memory of the calling thread.
Input prepare(const WeightMatrix& w, int64_t count, const float* x) {
  const int64_t D = w.columns;
  Input input;
  input.x = x;
  if (w.type == WeightType::kQ8) {
    input.scale_stride = D / kQ8Block + kLanes;  // rows end in lanes that are read, not used
    int16_t* values = scratch<int16_t>(count * D);
    float* scales = scratch<float, 1>(count * input.scale_stride);
    for (int64_t n = 0; n < count; ++n)
      quantize_activations(D, x + n * D, values + n * D, scales + n * input.scale_stride);
    input.values = values;
    input.scales = scales;
  }
#if HWY_TARGET == HWY_AVX3
  if (has_dot_products(w)) {
    input.padded = (D + 63) / 64 * 64;
    Bf16* high = scratch<Bf16>(2 * count * input.padded);
    Bf16* low = high + count * input.padded;
    for (int64_t n = 0; n < count; ++n)
      split_activations(
          D, input.padded, x + n * D, high + n * input.padded, low + n * input.padded);
    input.high = high;
    input.low = low;
  }
#endif
  return input;
}

template <int kVectors, int kRows>
void rows_of_type(const WeightMatrix& w, int64_t begin, int64_t end, const Input& x, float* y) {
#if HWY_TARGET == HWY_AVX3
  if (has_dot_products(w)) return dot_rows<kVectors, kRows>(w, begin, end, x, y);
#endif
  switch (w.type) {
    case WeightType::kF32:
      return plain_rows<float, kVectors, kRows>(w, begin, end, x.x, y);
    case WeightType::kBf16:
      return plain_rows<Bf16, kVectors, kRows>(w, begin, end, x.x, y);
    case WeightType::kQ8:
      return q8_rows<kVectors>(w, begin, end, x, y);
  }
}

// Four vectors: rows four at a time, as many sums as there are registers for.
void four_vectors(const WeightMatrix& w, int64_t begin, int64_t end, const Input& x, float* y) {
  const int64_t fours = begin + (end - begin) / 4 * 4;
  rows_of_type<4, 4>(w, begin, fours, x, y);
  rows_of_type<4, 1>(w, fours, end, x, y);
}

// All vectors, up to four at a time; a tile of rows stays in the inner cache for all of them.
void matvec_rows(
    const WeightMatrix& w, int64_t begin, int64_t end, int64_t count, const float* x, float* y) {
  constexpr int64_t kTileRows = 16;
  const Input all = prepare(w, count, x);
  const int64_t step = count > 4 ? kTileRows : end - begin;
  for (int64_t tile = begin; tile < end; tile += step) {
    const int64_t tile_end = std::min(end, tile + step);
    for (int64_t n = 0; n < count;) {
      const Input input = all.from(n, w.columns);
      float* to = y + n * w.rows;
      if (const int64_t left = count - n; left >= 4) {
        four_vectors(w, tile, tile_end, input, to), n += 4;
      } else if (left >= 2) {
        rows_of_type<2, 1>(w, tile, tile_end, input, to), n += 2;
      } else {
        rows_of_type<1, 1>(w, tile, tile_end, input, to), n += 1;
      }
    }
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace basin::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace basin::kernels {

namespace {

HWY_EXPORT(matvec_rows);
HWY_EXPORT(quantize_blocks);

}  // namespace

void matvec(
    const WeightMatrix& w, int64_t begin, int64_t end, int64_t count, const float* x, float* y) {
  HWY_DYNAMIC_DISPATCH(matvec_rows)(w, begin, end, count, x, y);
}

void quantize_q8(int64_t n, const float* w, int8_t* values, uint16_t* scales) {
  HWY_DYNAMIC_DISPATCH(quantize_blocks)(n, w, values, scales);
}

}  // namespace basin::kernels
#endif  // HWY_ONCE
