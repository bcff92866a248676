// The panels of a matrix product in fp32 arithmetic, for every instruction set that Highway
// dispatches to: a word is a float, elements are widened as they are packed.
#include <algorithm>

#include "model/kernels/cpu/gemm_kernel.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "model/kernels/cpu/gemm_fp32.cpp"
#include "hwy/foreach_target.h"
#include "model/kernels/cpu/vectors-inl.h"

HWY_BEFORE_NAMESPACE();
namespace basin::kernels {
namespace HWY_NAMESPACE {
namespace {

// A tile's sums, two vectors of b and one of a are 31 registers, or 15.
constexpr int64_t kRows = HWY_TARGET <= HWY_AVX3 ? 14 : 6, kColumns = 2 * kLanes;
static_assert(kRows * kColumns <= kLargestTile);
constexpr int64_t kBlock = 16;  // of depth, packed at once from rows that are not contiguous in it

float widen(Bf16 x) {
  return hwy::F32FromBF16(hwy::bfloat16_t{x.bits});
}

template <class D>
HWY_INLINE hn::Vec<D> widen(D d, const Bf16* p) {
  const hn::Rebind<uint32_t, D> d32;
  const hn::Rebind<uint16_t, D> d16;
  return hn::BitCast(d, hn::ShiftLeft<16>(hn::PromoteTo(d32, hn::LoadU(d16, &p->bits))));
}

// body(row, tag of as many lanes as rows are taken at once) over the rows of a panel, kMost at a
// time.
template <int64_t kMost, int64_t kLeft, class Body>
HWY_INLINE void for_strips(int64_t row, const Body& body) {
  if constexpr (kLeft > 0) {
    constexpr int64_t kStrip = kLeft >= kMost ? kMost : kLeft >= 4 ? 4 : 2;
    body(row, hn::CappedTag<float, kStrip>());
    for_strips<kMost, kLeft - kStrip>(row + kStrip, body);
  }
}

// Four rows whose depth is contiguous, or two -> words (depth, kWidth) from `to` on.
template <int64_t kWidth, class D>
HWY_INLINE void pack_rows(D d, const Bf16* from, int64_t stride, int64_t depth, float* to) {
  constexpr int64_t kStrip = hn::MaxLanes(D());
  const hn::FixedTag<float, 4> d4;
  int64_t k = 0;
  for (; k + 4 <= depth; k += 4) {
    const Bf16* at = from + k;
    const auto r0 = widen(d4, at), r1 = widen(d4, at + stride);
    const auto low = hn::InterleaveLower(d4, r0, r1), high = hn::InterleaveUpper(d4, r0, r1);
    float* word = to + k * kWidth;
    if constexpr (kStrip == 4) {
      const auto r2 = widen(d4, at + 2 * stride), r3 = widen(d4, at + 3 * stride);
      const auto low2 = hn::InterleaveLower(d4, r2, r3), high2 = hn::InterleaveUpper(d4, r2, r3);
      hn::StoreU(hn::ConcatLowerLower(d4, low2, low), d4, word);
      hn::StoreU(hn::ConcatUpperUpper(d4, low2, low), d4, word + kWidth);
      hn::StoreU(hn::ConcatLowerLower(d4, high2, high), d4, word + 2 * kWidth);
      hn::StoreU(hn::ConcatUpperUpper(d4, high2, high), d4, word + 3 * kWidth);
    } else {
      hn::StoreU(hn::LowerHalf(d, low), d, word);
      hn::StoreU(hn::UpperHalf(d, low), d, word + kWidth);
      hn::StoreU(hn::LowerHalf(d, high), d, word + 2 * kWidth);
      hn::StoreU(hn::UpperHalf(d, high), d, word + 3 * kWidth);
    }
  }
  for (; k < depth; ++k)
    for (int64_t i = 0; i < kStrip; ++i) to[k * kWidth + i] = widen(from[i * stride + k]);
}

template <int64_t kWidth>
void pack(const GemmOperand& x, const Panels& panels, uint32_t* packed) {
  const auto [rows, begin, end, k0, depth, words] = panels;
  const auto panel_at = [&](int64_t panel) {
    return reinterpret_cast<float*>(packed) + (panel - begin) * words * kWidth;
  };
  if (!x.transposed) {
    for (int64_t panel = begin; panel < end; ++panel) {
      float* to = panel_at(panel);
      const Bf16* from = x.data + panel * kWidth * x.stride + k0;
      const int64_t exist = std::min(kWidth, rows - panel * kWidth);
      for_strips<4, kWidth>(0, [&](int64_t row, auto d) BASIN_INLINE_BODY {
        if (row + static_cast<int64_t>(hn::MaxLanes(d)) <= exist) {
          pack_rows<kWidth>(d, from + row * x.stride, x.stride, depth, to + row);
        } else {
          for (; row < exist; ++row)
            for (int64_t k = 0; k < depth; ++k)
              to[k * kWidth + row] = widen(from[row * x.stride + k]);
        }
      });
    }
    return;
  }
  // A few words of all panels at a time: memory is read in its order, and panels, which may lie a
  // multiple of a page apart, are not thrown out of the inner cache between two words.
  for (int64_t block = 0; block < depth; block += kBlock) {
    for (int64_t panel = begin; panel < end; ++panel) {
      const Bf16* from = x.data + k0 * x.stride + panel * kWidth;
      float* to = panel_at(panel);
      const int64_t exist = std::min(kWidth, rows - panel * kWidth);
      for (int64_t k = block; k < std::min(depth, block + kBlock); ++k) {
        const Bf16* at = from + k * x.stride;
        if (exist == kWidth) {
          __builtin_prefetch(at + kBlock * x.stride);
          for_strips<kLanes, kWidth>(0, [&](int64_t row, auto d) BASIN_INLINE_BODY {
            hn::StoreU(widen(d, at + row), d, to + k * kWidth + row);
          });
        } else {
          for (int64_t row = 0; row < exist; ++row) to[k * kWidth + row] = widen(at[row]);
        }
      }
    }
  }
}

// A panel of a times a panel of b; use(row, half, sum) takes the sums of their tile from registers.
template <class Use>
HWY_INLINE void multiply(const uint32_t* a_words,
                         const uint32_t* b_words,
                         int64_t words,
                         const Use& use) {
  const Lanes32 d;
  const float *HWY_RESTRICT a = reinterpret_cast<const float*>(a_words),
                            *HWY_RESTRICT b = reinterpret_cast<const float*>(b_words);
  Vector sum[2 * kRows];
  unrolled<2 * kRows>([&](auto i) BASIN_INLINE_BODY { sum[i()] = constant(0); });
#pragma GCC unroll 4
  for (int64_t w = 0; w < words; ++w) {
    const Vector b0 = hn::Load(d, b), b1 = hn::Load(d, b + kLanes);
    unrolled<kRows>([&](auto i) BASIN_INLINE_BODY {
      const Vector value = hn::Set(d, a[i()]);
      sum[2 * i()] = hn::MulAdd(value, b0, sum[2 * i()]);
      sum[2 * i() + 1] = hn::MulAdd(value, b1, sum[2 * i() + 1]);
    });
    a += kRows;
    b += kColumns;
  }
  unrolled<2 * kRows>([&](auto i) BASIN_INLINE_BODY {
    use(static_cast<int64_t>(i()) / 2, i() % 2 * kLanes, sum[i()]);
  });
}

void multiply_to_tile(const uint32_t* a, const uint32_t* b, int64_t words, float* tile) {
  multiply(a, b, words, [&](int64_t row, int64_t half, Vector sum) BASIN_INLINE_BODY {
    hn::Store(sum, Lanes32(), tile + row * kColumns + half);
  });
}

void multiply_to_c(const uint32_t* a, const uint32_t* b, int64_t words, int64_t N, Bf16* c) {
  multiply(a, b, words, [&](int64_t row, int64_t half, Vector sum) BASIN_INLINE_BODY {
    store(sum, c + row * N + half, Whole());
  });
}

void finish(const Gemm& call, int64_t row, int64_t column, const float* tile) {
  const int64_t rows = std::min(kRows, call.M - row);
  for_vectors(std::min(kColumns, call.N - column), [&](int64_t i, auto lanes) BASIN_INLINE_BODY {
    const Vector bias = call.bias ? load(call.bias + column + i, lanes) : constant(0);
    for (int64_t r = 0; r < rows; ++r)
      store(hn::Add(load(tile + r * kColumns + i, Whole()), bias),
            call.c + (row + r) * call.N + column + i,
            lanes);
  });
}

GemmKernel kernel() {
#if HWY_TARGET == HWY_AVX3
  if (has_bf16_instruction) return gemm_kernel_of_pairs();
#endif
  return {.rows = kRows,
          .columns = kColumns,
          .pair = 1,
          .most_depth = 1536,
          .cache = 224 << 10,  // of a second cache of 512 KiB
          .pack_a = pack<kRows>,
          .pack_b = pack<kColumns>,
          .multiply = multiply_to_tile,
          .multiply_to_c = multiply_to_c,
          .finish = finish};
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace basin::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace basin::kernels {

HWY_EXPORT(kernel);

GemmKernel gemm_kernel() {
  return HWY_DYNAMIC_DISPATCH(kernel)();
}

}  // namespace basin::kernels
#endif  // HWY_ONCE
