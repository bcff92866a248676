// Products with 8-bit weights in blocks of kQ8Block with an fp16 scale each. The sums of a block
// are exact integers: 8-bit weights meet activations of 16 bits. (As fp32 too, but for the last bit
// with SSE4.)
#if defined(BASIN_KERNELS_MATVEC_Q8_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef BASIN_KERNELS_MATVEC_Q8_INL_H_
#undef BASIN_KERNELS_MATVEC_Q8_INL_H_
#else
#define BASIN_KERNELS_MATVEC_Q8_INL_H_
#endif

#include <algorithm>
#include <cmath>

#include "model/kernels/cpu/matvec_sums-inl.h"
#include "model/kernels/cpu/parallel.h"

HWY_BEFORE_NAMESPACE();
namespace basin::kernels {
namespace HWY_NAMESPACE {

#if HWY_TARGET != HWY_SCALAR
using Lanes16 = hn::Repartition<int16_t, Lanes32>;
constexpr int64_t kWords = hn::MaxLanes(Lanes16());

HWY_INLINE hn::Vec<Lanes16> widened(const int8_t* p) {
  return hn::PromoteTo(Lanes16(), hn::LoadU(hn::Rebind<int8_t, Lanes16>(), p));
}
HWY_INLINE hn::Vec<Lanes16> words(const int16_t* p) {
  return hn::LoadU(Lanes16(), p);
}
using Integers = hn::Vec<hn::Repartition<int32_t, Lanes16>>;
// Sums of two neighbouring products: as many as there are fp32 lanes.
HWY_INLINE Integers pair_products(hn::Vec<Lanes16> a, hn::Vec<Lanes16> b) {
#if HWY_TARGET == HWY_AVX3
  return Integers{_mm512_madd_epi16(a.raw, b.raw)};
#elif HWY_TARGET == HWY_AVX2
  return Integers{_mm256_madd_epi16(a.raw, b.raw)};
#else
  return Integers{_mm_madd_epi16(a.raw, b.raw)};
#endif
}
HWY_INLINE Integers plus(Integers a, Integers b) {
  return hn::Add(a, b);
}
HWY_INLINE Vector to_float(Integers x) {
  return hn::ConvertTo(Lanes32(), x);
}
#else  // one element at a time
constexpr int64_t kWords = 1;
HWY_INLINE int32_t widened(const int8_t* p) {
  return *p;
}
HWY_INLINE int32_t words(const int16_t* p) {
  return *p;
}
HWY_INLINE int32_t pair_products(int32_t a, int32_t b) {
  return a * b;
}
HWY_INLINE int32_t plus(int32_t a, int32_t b) {
  return a + b;
}
HWY_INLINE Vector to_float(int32_t x) {
  return constant(static_cast<float>(x));
}
#endif

// Activations for 8-bit weights: 16 bits with a scale for each block, so that what they lose is far
// below what the weights have lost already. What is not finite makes its block's scale NaN.
inline void quantize_activations(int64_t n, const float* x, int16_t* values, float* scales) {
  const hn::Rebind<int16_t, Lanes32> half;
  for (int64_t block = 0; block < n / kQ8Block; ++block) {
    const float* at = x + block * kQ8Block;
    Vector largest = constant(0), poison = constant(0);  // the maximum may lose a NaN
    for (int64_t i = 0; i < kQ8Block; i += kLanes) {
      const Vector value = load(at + i, Whole());
      largest = hn::Max(largest, hn::Abs(value));
      poison = hn::MulAdd(value, constant(0), poison);
    }
    const float top = hn::GetLane(hn::MaxOfLanes(Lanes32(), largest));
    scales[block] = top / 32767.0f + hn::GetLane(hn::SumOfLanes(Lanes32(), poison));
    const Vector inverse = constant(top == 0 ? 0 : 32767.0f / top);
    for (int64_t i = 0; i < kQ8Block; i += kLanes)
      hn::StoreU(hn::DemoteTo(half, hn::NearestInt(hn::Mul(load(at + i, Whole()), inverse))),
                 half,
                 values + block * kQ8Block + i);
  }
}

// fp16 scales of a row as fp32; writes up to kLanes - 1 more than asked for.
HWY_INLINE void widen_scales(int64_t blocks, const uint16_t* scales, float* wide) {
  const hn::Rebind<hwy::float16_t, Lanes32> d16;
  const hn::Rebind<uint16_t, Lanes32> bits;
  for (int64_t i = 0; i < blocks; i += kLanes)
    hn::StoreU(hn::PromoteTo(Lanes32(), hn::BitCast(d16, hn::LoadU(bits, scales + i))),
               Lanes32(),
               wide + i);
}

template <int kVectors>
HWY_INLINE void q8_rows(
    const WeightMatrix& w, int64_t begin, int64_t end, const Input& x, float* y) {
  constexpr int C = kChains<kVectors>;
  const int64_t D = w.columns, blocks = D / kQ8Block, padded = blocks + kLanes;
  float* scales = scratch<float>((1 + kVectors) * padded);  // of the row, and times each input's
  for (int64_t row = begin; row < end; ++row) {
    const int8_t* at = static_cast<const int8_t*>(w.data) + row * D;
    widen_scales(blocks, w.scales + row * blocks, scales);
    for (int v = 0; v < kVectors; ++v)
      for (int64_t b = 0; b < blocks; b += kLanes)
        hn::StoreU(hn::Mul(hn::LoadU(Lanes32(), scales + b),
                           hn::LoadU(Lanes32(), x.scales + v * x.scale_stride + b)),
                   Lanes32(),
                   scales + (1 + v) * padded + b);
    Vector sums[kVectors * C];
    for (Vector& sum : sums) sum = constant(0);
    const auto add_block = [&](int64_t b, int c) BASIN_INLINE_BODY {
      constexpr int kParts = kQ8Block / kWords;
      const int8_t* from = at + b * kQ8Block;
      prefetch(from);
      decltype(widened(from)) weight[kParts];
      unrolled<kParts>([&](auto i)
                           BASIN_INLINE_BODY { weight[i()] = widened(from + i() * kWords); });
      for (int v = 0; v < kVectors; ++v) {
        const int16_t* values = x.values + v * D + b * kQ8Block;
        auto products = pair_products(weight[0], words(values));
        unrolled<kParts - 1>([&](auto i) BASIN_INLINE_BODY {
          constexpr int part = i() + 1;
          products = plus(products, pair_products(weight[part], words(values + part * kWords)));
        });
        sums[v * C + c] =
            hn::MulAdd(to_float(products), constant(scales[(1 + v) * padded + b]), sums[v * C + c]);
      }
    };
    int64_t block = 0;
    for (; block + C <= blocks; block += C)
      for (int c = 0; c < C; ++c) add_block(block + c, c);
    for (; block < blocks; ++block) add_block(block, 0);
    store_sums<kVectors, C>(sums, w.bias, row, w.rows, y);
  }
}

/// Weights (n) as such blocks: values (n), scales (n / kQ8Block).
inline void quantize_blocks(int64_t n, const float* w, int8_t* values, uint16_t* scales) {
  const hn::Rebind<hwy::float16_t, Lanes32> d16;
  const hn::Rebind<uint16_t, Lanes32> bits;
  for (int64_t block = 0; block < n / kQ8Block; ++block) {
    const float* at = w + block * kQ8Block;
    float largest = 0;
    for (int64_t i = 0; i < kQ8Block; ++i) largest = std::max(largest, std::abs(at[i]));
    HWY_ALIGN uint16_t lanes[kLanes];
    hn::Store(hn::BitCast(bits, hn::DemoteTo(d16, constant(largest / 127.0f))), bits, lanes);
    scales[block] = lanes[0];
    HWY_ALIGN float wide[kLanes];
    widen_scales(1, lanes, wide);
    for (int64_t i = 0; i < kQ8Block; ++i)
      values[block * kQ8Block + i] =
          wide[0] == 0
              ? int8_t{0}
              : static_cast<int8_t>(std::clamp(std::nearbyint(at[i] / wide[0]), -127.0f, 127.0f));
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace basin::kernels
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard
