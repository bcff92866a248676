// RMSNorm and LayerNorm with the residual add in front. The statistics are those of h as it is
// stored, so that backward, which reads h back, differentiates the function that forward computed.
#include <cmath>

#include "model/kernels/kernels.h"
#include "model/kernels/cpu/parallel.h"

#ifndef BASIN_KERNELS_NORM_ARGUMENTS_  // this file is compiled once for each instruction set
#define BASIN_KERNELS_NORM_ARGUMENTS_
namespace basin::kernels {

template <class Float>
struct NormForward {
  int64_t D;
  float eps;
  const Float *x, *delta, *weight, *bias;
  Float *h, *y;
  float* stats;
};

template <class Float>
struct NormBackward {
  int64_t D;
  const Float *h, *weight;
  const float* stats;
  const Float *dy, *dh_in;
  Float* dx;
};

}  // namespace basin::kernels
#endif

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "model/kernels/cpu/norm.cpp"
#include "hwy/foreach_target.h"
#include "model/kernels/cpu/vectors-inl.h"

HWY_BEFORE_NAMESPACE();
namespace basin::kernels {
namespace HWY_NAMESPACE {

// (v - center) * scale; RMSNorm has no center.
template <bool kRms>
HWY_INLINE Vector normalized(Vector v, Vector center, Vector scale) {
  if constexpr (kRms) return hn::Mul(v, scale);
  return hn::Mul(hn::Sub(v, center), scale);
}

// Mean (0 for RMSNorm) and reciprocal deviation of a row: `first` yields each element once, `again`
// any number of times afterwards.
template <bool kRms, class First, class Again>
HWY_INLINE void row_statistics(
    int64_t D, float eps, const First& first, const Again& again, float* stats) {
  const float count = static_cast<float>(D);
  float mean = 0, variance = 0;
  if constexpr (kRms) {
    variance = sum_vectors(D, [&](int64_t i, auto lanes) BASIN_INLINE_BODY {
      const Vector v = first(i, lanes);
      return hn::Mul(v, v);
    });
  } else {
    mean = sum_vectors(D, first) / count;
    const Vector center = constant(mean);
    variance = sum_vectors(D, [&](int64_t i, auto lanes) BASIN_INLINE_BODY {
      const Vector v = fill_missing(hn::Sub(again(i, lanes), center), constant(0), lanes);
      return hn::Mul(v, v);
    });
  }
  stats[0] = mean;
  stats[1] = 1.0f / std::sqrt(variance / count + eps);
}

template <bool kRms, class Float>
HWY_INLINE void norm_rows(const NormForward<Float>& a, int64_t begin, int64_t end) {
  for (int64_t row = begin; row < end; ++row) {
    const int64_t at = row * a.D;
    const Float *x = a.x + at, *source = a.delta ? a.h + at : x;
    Float* y = a.y + at;
    float* stats = a.stats + 2 * row;
    const auto stored = [&](int64_t i, auto lanes)
                            BASIN_INLINE_BODY { return load(source + i, lanes); };
    if (a.delta) {
      const Float* delta = a.delta + at;
      Float* h = a.h + at;
      const auto added = [&](int64_t i, auto lanes) BASIN_INLINE_BODY {
        const Vector sum = hn::Add(load(x + i, lanes), load(delta + i, lanes));
        store(sum, h + i, lanes);
        return rounded_for(h, sum);
      };
      row_statistics<kRms>(a.D, a.eps, added, stored, stats);
    } else {
      row_statistics<kRms>(a.D, a.eps, stored, stored, stats);
    }
    const Vector center = constant(stats[0]), scale = constant(stats[1]);
    for_vectors(a.D, [&](int64_t i, auto lanes) BASIN_INLINE_BODY {
      const Vector v = normalized<kRms>(load(source + i, lanes), center, scale),
                   weight = load(a.weight + i, lanes);
      store(a.bias ? hn::MulAdd(v, weight, load(a.bias + i, lanes)) : hn::Mul(v, weight),
            y + i,
            lanes);
    });
  }
}

// With n = (h - mean) * r and g = dy * weight: dx = r * (g - n * mean(g n) - mean(g)), the last
// term for LayerNorm only. Adds to dweight and dbias (LayerNorm only), fp32 (D).
template <bool kRms, class Float>
HWY_INLINE void norm_gradient_rows(
    const NormBackward<Float>& a, int64_t begin, int64_t end, float* dweight, float* dbias) {
  const float count = static_cast<float>(a.D);
  for (int64_t row = begin; row < end; ++row) {
    const int64_t at = row * a.D;
    const Float *h = a.h + at, *dy = a.dy + at;
    Float* dx = a.dx + at;
    const Vector center = constant(a.stats[2 * row]), scale = constant(a.stats[2 * row + 1]);
    const auto normed = [&](int64_t i, auto lanes) BASIN_INLINE_BODY {
      return normalized<kRms>(load(h + i, lanes), center, scale);
    };
    const auto incoming = [&](int64_t i, auto lanes) BASIN_INLINE_BODY {
      return hn::Mul(load(dy + i, lanes), load(a.weight + i, lanes));
    };
    const float along = sum_vectors(a.D, [&](int64_t i, auto lanes) BASIN_INLINE_BODY {
      const Vector d = load(dy + i, lanes), n = normed(i, lanes), product = hn::Mul(d, n);
      store(hn::Add(load(dweight + i, lanes), product), dweight + i, lanes);
      if constexpr (!kRms) store(hn::Add(load(dbias + i, lanes), d), dbias + i, lanes);
      return hn::Mul(product, load(a.weight + i, lanes));
    });
    const Vector mean_along = constant(along / count);
    Vector mean = constant(0);
    if constexpr (!kRms) mean = constant(sum_vectors(a.D, incoming) / count);
    for_vectors(a.D, [&](int64_t i, auto lanes) BASIN_INLINE_BODY {
      Vector g = hn::NegMulAdd(normed(i, lanes), mean_along, incoming(i, lanes));
      if constexpr (!kRms) g = hn::Sub(g, mean);
      store(a.dh_in ? hn::MulAdd(g, scale, load(a.dh_in + at + i, lanes)) : hn::Mul(g, scale),
            dx + i,
            lanes);
    });
  }
}

template <class Float>
void norm_range(const NormForward<Float>& a, bool is_rms, int64_t begin, int64_t end) {
  is_rms ? norm_rows<true>(a, begin, end) : norm_rows<false>(a, begin, end);
}

template <class Float>
void norm_gradient_range(const NormBackward<Float>& a,
                         bool is_rms,
                         int64_t begin,
                         int64_t end,
                         float* dweight,
                         float* dbias) {
  is_rms ? norm_gradient_rows<true>(a, begin, end, dweight, dbias)
         : norm_gradient_rows<false>(a, begin, end, dweight, dbias);
}

constexpr auto& norm_f32 = norm_range<float>;
constexpr auto& norm_bf16 = norm_range<Bf16>;
constexpr auto& norm_gradient_f32 = norm_gradient_range<float>;
constexpr auto& norm_gradient_bf16 = norm_gradient_range<Bf16>;

}  // namespace HWY_NAMESPACE
}  // namespace basin::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace basin::kernels {

namespace {

HWY_EXPORT(norm_f32);
HWY_EXPORT(norm_bf16);
HWY_EXPORT(norm_gradient_f32);
HWY_EXPORT(norm_gradient_bf16);

}  // namespace

template <class Float>
void norm_forward(int64_t rows,
                  int64_t D,
                  bool is_rms,
                  float eps,
                  const Float* x,
                  const Float* delta,
                  const Float* weight,
                  const Float* bias,
                  Float* h,
                  Float* y,
                  float* stats) {
  const auto kernel = BASIN_PICK(Float, norm);
  const NormForward<Float> a{D, eps, x, delta, weight, bias, h, y, stats};
  parallel_ranges(parts_for(rows, D), rows, 1, [&](int64_t, int64_t begin, int64_t end) {
    kernel(a, is_rms, begin, end);
  });
}

template <class Float>
void norm_backward(int64_t rows,
                   int64_t D,
                   bool is_rms,
                   const Float* h,
                   const Float* weight,
                   const float* stats,
                   const Float* dy,
                   const Float* dh_in,
                   Float* dx,
                   float* dweight,
                   float* dbias) {
  const auto kernel = BASIN_PICK(Float, norm_gradient);
  const NormBackward<Float> a{D, h, weight, stats, dy, dh_in, dx};
  const int64_t parts = parts_for(rows, D),
                stride = (2 * D + 31) / 16 * 16;  // no cache line belongs to two threads
  float* partial = scratch<float>(parts * stride);
  parallel_ranges(parts, rows, 1, [&](int64_t part, int64_t begin, int64_t end) {
    float* mine = partial + part * stride;
    std::fill_n(mine, 2 * D, 0.0f);
    kernel(a, is_rms, begin, end, mine, mine + D);
  });
  for (int64_t i = 0; i < D; ++i) {
    float weight_sum = 0, bias_sum = 0;
    for (int64_t part = 0; part < parts; ++part) {
      weight_sum += partial[part * stride + i];
      bias_sum += partial[part * stride + D + i];
    }
    dweight[i] = weight_sum;
    if (dbias) dbias[i] = bias_sum;
  }
}

template decltype(norm_forward<float>) norm_forward<float>;
template decltype(norm_forward<Bf16>) norm_forward<Bf16>;
template decltype(norm_backward<float>) norm_backward<float>;
template decltype(norm_backward<Bf16>) norm_backward<Bf16>;

}  // namespace basin::kernels
#endif  // HWY_ONCE
