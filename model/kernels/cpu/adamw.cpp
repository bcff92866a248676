// AdamW (arXiv 1711.05101) over flat buffers, the sum of squares that clipping needs, and gradients
// added up in fp32. All give the same bits for any number of threads.
#include "model/kernels/kernels.h"
#include "model/kernels/cpu/parallel.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "model/kernels/cpu/adamw.cpp"
#include "hwy/foreach_target.h"
#include "model/kernels/cpu/vectors-inl.h"

#ifndef BASIN_KERNELS_ADAMW_ARGUMENTS_  // this file is compiled once for each instruction set
#define BASIN_KERNELS_ADAMW_ARGUMENTS_
namespace basin::kernels {

struct AdamWBuffers {
  const float* grad;
  float *master, *m, *v;
  Bf16* published;
};

}  // namespace basin::kernels
#endif

HWY_BEFORE_NAMESPACE();
namespace basin::kernels {
namespace HWY_NAMESPACE {

template <bool kPublish>
HWY_INLINE void adamw_elements(const AdamWStep& s,
                               const AdamWBuffers& b,
                               int64_t begin,
                               int64_t end) {
  const Vector beta1 = constant(s.beta1), beta2 = constant(s.beta2),
               rest1 = constant(1.0f - s.beta1), rest2 = constant(1.0f - s.beta2);
  const Vector grad_scale = constant(s.grad_scale), unbias2 = constant(1.0f / s.correction2),
               eps = constant(s.eps);
  const Vector keep = constant(1.0f - s.lr * s.weight_decay), rate = constant(s.lr / s.correction1);
  const float* grad = b.grad + begin;
  float *master = b.master + begin, *m_all = b.m + begin, *v_all = b.v + begin;
  for_vectors(end - begin, [&](int64_t i, auto lanes) BASIN_INLINE_BODY {
    const Vector g = hn::Mul(load(grad + i, lanes), grad_scale);
    const Vector m = hn::MulAdd(beta1, load(m_all + i, lanes), hn::Mul(rest1, g));
    const Vector v = hn::MulAdd(beta2, load(v_all + i, lanes), hn::Mul(rest2, hn::Mul(g, g)));
    const Vector deviation = hn::Add(hn::Sqrt(hn::Mul(v, unbias2)), eps);
    const Vector w =
        hn::NegMulAdd(rate, hn::Div(m, deviation), hn::Mul(keep, load(master + i, lanes)));
    store(m, m_all + i, lanes);
    store(v, v_all + i, lanes);
    store(w, master + i, lanes);
    if constexpr (kPublish) store(w, b.published + begin + i, lanes);
  });
}

void adamw_range(const AdamWStep& s, const AdamWBuffers& b, int64_t begin, int64_t end) {
  b.published ? adamw_elements<true>(s, b, begin, end) : adamw_elements<false>(s, b, begin, end);
}

double squares(int64_t n, const float* x) {
  const hn::ScalableTag<double> d64;
  const hn::Rebind<float, hn::ScalableTag<double>>
      half;  // as many floats as there are doubles in a vector
  constexpr int64_t kDoubles = hn::MaxLanes(d64);
  const auto value = [&](int64_t i)
                         BASIN_INLINE_BODY { return hn::PromoteTo(d64, hn::LoadU(half, x + i)); };
  auto s0 = hn::Zero(d64), s1 = s0, s2 = s0, s3 = s0;
  int64_t i = 0;
  for (; i + 4 * kDoubles <= n; i += 4 * kDoubles) {
    const auto v0 = value(i), v1 = value(i + kDoubles), v2 = value(i + 2 * kDoubles),
               v3 = value(i + 3 * kDoubles);
    s0 = hn::MulAdd(v0, v0, s0);
    s1 = hn::MulAdd(v1, v1, s1);
    s2 = hn::MulAdd(v2, v2, s2);
    s3 = hn::MulAdd(v3, v3, s3);
  }
  double sum = hn::GetLane(hn::SumOfLanes(d64, hn::Add(hn::Add(s0, s1), hn::Add(s2, s3))));
  for (; i < n; ++i) sum += static_cast<double>(x[i]) * static_cast<double>(x[i]);
  return sum;
}

void add_range(const Bf16* x, float* sum, int64_t begin, int64_t end) {
  const Bf16* from = x + begin;
  float* to = sum + begin;
  for_vectors(end - begin, [&](int64_t i, auto lanes) BASIN_INLINE_BODY {
    store(hn::Add(load(to + i, lanes), load(from + i, lanes)), to + i, lanes);
  });
}

}  // namespace HWY_NAMESPACE
}  // namespace basin::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace basin::kernels {

namespace {

HWY_EXPORT(adamw_range);
HWY_EXPORT(squares);
HWY_EXPORT(add_range);

constexpr int64_t kLineElements = 64;  // ranges end on whole cache lines
constexpr int64_t kBlock = 16384;

}  // namespace

void adamw(const AdamWStep& step,
           int64_t n,
           const float* grad,
           float* master,
           float* m,
           float* v,
           Bf16* published) {
  const auto kernel = &HWY_DYNAMIC_DISPATCH(adamw_range);
  const AdamWBuffers buffers{grad, master, m, v, published};
  parallel_ranges(parts_for(n, 1), n, kLineElements, [&](int64_t, int64_t begin, int64_t end) {
    kernel(step, buffers, begin, end);
  });
}

double sum_of_squares(int64_t n, const float* x) {
  const auto kernel = &HWY_DYNAMIC_DISPATCH(squares);
  const int64_t blocks = (n + kBlock - 1) / kBlock;
  double* block_sums = scratch<double>(blocks);
  parallel_ranges(parts_for(n, 1), blocks, 1, [&](int64_t, int64_t begin, int64_t end) {
    for (int64_t block = begin; block < end; ++block)
      block_sums[block] = kernel(std::min(kBlock, n - block * kBlock), x + block * kBlock);
  });
  double sum = 0;
  for (int64_t block = 0; block < blocks; ++block) sum += block_sums[block];
  return sum;
}

template <>
void add_to_sum(int64_t n, const Bf16* x, float* sum) {
  const auto kernel = &HWY_DYNAMIC_DISPATCH(add_range);
  parallel_ranges(parts_for(n, 1), n, kLineElements, [&](int64_t, int64_t begin, int64_t end) {
    kernel(x, sum, begin, end);
  });
}

}  // namespace basin::kernels
#endif  // HWY_ONCE
