// Products of a weight matrix with a few vectors. Bound by reading the weights: each is read once,
// widened to fp32 in a register and meets all vectors there.
#include <algorithm>
#include <cmath>
#include <vector>

#include "model/kernels/cpu/decode.h"
#include "model/kernels/cpu/parallel.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "model/kernels/cpu/matvec.cpp"
#include "hwy/foreach_target.h"
#include "model/kernels/cpu/vectors-inl.h"

HWY_BEFORE_NAMESPACE();
namespace basin::kernels {
namespace HWY_NAMESPACE {

// Independent sums of a product: enough to hide the latency of an addition, few enough for the
// registers.
template <int kVectors>
constexpr int kChains = kVectors == 1   ? 4
                        : kVectors == 2 ? 2
                                        : 1;

template <int kVectors>
HWY_INLINE void store_sums(
    const Vector* sums, const float* bias, int64_t row, int64_t rows, float* y) {
  constexpr int C = kChains<kVectors>;
  for (int v = 0; v < kVectors; ++v) {
    Vector sum = sums[v * C];
    for (int c = 1; c < C; ++c) sum = hn::Add(sum, sums[v * C + c]);
    y[v * rows + row] = hn::GetLane(hn::SumOfLanes(Lanes32(), sum)) + (bias ? bias[row] : 0);
  }
}

template <class Float, int kVectors>
HWY_INLINE void plain_rows(
    const WeightMatrix& w, int64_t begin, int64_t end, const float* x, float* y) {
  constexpr int C = kChains<kVectors>;
  const int64_t D = w.columns;
  for (int64_t row = begin; row < end; ++row) {
    const Float* at = static_cast<const Float*>(w.data) + row * D;
    Vector sums[kVectors * C];
    for (Vector& sum : sums) sum = constant(0);
    int64_t i = 0;
    for (; i + C * kLanes <= D; i += C * kLanes)
      for (int c = 0; c < C; ++c) {
        const Vector weight = load(at + i + c * kLanes, Whole());
        for (int v = 0; v < kVectors; ++v)
          sums[v * C + c] =
              hn::MulAdd(weight, load(x + v * D + i + c * kLanes, Whole()), sums[v * C + c]);
      }
    for_vectors(D - i, [&](int64_t j, auto lanes) BASIN_INLINE_BODY {
      const Vector weight = load(at + i + j, lanes);
      for (int v = 0; v < kVectors; ++v)
        sums[v * C] = hn::MulAdd(weight, load(x + v * D + i + j, lanes), sums[v * C]);
    });
    store_sums<kVectors>(sums, w.bias, row, w.rows, y);
  }
}

HWY_INLINE Vector widened(const int8_t* p) {
  return hn::ConvertTo(
      Lanes32(),
      hn::PromoteTo(hn::Rebind<int32_t, Lanes32>(), hn::LoadU(hn::Rebind<int8_t, Lanes32>(), p)));
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
    const WeightMatrix& w, int64_t begin, int64_t end, const float* x, float* y) {
  constexpr int C = kChains<kVectors>;
  const int64_t D = w.columns, blocks = D / kQ8Block;
  float* scales = scratch<float>(blocks + kLanes);
  for (int64_t row = begin; row < end; ++row) {
    const int8_t* at = static_cast<const int8_t*>(w.data) + row * D;
    widen_scales(blocks, w.scales + row * blocks, scales);
    Vector sums[kVectors * C];
    for (Vector& sum : sums) sum = constant(0);
    int64_t block = 0;
    const auto add_block = [&](int64_t b, int c) BASIN_INLINE_BODY {
      const Vector scale = constant(scales[b]);
      Vector products[kVectors];
      for (int64_t j = 0; j < kQ8Block; j += kLanes) {
        const int64_t i = b * kQ8Block + j;
        const Vector weight = widened(at + i);
        for (int v = 0; v < kVectors; ++v) {
          const Vector value = load(x + v * D + i, Whole());
          products[v] = j == 0 ? hn::Mul(weight, value) : hn::MulAdd(weight, value, products[v]);
        }
      }
      for (int v = 0; v < kVectors; ++v)
        sums[v * C + c] = hn::MulAdd(products[v], scale, sums[v * C + c]);
    };
    for (; block + C <= blocks; block += C)
      for (int c = 0; c < C; ++c) add_block(block + c, c);
    for (; block < blocks; ++block) add_block(block, 0);
    store_sums<kVectors>(sums, w.bias, row, w.rows, y);
  }
}

template <int kVectors>
void rows_of_type(const WeightMatrix& w, int64_t begin, int64_t end, const float* x, float* y) {
  switch (w.type) {
    case WeightType::kF32:
      return plain_rows<float, kVectors>(w, begin, end, x, y);
    case WeightType::kBf16:
      return plain_rows<Bf16, kVectors>(w, begin, end, x, y);
    case WeightType::kQ8:
      return q8_rows<kVectors>(w, begin, end, x, y);
  }
}

// All vectors, up to eight at a time; a tile of rows stays in the inner cache for all of them.
void matvec_rows(
    const WeightMatrix& w, int64_t begin, int64_t end, int64_t count, const float* x, float* y) {
  constexpr int64_t kTileRows = 16;
  for (int64_t tile = begin; tile < end; tile += kTileRows) {
    const int64_t tile_end = count > 8 ? std::min(end, tile + kTileRows) : end;
    for (int64_t n = 0; n < count;) {
      const float* from = x + n * w.columns;
      float* to = y + n * w.rows;
      if (const int64_t left = count - n; left >= 8) {
        rows_of_type<8>(w, tile, tile_end, from, to), n += 8;
      } else if (left >= 4) {
        rows_of_type<4>(w, tile, tile_end, from, to), n += 4;
      } else if (left >= 2) {
        rows_of_type<2>(w, tile, tile_end, from, to), n += 2;
      } else {
        rows_of_type<1>(w, tile, tile_end, from, to), n += 1;
      }
    }
    if (count <= 8) break;
  }
}

void quantize_blocks(int64_t n, const float* w, int8_t* values, uint16_t* scales) {
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
