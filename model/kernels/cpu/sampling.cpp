// Passes over the logits and the weights of a vocabulary, for sampling from it.
#include <algorithm>
#include <cmath>
#include <limits>

#include "model/kernels/decode.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "model/kernels/cpu/sampling.cpp"
#include "hwy/foreach_target.h"
#include "model/kernels/cpu/math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace basin::kernels {
namespace HWY_NAMESPACE {

float largest_of(int64_t n, const float* logits) {
  const Vector least = constant(-std::numeric_limits<float>::infinity());
  Vector poison = constant(0);  // the maximum may lose a NaN
  const Vector largest = reduce_vectors(
      n,
      least,
      [&](int64_t i, auto lanes) BASIN_INLINE_BODY {
        const Vector x = load(logits + i, lanes);
        poison = hn::Or(poison, hn::VecFromMask(Lanes32(), hn::IsNaN(x)));
        return fill_missing(x, least, lanes);
      },
      [](Vector a, Vector b) BASIN_INLINE_BODY { return hn::Max(a, b); });
  if (!hn::AllFalse(Lanes32(), hn::IsNaN(poison))) return std::numeric_limits<float>::quiet_NaN();
  return hn::GetLane(hn::MaxOfLanes(Lanes32(), largest));
}

void weights_of(int64_t n, const float* logits, float largest, float factor, float* weights) {
  for_vectors(n, [&](int64_t i, auto lanes) BASIN_INLINE_BODY {
    const Vector x = hn::Sub(load(logits + i, lanes), constant(largest));
    store(exp_vector(hn::Mul(x, constant(factor))), weights + i, lanes);
  });
}

WeightsAbove weights_above(int64_t n, const float* weights, float least) {
  constexpr int64_t kBlock = 1024;  // whose sum in fp32 is exact enough
  WeightsAbove all;
  const Vector bound = constant(least);
  for (int64_t begin = 0; begin < n; begin += kBlock) {
    Vector count = constant(0);
    all.sum += static_cast<double>(
        sum_vectors(std::min(kBlock, n - begin), [&](int64_t i, auto lanes) BASIN_INLINE_BODY {
          const Vector w = load(weights + begin + i, lanes);
          const auto is_above = hn::Ge(w, bound);
          count = hn::Add(
              count, fill_missing(hn::IfThenElseZero(is_above, constant(1)), constant(0), lanes));
          return hn::IfThenElseZero(is_above, w);
        }));
    all.count += static_cast<int64_t>(hn::GetLane(hn::SumOfLanes(Lanes32(), count)));
  }
  return all;
}

void drop_weights(int64_t n, float least, float* weights) {
  for_vectors(n, [&](int64_t i, auto lanes) BASIN_INLINE_BODY {
    const Vector w = load(weights + i, lanes);
    store(hn::IfThenElseZero(hn::Ge(w, constant(least)), w), weights + i, lanes);
  });
}

}  // namespace HWY_NAMESPACE
}  // namespace basin::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace basin::kernels {

namespace {

HWY_EXPORT(largest_of);
HWY_EXPORT(weights_of);
HWY_EXPORT(weights_above);
HWY_EXPORT(drop_weights);

}  // namespace

float largest_logit(int64_t n, const float* logits) {
  return HWY_DYNAMIC_DISPATCH(largest_of)(n, logits);
}

void sampling_weights(int64_t n, const float* logits, float largest, float factor, float* weights) {
  HWY_DYNAMIC_DISPATCH(weights_of)(n, logits, largest, factor, weights);
}

WeightsAbove sum_weights(int64_t n, const float* weights, float least) {
  return HWY_DYNAMIC_DISPATCH(weights_above)(n, weights, least);
}

void drop_weights_below(int64_t n, float least, float* weights) {
  HWY_DYNAMIC_DISPATCH(drop_weights)(n, least, weights);
}

}  // namespace basin::kernels
#endif  // HWY_ONCE
