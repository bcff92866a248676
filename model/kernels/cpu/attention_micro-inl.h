// Building blocks of the attention kernels, compiled once per instruction set: register-blocked
// products and exp2. A `word` is 32 bits: one float, or two bf16 that are neighbours along the
// contracted dimension. `Policy` says which, so that one algorithm serves fp32 FMA (a word is a
// float) and bf16 dot products (a word is a pair). Words are moved as floats and never computed
// with as such.
#if defined(BASIN_ATTENTION_MICRO_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef BASIN_ATTENTION_MICRO_INL_H_
#undef BASIN_ATTENTION_MICRO_INL_H_
#else
#define BASIN_ATTENTION_MICRO_INL_H_
#endif

namespace basin::kernels::HWY_NAMESPACE {
namespace {

namespace hn = hwy::HWY_NAMESPACE;
using Floats = hn::ScalableTag<float>;
using V = hn::Vec<Floats>;

constexpr int64_t kLanes = HWY_LANES(float);
constexpr int64_t kRows =
    HWY_TARGET <= HWY_AVX3 ? 8 : 4;       // a register block is kRows x 2 vectors of accumulators
constexpr int64_t kQueries = 2 * kLanes;  // a tile of queries lies across two vectors

constexpr int64_t round_up(int64_t n, int64_t multiple) {
  return (n + multiple - 1) / multiple * multiple;
}

/// Where the left operand's word (row m, contraction step s) lies: base[m * row + s * step].
struct Left {
  const float* base;
  int64_t row, step;
};

/// c[m][v] += sum over s of left(m, s) . right[s * right_step + v * lanes], kRows rows and kColumns
/// vectors.
template <class Policy, class D, int kColumns>
HWY_INLINE void multiply_add(D d,
                             const Left& left,
                             const float* HWY_RESTRICT right,
                             int64_t right_step,
                             int64_t steps,
                             hn::Vec<D> (&c)[kRows][kColumns]) {
  const float* HWY_RESTRICT a = left.base;
  for (int64_t s = 0; s < steps; ++s) {
    hn::Vec<D> b[kColumns];
#pragma GCC unroll 2
    for (int v = 0; v < kColumns; ++v) b[v] = hn::Load(d, right + v * hn::MaxLanes(d));
#pragma GCC unroll 8
    for (int m = 0; m < kRows; ++m) {
      const hn::Vec<D> broadcast = hn::Set(d, a[m * left.row]);
#pragma GCC unroll 2
      for (int v = 0; v < kColumns; ++v) c[m][v] = Policy::dot(broadcast, b[v], c[m][v]);
    }
    a += left.step;
    right += right_step;
  }
}

/// The same, onto a block of fp32 in memory: c (kRows, kColumns vectors), row stride c_row.
template <class Policy, class D, int kColumns>
HWY_INLINE void multiply_add_to(D d,
                                const Left& left,
                                const float* HWY_RESTRICT right,
                                int64_t right_step,
                                int64_t steps,
                                float* HWY_RESTRICT c,
                                int64_t c_row) {
  hn::Vec<D> sum[kRows][kColumns];
#pragma GCC unroll 8
  for (int m = 0; m < kRows; ++m) {
#pragma GCC unroll 2
    for (int v = 0; v < kColumns; ++v) sum[m][v] = hn::Load(d, c + m * c_row + v * hn::MaxLanes(d));
  }
  multiply_add<Policy>(d, left, right, right_step, steps, sum);
#pragma GCC unroll 8
  for (int m = 0; m < kRows; ++m) {
#pragma GCC unroll 2
    for (int v = 0; v < kColumns; ++v) hn::Store(sum[m][v], d, c + m * c_row + v * hn::MaxLanes(d));
  }
}

/// The same for one and a half vectors of columns (head size 24 on AVX-512), so that each word of
/// the left operand is still loaded once.
template <class Policy>
HWY_INLINE void multiply_add_to_mixed(const Left& left,
                                      const float* HWY_RESTRICT right,
                                      int64_t right_step,
                                      int64_t steps,
                                      float* HWY_RESTRICT c,
                                      int64_t c_row) {
  const Floats d;
  const hn::Half<Floats> dh;
  V sum[kRows];
  hn::Vec<hn::Half<Floats>> half_sum[kRows];
#pragma GCC unroll 8
  for (int m = 0; m < kRows; ++m) {
    sum[m] = hn::Load(d, c + m * c_row);
    half_sum[m] = hn::Load(dh, c + m * c_row + kLanes);
  }
  const float* HWY_RESTRICT a = left.base;
  for (int64_t s = 0; s < steps; ++s) {
    const auto b = hn::Load(d, right);
    const auto half_b = hn::Load(dh, right + kLanes);
#pragma GCC unroll 8
    for (int m = 0; m < kRows; ++m) {
      const V broadcast = hn::Set(d, a[m * left.row]);
      sum[m] = Policy::dot(broadcast, b, sum[m]);
      half_sum[m] = Policy::dot(hn::LowerHalf(dh, broadcast), half_b, half_sum[m]);
    }
    a += left.step;
    right += right_step;
  }
#pragma GCC unroll 8
  for (int m = 0; m < kRows; ++m) {
    hn::Store(sum[m], d, c + m * c_row);
    hn::Store(half_sum[m], dh, c + m * c_row + kLanes);
  }
}

/// The same for `columns` columns, a multiple of half a vector; right and c have rows of `stride`
/// words, a multiple of a vector.
template <class Policy>
HWY_INLINE void multiply_add_columns(const Left& left,
                                     const float* HWY_RESTRICT right,
                                     int64_t steps,
                                     float* HWY_RESTRICT c,
                                     int64_t columns,
                                     int64_t stride) {
  const Floats d;
  int64_t n = 0;
  for (; n + 2 * kLanes <= columns; n += 2 * kLanes)
    multiply_add_to<Policy, Floats, 2>(d, left, right + n, stride, steps, c + n, stride);
  if (columns - n > kLanes) {
    multiply_add_to_mixed<Policy>(left, right + n, stride, steps, c + n, stride);
  } else if (columns - n == kLanes) {
    multiply_add_to<Policy, Floats, 1>(d, left, right + n, stride, steps, c + n, stride);
  } else if (columns > n) {
    multiply_add_to<Policy, hn::Half<Floats>, 1>(
        hn::Half<Floats>(), left, right + n, stride, steps, c + n, stride);
  }
}

/// 2^x by a minimax polynomial of the fraction, relative error 7.5e-8 (degree 5) or 7.5e-5 (degree
/// 3, enough before rounding to bf16). 0 for x below -127 (or the gradual underflow there); NaN
/// stays NaN.
template <int kDegree>
HWY_INLINE V exp2(V x) {
  const Floats d;
#if HWY_TARGET <= HWY_AVX3
  const V fraction{_mm512_reduce_ps(x.raw, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC)};
#else
  x = hn::Max(hn::Set(d, -127.0f), x);  // in this order a NaN passes
  const V whole = hn::Floor(x);
  const V fraction = hn::Sub(x, whole);
#endif
  V y;
  if constexpr (kDegree == 3) {
    y = hn::MulAdd(hn::Set(d, 0.0780245227f), fraction, hn::Set(d, 0.226067155f));
    y = hn::MulAdd(y, fraction, hn::Set(d, 0.695833541f));
    y = hn::MulAdd(y, fraction, hn::Set(d, 0.999925219f));
  } else {
    static_assert(kDegree == 5);
    y = hn::MulAdd(hn::Set(d, 0.00187757667f), fraction, hn::Set(d, 0.00898934009f));
    y = hn::MulAdd(y, fraction, hn::Set(d, 0.0558263181f));
    y = hn::MulAdd(y, fraction, hn::Set(d, 0.240153617f));
    y = hn::MulAdd(y, fraction, hn::Set(d, 0.693153073f));
    y = hn::MulAdd(y, fraction, hn::Set(d, 0.999999925f));
  }
#if HWY_TARGET <= HWY_AVX3
  return V{_mm512_scalef_ps(y.raw, x.raw)};  // y * 2^floor(x)
#else
  const hn::RebindToSigned<Floats> di;
  const auto exponent = hn::ShiftLeft<23>(hn::Add(hn::ConvertTo(di, whole), hn::Set(di, 127)));
  return hn::Mul(y, hn::BitCast(d, exponent));
#endif
}

/// Policy for fp32 arithmetic: a word is a float.
struct FloatWords {
  static constexpr int64_t kPair = 1;
  static constexpr int kExpDegree = 5;

  template <class Vector>
  static HWY_INLINE Vector dot(Vector a, Vector b, Vector c) {
    return hn::MulAdd(a, b, c);
  }
  /// Floats (2 * kLanes at a time) -> words that pair neighbours within the row. Writes whole
  /// vectors.
  static HWY_INLINE void pack_row(const float* row, int64_t words, float* dst) {
    const Floats d;
    for (int64_t i = 0; i < words; i += kLanes) hn::StoreU(hn::Load(d, row + i), d, dst + i);
  }
  /// kPair rows -> words that pair one row's element with the next row's. Writes whole vectors.
  static HWY_INLINE void pack_pair(const float* row0,
                                   const float* /*row1*/,
                                   int64_t n,
                                   float* dst) {
    pack_row(row0, n, dst);
  }
  /// A register block -> rows (kRows, kQueries / kPair words): neighbours within the row make a
  /// word.
  static HWY_INLINE void store_rows(const V (&x)[kRows][2], float* rows) {
    const Floats d;
    for (int m = 0; m < kRows; ++m) {
      hn::Store(x[m][0], d, rows + m * kQueries);
      hn::Store(x[m][1], d, rows + m * kQueries + kLanes);
    }
  }
  /// A register block -> pairs (kRows / kPair, kQueries words): neighbouring rows make a word.
  static HWY_INLINE void store_pairs(const V (&x)[kRows][2], float* pairs) { store_rows(x, pairs); }
};

}  // namespace
}  // namespace basin::kernels::HWY_NAMESPACE
#endif
