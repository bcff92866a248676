// SwiGLU (silu(gate) * up, arXiv 2002.05202) and GELU in its erf form (arXiv 1606.08415), computed
// in fp32. expf and normcdff, not their fast cousins: GELU's tail and small gates need them, and
// memory is the limit anyway.
#include "model/kernels/cuda/packs.cuh"

namespace basin::kernels {

namespace {

constexpr int kThreads = 256;

__device__ inline float sigmoid(float x) {
  return 1.0f / (1.0f + expf(-x));
}
__device__ inline float normal_density(float x) {
  return 0.39894228f * expf(-0.5f * x * x);
}

template <int kWidth, class Float>
__global__ void swiglu_row(int64_t F, const Float* gate_up, Float* y) {
  const Float *gate_row = gate_up + blockIdx.x * 2 * F, *up_row = gate_row + F;
  Float* y_row = y + blockIdx.x * F;
  for (int64_t i = int64_t{threadIdx.x} * kWidth; i < F; i += int64_t{blockDim.x} * kWidth) {
    float gate[kWidth], up[kWidth];
    load(gate_row + i, gate);
    load(up_row + i, up);
    for (int j = 0; j < kWidth; ++j) up[j] *= gate[j] * sigmoid(gate[j]);
    store(up, y_row + i);
  }
}

template <int kWidth, class Float>
__global__ void swiglu_gradient_row(int64_t F,
                                    const Float* gate_up,
                                    const Float* dy,
                                    Float* dgate_up) {
  const Float *gate_row = gate_up + blockIdx.x * 2 * F, *dy_row = dy + blockIdx.x * F;
  Float* dgate_row = dgate_up + blockIdx.x * 2 * F;
  for (int64_t i = int64_t{threadIdx.x} * kWidth; i < F; i += int64_t{blockDim.x} * kWidth) {
    float gate[kWidth], up[kWidth], d[kWidth];
    load(gate_row + i, gate);
    load(gate_row + F + i, up);
    load(dy_row + i, d);
    for (int j = 0; j < kWidth; ++j) {
      const float g = gate[j], s = sigmoid(g), slope = s * (1.0f + g * (1.0f - s));  // of silu
      gate[j] = d[j] * up[j] * slope;
      up[j] = d[j] * (g * s);
    }
    store(gate, dgate_row + i);
    store(up, dgate_row + F + i);
  }
}

template <int kWidth, class Float>
__global__ void gelu_elements(int64_t n, const Float* x, Float* y) {
  const int64_t i = first_element<kWidth>();
  if (i >= n) return;
  float v[kWidth];
  load(x + i, v);
  for (int j = 0; j < kWidth; ++j) v[j] *= normcdff(v[j]);
  store(v, y + i);
}

template <int kWidth, class Float>
__global__ void gelu_gradient_elements(int64_t n, const Float* x, const Float* dy, Float* dx) {
  const int64_t i = first_element<kWidth>();
  if (i >= n) return;
  float v[kWidth], d[kWidth];
  load(x + i, v);
  load(dy + i, d);
  for (int j = 0; j < kWidth; ++j) d[j] *= normcdff(v[j]) + v[j] * normal_density(v[j]);
  store(d, dx + i);
}

}  // namespace

template <class Float>
void swiglu_forward(int64_t rows, int64_t F, const Float* gate_up, Float* y) {
  with_width<Float>(packable<Float>(F, gate_up, y), [&](auto width) {
    const dim3 threads(threads_for(blocks_for(F, width), kThreads));
    launch(&swiglu_row<width(), Float>, dim3(rows), threads, 0, F, gate_up, y);
  });
}

template <class Float>
void swiglu_backward(
    int64_t rows, int64_t F, const Float* gate_up, const Float* dy, Float* dgate_up) {
  with_width<Float>(packable<Float>(F, gate_up, dy, dgate_up), [&](auto width) {
    const dim3 threads(threads_for(blocks_for(F, width), kThreads));
    launch(&swiglu_gradient_row<width(), Float>, dim3(rows), threads, 0, F, gate_up, dy, dgate_up);
  });
}

template <class Float>
void gelu_forward(int64_t n, const Float* x, Float* y) {
  in_packs<Float>(n, packable<Float>(0, x, y), [&](auto width, int64_t begin, int64_t count) {
    const dim3 blocks(blocks_for(count, kThreads * width));
    launch(&gelu_elements<width(), Float>, blocks, dim3(kThreads), 0, count, x + begin, y + begin);
  });
}

template <class Float>
void gelu_backward(int64_t n, const Float* x, const Float* dy, Float* dx) {
  in_packs<Float>(n, packable<Float>(0, x, dy, dx), [&](auto width, int64_t begin, int64_t count) {
    const dim3 blocks(blocks_for(count, kThreads * width));
    launch(&gelu_gradient_elements<width(), Float>,
           blocks,
           dim3(kThreads),
           0,
           count,
           x + begin,
           dy + begin,
           dx + begin);
  });
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
