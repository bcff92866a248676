// AdamW (arXiv 1711.05101) over flat buffers in one pass, and the sum of squares that clipping
// needs. Products and sums are fused explicitly: a buffer cut anywhere gives the same bits.
#include "model/kernels/cuda/packs.cuh"

namespace basin::kernels {

namespace {

constexpr int kThreads = 256;

struct AdamWBuffers {
  AdamWBuffers from(int64_t begin) const {
    return {grad + begin,
            master + begin,
            m + begin,
            v + begin,
            published ? published + begin : nullptr};
  }
  const float* grad;
  float *master, *m, *v;
  Bf16* published;
};

template <int kWidth>
__global__ void adamw_elements(AdamWStep s, int64_t n, AdamWBuffers b) {
  const int64_t i = first_element<kWidth>();
  if (i >= n) return;
  const float rest1 = 1.0f - s.beta1, rest2 = 1.0f - s.beta2, unbias2 = 1.0f / s.correction2,
              keep = 1.0f - s.lr * s.weight_decay, rate = s.lr / s.correction1;
  float grad[kWidth], w[kWidth], m[kWidth], v[kWidth];
  load(b.grad + i, grad);
  load(b.master + i, w);
  load(b.m + i, m);
  load(b.v + i, v);
  for (int j = 0; j < kWidth; ++j) {
    const float g = grad[j] * s.grad_scale;
    m[j] = fmaf(s.beta1, m[j], rest1 * g);
    v[j] = fmaf(s.beta2, v[j], rest2 * (g * g));
    w[j] = fmaf(-rate, m[j] / (sqrtf(v[j] * unbias2) + s.eps), keep * w[j]);
  }
  store(m, b.m + i);
  store(v, b.v + i);
  store(w, b.master + i);
  if (b.published) store(w, b.published + i);
}

constexpr int64_t kMostParts = 1056;  // 8 blocks on each processor of an H100

// Block b of `parts` adds up every parts-th piece of kThreads * kWidth elements, from piece b on.
template <int kWidth>
__global__ void sum_squares(int64_t n, const float* x, double* parts) {
  __shared__ double space[kWarp];
  double sum = 0;
  for (int64_t i = first_element<kWidth>(); i < n; i += int64_t{gridDim.x} * kThreads * kWidth) {
    float values[kWidth];
    load(x + i, values);
    for (int j = 0; j < kWidth; ++j) sum += static_cast<double>(values[j]) * values[j];
  }
  sum = block_sum(sum, space);
  if (threadIdx.x == 0) parts[blockIdx.x] = sum;
}

__global__ void sum_parts(int64_t count, const double* parts, double* total) {
  __shared__ double space[kWarp];
  double sum = 0;
  for (int64_t i = threadIdx.x; i < count; i += kThreads) sum += parts[i];
  sum = block_sum(sum, space);
  if (threadIdx.x == 0) *total = sum;
}

}  // namespace

void adamw(const AdamWStep& step,
           int64_t n,
           const float* grad,
           float* master,
           float* m,
           float* v,
           Bf16* published) {
  const AdamWBuffers buffers{grad, master, m, v, published};
  in_packs<float>(
      n,
      packable<float>(0, grad, master, m, v, published),
      [&](auto width, int64_t begin, int64_t count) {
        const dim3 blocks(blocks_for(count, kThreads * width));
        launch(
            &adamw_elements<width()>, blocks, dim3(kThreads), 0, step, count, buffers.from(begin));
      });
}

double sum_of_squares(int64_t n, const float* x) {
  const Scratch space((1 + 2 * kMostParts) * static_cast<int64_t>(sizeof(double)));
  double *total = space.as<double>(), *parts = total + 1;
  int64_t count = 0;
  in_packs<float>(n, aligned(x), [&](auto width, int64_t begin, int64_t size) {
    const int64_t blocks = std::min(kMostParts, blocks_for(size, kThreads * width));
    launch(&sum_squares<width()>, dim3(blocks), dim3(kThreads), 0, size, x + begin, parts + count);
    count += blocks;
  });
  launch(&sum_parts, dim3(1), dim3(kThreads), 0, count, parts, total);
  double sum = 0;
  copy_to_host(&sum, total, 1);
  return sum;
}

}  // namespace basin::kernels
