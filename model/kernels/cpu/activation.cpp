// SwiGLU (silu(gate) * up, arXiv 2002.05202) and GELU in its erf form (arXiv 1606.08415), computed
// in fp32.
#include "model/kernels/decode.h"
#include "model/kernels/kernels.h"
#include "model/kernels/cpu/parallel.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "model/kernels/cpu/activation.cpp"
#include "hwy/foreach_target.h"
#include "model/kernels/cpu/math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace basin::kernels {
namespace HWY_NAMESPACE {

template <class Float>
void swiglu_range(int64_t n, const Float* gate, const Float* up, Float* y) {
  for_vectors(n, [&](int64_t i, auto lanes) BASIN_INLINE_BODY {
    const Vector g = load(gate + i, lanes);
    store(hn::Mul(hn::Mul(g, sigmoid_vector(g)), load(up + i, lanes)), y + i, lanes);
  });
}

template <class Float>
void swiglu_rows(int64_t begin, int64_t end, int64_t F, const Float* gate_up, Float* y) {
  for (int64_t row = begin; row < end; ++row)
    swiglu_range(F, gate_up + row * 2 * F, gate_up + row * 2 * F + F, y + row * F);
}

template <class Float>
void swiglu_gradient_rows(
    int64_t begin, int64_t end, int64_t F, const Float* gate_up, const Float* dy, Float* dgate_up) {
  const Vector one = constant(1.0f);
  for (int64_t row = begin; row < end; ++row) {
    const Float *gate = gate_up + row * 2 * F, *up = gate + F, *dout = dy + row * F;
    Float *dgate = dgate_up + row * 2 * F, *dup = dgate + F;
    for_vectors(F, [&](int64_t i, auto lanes) BASIN_INLINE_BODY {
      const Vector g = load(gate + i, lanes), d = load(dout + i, lanes), s = sigmoid_vector(g);
      const Vector slope = hn::Mul(s, hn::MulAdd(g, hn::Sub(one, s), one));  // of silu
      store(hn::Mul(hn::Mul(d, load(up + i, lanes)), slope), dgate + i, lanes);
      store(hn::Mul(d, hn::Mul(g, s)), dup + i, lanes);
    });
  }
}

template <class Float>
void gelu_range(int64_t n, const Float* x, Float* y) {
  for_vectors(n, [&](int64_t i, auto lanes) BASIN_INLINE_BODY {
    const Vector v = load(x + i, lanes);
    store(hn::Mul(v, normal_vector(v).cdf), y + i, lanes);
  });
}

template <class Float>
void gelu_gradient_range(int64_t n, const Float* x, const Float* dy, Float* dx) {
  for_vectors(n, [&](int64_t i, auto lanes) BASIN_INLINE_BODY {
    const Vector v = load(x + i, lanes);
    const Normal normal = normal_vector(v);
    store(hn::Mul(load(dy + i, lanes), hn::MulAdd(v, normal.pdf, normal.cdf)), dx + i, lanes);
  });
}

constexpr auto& swiglu_range_f32 = swiglu_range<float>;
constexpr auto& swiglu_f32 = swiglu_rows<float>;
constexpr auto& swiglu_bf16 = swiglu_rows<Bf16>;
constexpr auto& swiglu_gradient_f32 = swiglu_gradient_rows<float>;
constexpr auto& swiglu_gradient_bf16 = swiglu_gradient_rows<Bf16>;
constexpr auto& gelu_f32 = gelu_range<float>;
constexpr auto& gelu_bf16 = gelu_range<Bf16>;
constexpr auto& gelu_gradient_f32 = gelu_gradient_range<float>;
constexpr auto& gelu_gradient_bf16 = gelu_gradient_range<Bf16>;

}  // namespace HWY_NAMESPACE
}  // namespace basin::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace basin::kernels {

namespace {

HWY_EXPORT(swiglu_range_f32);
HWY_EXPORT(swiglu_f32);
HWY_EXPORT(swiglu_bf16);
HWY_EXPORT(swiglu_gradient_f32);
HWY_EXPORT(swiglu_gradient_bf16);
HWY_EXPORT(gelu_f32);
HWY_EXPORT(gelu_bf16);
HWY_EXPORT(gelu_gradient_f32);
HWY_EXPORT(gelu_gradient_bf16);

constexpr int64_t kLineElements = 64;  // ranges end on whole cache lines

}  // namespace

template <class Float>
void swiglu_forward(int64_t rows, int64_t F, const Float* gate_up, Float* y) {
  const auto kernel = BASIN_PICK(Float, swiglu);
  parallel_ranges(parts_for(rows, F), rows, 1, [&](int64_t, int64_t begin, int64_t end) {
    kernel(begin, end, F, gate_up, y);
  });
}

template <class Float>
void swiglu_backward(
    int64_t rows, int64_t F, const Float* gate_up, const Float* dy, Float* dgate_up) {
  const auto kernel = BASIN_PICK(Float, swiglu_gradient);
  parallel_ranges(parts_for(rows, F), rows, 1, [&](int64_t, int64_t begin, int64_t end) {
    kernel(begin, end, F, gate_up, dy, dgate_up);
  });
}

template <class Float>
void gelu_forward(int64_t n, const Float* x, Float* y) {
  const auto kernel = BASIN_PICK(Float, gelu);
  parallel_ranges(parts_for(n, 1), n, kLineElements, [&](int64_t, int64_t begin, int64_t end) {
    kernel(end - begin, x + begin, y + begin);
  });
}

template <class Float>
void gelu_backward(int64_t n, const Float* x, const Float* dy, Float* dx) {
  const auto kernel = BASIN_PICK(Float, gelu_gradient);
  parallel_ranges(parts_for(n, 1), n, kLineElements, [&](int64_t, int64_t begin, int64_t end) {
    kernel(end - begin, x + begin, dy + begin, dx + begin);
  });
}

void swiglu_elements(int64_t n, const float* gate, const float* up, float* y) {
  HWY_DYNAMIC_DISPATCH(swiglu_range_f32)(n, gate, up, y);
}

void gelu_elements(int64_t n, const float* x, float* y) {
  HWY_DYNAMIC_DISPATCH(gelu_f32)(n, x, y);
}

template decltype(swiglu_forward<float>) swiglu_forward<float>;
template decltype(swiglu_forward<Bf16>) swiglu_forward<Bf16>;
template decltype(swiglu_backward<float>) swiglu_backward<float>;
template decltype(swiglu_backward<Bf16>) swiglu_backward<Bf16>;
template decltype(gelu_forward<float>) gelu_forward<float>;
template decltype(gelu_forward<Bf16>) gelu_forward<Bf16>;
template decltype(gelu_backward<float>) gelu_backward<float>;
template decltype(gelu_backward<Bf16>) gelu_backward<Bf16>;

}  // namespace basin::kernels
#endif  // HWY_ONCE
