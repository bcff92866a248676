// exp, the logistic function and the normal distribution on vectors. Errors were measured over all
// floats of the range (tests/model).
#if defined(BASIN_KERNELS_MATH_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef BASIN_KERNELS_MATH_INL_H_
#undef BASIN_KERNELS_MATH_INL_H_
#else
#define BASIN_KERNELS_MATH_INL_H_
#endif

#include "model/kernels/cpu/vectors-inl.h"

HWY_BEFORE_NAMESPACE();
namespace basin::kernels {
namespace HWY_NAMESPACE {

/// exp(x), relative error 1.2e-7. 0 below -88, infinity above 88.4 (no denormals); NaN stays NaN.
HWY_INLINE Vector exp_vector(Vector x) {
  const hn::Rebind<uint32_t, Lanes32> d32;
  const Vector magic =
      constant(12582912.0f);  // 1.5 * 2^23: adding it leaves the nearest integer in the low bits
  Vector clamped =
      hn::Max(constant(-88.0f),
              hn::Min(constant(89.0f), x));  // x second: so NaN passes, except in the plain version
#if HWY_TARGET == HWY_SCALAR
  clamped = hn::IfThenElse(hn::IsNaN(x), x, clamped);
#endif
  const Vector shifted = hn::MulAdd(clamped, constant(1.44269504f), magic);
  const Vector n = hn::Sub(shifted, magic);
  Vector r = hn::NegMulAdd(
      n, constant(0.693145752f), clamped);  // ln 2 in two parts, the first exact in products with n
  r = hn::NegMulAdd(n, constant(1.42860677e-6f), r);
  // (exp(r) - 1 - r) / r^2, minimax of degree 4 on |r| <= ln 2 / 2: exp is off by 3e-9 before
  // rounding
  Vector p = hn::MulAdd(constant(0.0013814325f), r, constant(0.008368851343f));
  p = hn::MulAdd(p, r, constant(0.04166840102f));
  p = hn::MulAdd(p, r, constant(0.1666651952f));
  p = hn::MulAdd(p, r, constant(0.4999999337f));
  p = hn::MulAdd(hn::Mul(r, r), p, hn::Add(r, constant(1.0f)));
  const auto exponent =
      hn::Add(hn::ShiftLeft<23>(hn::BitCast(d32, shifted)), hn::Set(d32, 0x3F800000));
  return hn::Mul(p, hn::BitCast(Lanes32(), exponent));
}

/// 1 / (1 + exp(-x)).
HWY_INLINE Vector sigmoid_vector(Vector x) {
  const Vector one = constant(1.0f);
  return hn::Div(one, hn::Add(one, exp_vector(hn::Neg(x))));
}

/// Distribution function (1 + erf(x / sqrt 2)) / 2 and density of the standard normal. Absolute
/// error of the distribution about 1e-7 (of erf: 2e-7), relative error below 1e-5 down to x = -12:
/// the lower tail is computed itself, never as a difference from 1.
struct Normal {
  Vector cdf, pdf;
};
HWY_INLINE Normal normal_vector(Vector x) {
  const Vector z = hn::Abs(x), one = constant(1.0f);
  const Vector bell = exp_vector(hn::Mul(hn::Mul(z, z), constant(-0.5f)));
  const Vector near = hn::Mul(z, constant(0.3f)), t = hn::Div(one, hn::Add(near, one)),
               u = hn::Mul(near, t);
  // cdf(-z) = exp(-z^2 / 2) t Q(u) with u = 1 - t; Q of degree 9, minimax of the relative error
  // (4e-9) on 0 <= z <= 14
  Vector q = hn::MulAdd(constant(0.02047346001f), u, constant(-0.07259954276f));
  q = hn::MulAdd(q, u, constant(0.07024018936f));
  q = hn::MulAdd(q, u, constant(0.01094424133f));
  q = hn::MulAdd(q, u, constant(0.02292562291f));
  q = hn::MulAdd(q, u, constant(-0.1395917831f));
  q = hn::MulAdd(q, u, constant(-0.08104640735f));
  q = hn::MulAdd(q, u, constant(0.618147912f));
  q = hn::MulAdd(q, u, constant(-0.8298073077f));
  q = hn::MulAdd(q, u, constant(0.5f));
  const Vector tail = hn::Mul(bell, hn::Mul(t, q));
  const Vector cdf = hn::IfThenElse(hn::Lt(x, hn::Zero(Lanes32())), tail, hn::Sub(one, tail));
  return {cdf, hn::Mul(bell, constant(0.398942280f))};
}

}  // namespace HWY_NAMESPACE
}  // namespace basin::kernels
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard
