// Vectors of fp32 lanes over float and bf16 memory, any length. Compiled once for each instruction
// set (Highway's include style).
#if defined(BASIN_KERNELS_VECTORS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef BASIN_KERNELS_VECTORS_INL_H_
#undef BASIN_KERNELS_VECTORS_INL_H_
#else
#define BASIN_KERNELS_VECTORS_INL_H_
#endif

#include <cstddef>
#include <cstdint>
#include <utility>

#include "hwy/highway.h"
#include "model/kernels/cpu/bf16_instruction.h"
#include "model/kernels/kernels.h"

#ifndef BASIN_INLINE_BODY
// Loop bodies are lambdas that are called from several places and must still be inlined.
#define BASIN_INLINE_BODY HWY_ATTR __attribute__((always_inline))
#endif

HWY_BEFORE_NAMESPACE();
namespace basin::kernels {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;
using Lanes32 = hn::ScalableTag<float>;
using Vector = hn::Vec<Lanes32>;

constexpr int64_t kLanes = hn::MaxLanes(Lanes32());

/// A vector's position relative to the end of its array: all lanes exist, or the first `count`.
struct Whole {};
struct Part {
  int64_t count;
};

HWY_INLINE Vector constant(float value) {
  return hn::Set(Lanes32(), value);
}

/// v as bf16, rounded to nearest even; NaN stays NaN.
HWY_INLINE hn::Vec<hn::Rebind<uint16_t, Lanes32>> to_bf16(Vector v) {
  const hn::Rebind<uint16_t, Lanes32> d16;
#if HWY_TARGET == HWY_AVX3
  if (has_bf16_instruction) {  // at each store, where the test hides behind the vector work
    __m256i rounded;
    asm("vcvtneps2bf16 %1, %0" : "=v"(rounded) : "v"(v.raw));
    return hn::Vec<decltype(d16)>{rounded};
  }
#endif
  const hn::Rebind<uint32_t, Lanes32> d32;
  const auto bits = hn::BitCast(d32, v);
  const auto odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(d32, 1));
  const auto rounded = hn::Add(bits, hn::Add(odd, hn::Set(d32, 0x7FFF)));
  const auto quiet = hn::Or(bits, hn::Set(d32, 0x400000));
  return hn::TruncateTo(
      d16, hn::ShiftRight<16>(hn::IfThenElse(hn::RebindMask(d32, hn::IsNaN(v)), quiet, rounded)));
}

HWY_INLINE Vector from_bf16(hn::Vec<hn::Rebind<uint16_t, Lanes32>> v) {
  const hn::Rebind<uint32_t, Lanes32> d32;
  return hn::BitCast(Lanes32(), hn::ShiftLeft<16>(hn::PromoteTo(d32, v)));
}

HWY_INLINE Vector load(const float* p, Whole) {
  return hn::LoadU(Lanes32(), p);
}
HWY_INLINE Vector load(const Bf16* p, Whole) {
  return from_bf16(hn::LoadU(hn::Rebind<uint16_t, Lanes32>(), &p->bits));
}

/// Lanes that do not exist are 0.
template <class Float>
HWY_INLINE Vector load(const Float* p, Part part) {
  HWY_ALIGN Float lanes[kLanes] = {};
  for (int64_t i = 0; i < part.count; ++i) lanes[i] = p[i];
  return load(lanes, Whole());
}

HWY_INLINE void store(Vector v, float* p, Whole) {
  hn::StoreU(v, Lanes32(), p);
}
HWY_INLINE void store(Vector v, Bf16* p, Whole) {
  hn::StoreU(to_bf16(v), hn::Rebind<uint16_t, Lanes32>(), &p->bits);
}

template <class Float>
HWY_INLINE void store(Vector v, Float* p, Part part) {
  HWY_ALIGN Float lanes[kLanes];
  store(v, lanes, Whole());
  for (int64_t i = 0; i < part.count; ++i) p[i] = lanes[i];
}

/// What storing v to `p` and loading it again gives.
HWY_INLINE Vector rounded_for(const float*, Vector v) {
  return v;
}
HWY_INLINE Vector rounded_for(const Bf16*, Vector v) {
  return from_bf16(to_bf16(v));
}

/// v, with `fill` in the lanes that do not exist.
HWY_INLINE Vector fill_missing(Vector v, Vector, Whole) {
  return v;
}
HWY_INLINE Vector fill_missing(Vector v, Vector fill, Part part) {
  return hn::IfThenElse(hn::FirstN(Lanes32(), static_cast<size_t>(part.count)), v, fill);
}

/// body(index, Whole or Part) over n elements.
template <class Body>
HWY_INLINE void for_vectors(int64_t n, const Body& body) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) body(i, Whole());
  if (i < n) body(i, Part{n - i});
}

/// combine() over start and the vectors term(index, Whole or Part) of n elements. Four chains hide
/// the latency.
template <class Term, class Combine>
HWY_INLINE Vector
reduce_vectors(int64_t n, Vector start, const Term& term, const Combine& combine) {
  Vector r0 = start, r1 = start, r2 = start, r3 = start;
  int64_t i = 0;
  for (; i + 4 * kLanes <= n; i += 4 * kLanes) {
    r0 = combine(r0, term(i, Whole()));
    r1 = combine(r1, term(i + kLanes, Whole()));
    r2 = combine(r2, term(i + 2 * kLanes, Whole()));
    r3 = combine(r3, term(i + 3 * kLanes, Whole()));
  }
  for (; i + kLanes <= n; i += kLanes) r0 = combine(r0, term(i, Whole()));
  if (i < n) r1 = combine(r1, term(i, Part{n - i}));
  return combine(combine(r0, r1), combine(r2, r3));
}

/// Sum over n elements of the vectors term(index, Whole or Part); lanes that do not exist must be
/// 0.
template <class Term>
HWY_INLINE float sum_vectors(int64_t n, const Term& term) {
  const auto add = [](Vector a, Vector b) BASIN_INLINE_BODY { return hn::Add(a, b); };
  return hn::GetLane(hn::SumOfLanes(Lanes32(), reduce_vectors(n, constant(0), term, add)));
}

/// body(0) .. body(n - 1) with constants, so that arrays indexed by them become registers.
template <int n, class Body>
HWY_INLINE void unrolled(Body&& body) {
  [&]<int... i>(std::integer_sequence<int, i...>) BASIN_INLINE_BODY {
    (body(std::integral_constant<int, i>()), ...);
  }
  (std::make_integer_sequence<int, n>());
}

}  // namespace HWY_NAMESPACE
}  // namespace basin::kernels
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard
