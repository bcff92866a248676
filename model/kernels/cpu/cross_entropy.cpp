// Softmax cross-entropy whose logits become their own gradient. Three passes over a row that stays
// in the cache: maximum, exponentials, gradient.
#include <cmath>
#include <limits>
#include <stdexcept>
#include <string>

#include "model/kernels/kernels.h"
#include "model/kernels/cpu/parallel.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "model/kernels/cpu/cross_entropy.cpp"
#include "hwy/foreach_target.h"
#include "model/kernels/cpu/math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace basin::kernels {
namespace HWY_NAMESPACE {

template <class Float>
HWY_INLINE float max_of(int64_t n, const Float* x) {
  const Vector lowest = constant(-std::numeric_limits<float>::infinity());
  const auto element = [&](int64_t i, auto lanes) BASIN_INLINE_BODY {
    return fill_missing(load(x + i, lanes), lowest, lanes);
  };
  const auto larger = [](Vector a, Vector b) BASIN_INLINE_BODY { return hn::Max(a, b); };
  return hn::GetLane(hn::MaxOfLanes(Lanes32(), reduce_vectors(n, lowest, element, larger)));
}

// exponentials fp32 (V): memory of the caller, may be the row itself. A NaN or an infinite logit
// makes the loss and the whole row NaN.
template <class Float>
HWY_INLINE float cross_entropy_row(
    int64_t V, Float* row, int64_t target, float scale, float* exponentials) {
  const float max = max_of(V, row), target_logit = hn::GetLane(load(row + target, Part{1}));
  const Vector shift = constant(max);
  const float sum = sum_vectors(V, [&](int64_t i, auto lanes) BASIN_INLINE_BODY {
    const Vector e = exp_vector(hn::Sub(load(row + i, lanes), shift));
    store(e, exponentials + i, lanes);
    return fill_missing(e, constant(0), lanes);
  });
  const float target_gradient = (exponentials[target] / sum - 1.0f) * scale;
  const Vector factor = constant(scale / sum);
  for_vectors(V, [&](int64_t i, auto lanes) BASIN_INLINE_BODY {
    store(hn::Mul(load(exponentials + i, lanes), factor), row + i, lanes);
  });
  store(constant(target_gradient), row + target, Part{1});
  return std::log(sum) + (max - target_logit);
}

template <class Float>
void nll_rows(int64_t begin,
              int64_t end,
              int64_t V,
              const Float* logits,
              const int64_t* targets,
              float* nll) {
  for (int64_t n = begin; n < end; ++n) {
    const Float* row = logits + n * V;
    const float max = max_of(V, row), target_logit = hn::GetLane(load(row + targets[n], Part{1}));
    const Vector shift = constant(max);
    const float sum = sum_vectors(V, [&](int64_t i, auto lanes) BASIN_INLINE_BODY {
      return fill_missing(exp_vector(hn::Sub(load(row + i, lanes), shift)), constant(0), lanes);
    });
    nll[n] = std::log(sum) + (max - target_logit);
  }
}

inline float* exponentials_of(float* row, float*) {
  return row;
}
inline float* exponentials_of(Bf16*, float* spare) {
  return spare;
}

template <class Float>
void cross_entropy_rows(int64_t begin,
                        int64_t end,
                        int64_t V,
                        Float* logits,
                        const int64_t* targets,
                        float scale,
                        float* nll,
                        float* spare) {
  for (int64_t n = begin; n < end; ++n) {
    Float* row = logits + n * V;
    nll[n] = cross_entropy_row(V, row, targets[n], scale, exponentials_of(row, spare));
  }
}

constexpr auto& cross_entropy_f32 = cross_entropy_rows<float>;
constexpr auto& cross_entropy_bf16 = cross_entropy_rows<Bf16>;
constexpr auto& nll_f32 = nll_rows<float>;
constexpr auto& nll_bf16 = nll_rows<Bf16>;

}  // namespace HWY_NAMESPACE
}  // namespace basin::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace basin::kernels {

namespace {

HWY_EXPORT(cross_entropy_f32);
HWY_EXPORT(cross_entropy_bf16);
HWY_EXPORT(nll_f32);
HWY_EXPORT(nll_bf16);

void check_targets(int64_t rows, int64_t V, const int64_t* targets) {
  for (int64_t n = 0; n < rows; ++n) {
    if (targets[n] >= 0 && targets[n] < V) continue;
    throw std::out_of_range(
        "cross-entropy: target " + std::to_string(targets[n]) + " in row " + std::to_string(n) +
        " is outside the vocabulary [0, " + std::to_string(V) +
        "): the data was prepared with another tokenizer, or model.vocab_size is too small");
  }
}

}  // namespace

template <class Float>
void cross_entropy_in_place(
    int64_t rows, int64_t V, Float* logits, const int64_t* targets, float scale, float* nll) {
  check_targets(rows, V, targets);
  const auto kernel = BASIN_PICK(Float, cross_entropy);
  const int64_t parts = parts_for(rows, V),
                stride = (V + 31) / 16 * 16;  // no cache line belongs to two threads
  float* spare = std::is_same_v<Float, float> ? nullptr : scratch<float>(parts * stride);
  parallel_ranges(parts, rows, 1, [&](int64_t part, int64_t begin, int64_t end) {
    kernel(begin, end, V, logits, targets, scale, nll, spare ? spare + part * stride : nullptr);
  });
}

template <class Float>
void cross_entropy(
    int64_t rows, int64_t V, const Float* logits, const int64_t* targets, float* nll) {
  check_targets(rows, V, targets);
  const auto kernel = BASIN_PICK(Float, nll);
  parallel_ranges(parts_for(rows, V), rows, 1, [&](int64_t, int64_t begin, int64_t end) {
    kernel(begin, end, V, logits, targets, nll);
  });
}

template decltype(cross_entropy<float>) cross_entropy<float>;
template decltype(cross_entropy<Bf16>) cross_entropy<Bf16>;
template decltype(cross_entropy_in_place<float>) cross_entropy_in_place<float>;
template decltype(cross_entropy_in_place<Bf16>) cross_entropy_in_place<Bf16>;

}  // namespace basin::kernels
#endif  // HWY_ONCE
