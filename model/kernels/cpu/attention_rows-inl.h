// Rows of attention's operands, compiled once per instruction set: load and store as fp32 or bf16,
// rotate and scale on the way, dot products, transposes. Reads and writes exactly the row.
#if defined(BASIN_ATTENTION_ROWS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef BASIN_ATTENTION_ROWS_INL_H_
#undef BASIN_ATTENTION_ROWS_INL_H_
#else
#define BASIN_ATTENTION_ROWS_INL_H_
#endif

#include "model/kernels/cpu/attention_micro-inl.h"

namespace basin::kernels::HWY_NAMESPACE {
namespace {

template <class D>
HWY_INLINE hn::Vec<D> load_floats(D d, const float* p) {
  return hn::LoadU(d, p);
}
template <class D>
HWY_INLINE hn::Vec<D> load_floats(D d, const Bf16* p) {
  const hn::Rebind<uint16_t, D> d16;
  const hn::Rebind<uint32_t, D> d32;
  return hn::BitCast(
      d,
      hn::ShiftLeft<16>(hn::PromoteTo(d32, hn::LoadU(d16, reinterpret_cast<const uint16_t*>(p)))));
}
template <class D>
HWY_INLINE void store_floats(hn::Vec<D> x, D d, float* p) {
  hn::StoreU(x, d, p);
}
/// Rounds to nearest even.
template <class D>
HWY_INLINE void store_floats(hn::Vec<D> x, D, Bf16* p) {
  const hn::Rebind<uint16_t, D> d16;
  const hn::Rebind<uint32_t, D> d32;
  const hn::Rebind<int32_t, D> di;
#ifdef __AVX512BF16__
  if constexpr (hn::MaxLanes(D()) == 16) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p),
                        reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(x.raw)));
    return;
  }
#endif
  const auto bits = hn::BitCast(d32, x);
  const auto odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(d32, 1u));
  const auto rounded = hn::ShiftRight<16>(hn::Add(bits, hn::Add(odd, hn::Set(d32, 0x7fffu))));
  hn::StoreU(hn::DemoteTo(d16, hn::BitCast(di, rounded)), d16, reinterpret_cast<uint16_t*>(p));
}

/// Calls f(tag, i) for spans that cover [begin, end) exactly: whole vectors, then ever shorter
/// ones.
template <class D, class F>
HWY_INLINE void for_spans(D d, int64_t begin, int64_t end, const F& f) {
  constexpr int64_t lanes = hn::MaxLanes(D());
  for (; begin + lanes <= end; begin += lanes) f(d, begin);
  if constexpr (lanes > 1) {
    if (begin < end) for_spans(hn::Half<D>(), begin, end, f);
  }
}

/// One row of a head: src (K) -> dst (K), times `scale`, with the first 2 * half dimensions rotated
/// by the angles whose cosine and sine are given (half each); sign -1 undoes a rotation.
template <class From, class To>
struct RowCopy {
  const From* src;
  To* dst;
  const float *cos, *sin;
  int64_t half;
  float sign, scale;
};

template <class From, class To>
struct RotatedSpan {
  const RowCopy<From, To>& row;
  template <class D>
  HWY_INLINE void operator()(D d, int64_t i) const {
    const auto x = load_floats(d, row.src + i), y = load_floats(d, row.src + row.half + i);
    const auto scale = hn::Set(d, row.scale);
    const auto c = hn::Mul(hn::LoadU(d, row.cos + i), scale),
               s = hn::Mul(hn::LoadU(d, row.sin + i), hn::Set(d, row.sign * row.scale));
    store_floats(hn::NegMulAdd(y, s, hn::Mul(x, c)), d, row.dst + i);
    store_floats(hn::MulAdd(x, s, hn::Mul(y, c)), d, row.dst + row.half + i);
  }
};
template <class From, class To>
struct PlainSpan {
  const RowCopy<From, To>& row;
  template <class D>
  HWY_INLINE void operator()(D d, int64_t i) const {
    store_floats(hn::Mul(load_floats(d, row.src + i), hn::Set(d, row.scale)), d, row.dst + i);
  }
};
template <class From, class To>
HWY_INLINE void copy_row(const RowCopy<From, To>& row, int64_t K) {
  for_spans(Floats(), 0, row.half, RotatedSpan<From, To>{row});
  for_spans(Floats(), 2 * row.half, K, PlainSpan<From, To>{row});
}

template <class Float>
struct DotSpan {
  const float* x;
  const Float* y;
  float& sum;
  template <class D>
  HWY_INLINE void operator()(D d, int64_t i) const {
    sum += hn::GetLane(hn::SumOfLanes(d, hn::Mul(hn::LoadU(d, x + i), load_floats(d, y + i))));
  }
};
/// Sum of x[i] y[i].
template <class Float>
HWY_INLINE float dot_row(const float* x, const Float* y, int64_t n) {
  const Floats d;
  const int64_t whole = n / kLanes * kLanes;
  V lanes = hn::Zero(d);
  for (int64_t i = 0; i < whole; i += kLanes)
    lanes = hn::MulAdd(hn::LoadU(d, x + i), load_floats(d, y + i), lanes);
  float sum = hn::GetLane(hn::SumOfLanes(d, lanes));
  for_spans(d, whole, n, DotSpan<Float>{x, y, sum});
  return sum;
}

/// src (rows, columns), row stride src_row -> dst (columns, rows), row stride dst_row. Both counts
/// are rounded up to 4: the memory must be there.
HWY_INLINE void transpose(const float* HWY_RESTRICT src,
                          int64_t src_row,
                          int64_t rows,
                          int64_t columns,
                          float* HWY_RESTRICT dst,
                          int64_t dst_row) {
  const hn::FixedTag<float, 4> d;
  const hn::FixedTag<double, 2> d64;
  for (int64_t i = 0; i < rows; i += 4) {
    for (int64_t j = 0; j < columns; j += 4) {
      const float* p = src + i * src_row + j;
      float* q = dst + j * dst_row + i;
      const auto r0 = hn::LoadU(d, p), r1 = hn::LoadU(d, p + src_row),
                 r2 = hn::LoadU(d, p + 2 * src_row), r3 = hn::LoadU(d, p + 3 * src_row);
      const auto low01 = hn::BitCast(d64, hn::InterleaveLower(d, r0, r1)),
                 high01 = hn::BitCast(d64, hn::InterleaveUpper(d, r0, r1));
      const auto low23 = hn::BitCast(d64, hn::InterleaveLower(d, r2, r3)),
                 high23 = hn::BitCast(d64, hn::InterleaveUpper(d, r2, r3));
      hn::StoreU(hn::BitCast(d, hn::InterleaveLower(d64, low01, low23)), d, q);
      hn::StoreU(hn::BitCast(d, hn::InterleaveUpper(d64, low01, low23)), d, q + dst_row);
      hn::StoreU(hn::BitCast(d, hn::InterleaveLower(d64, high01, high23)), d, q + 2 * dst_row);
      hn::StoreU(hn::BitCast(d, hn::InterleaveUpper(d64, high01, high23)), d, q + 3 * dst_row);
    }
  }
}

}  // namespace
}  // namespace basin::kernels::HWY_NAMESPACE
#endif
