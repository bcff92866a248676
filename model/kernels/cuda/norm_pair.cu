#include "model/kernels/cuda/column_sums.cuh"
#include "model/kernels/cuda/norm_pair.h"
#include "model/kernels/cuda/packs.cuh"

namespace basin::kernels {
namespace {

constexpr int kMostThreads = 512;

// A thread has one pack of each row, in registers.
template <class Float>
constexpr int kSize = Pack<Float>::kSize;

template <class Float>
struct Forward {
  int64_t D;
  float eps;
  const Float *x, *delta;
  NormPair<Float> norms;
  Float *h, *y[2];
  float* stats;
};

template <bool kRms, class Float>
__global__ void __launch_bounds__(kMostThreads) norm_pair_row(Forward<Float> a) {
  constexpr int kWidth = kSize<Float>;
  __shared__ float space[kWarp];
  const int64_t i = int64_t{threadIdx.x} * kWidth, at = blockIdx.x * a.D + i;
  const bool is_mine = i < a.D;
  const float count = static_cast<float>(a.D);
  float h[kWidth] = {}, sum = 0, mean = 0;
  if (is_mine) {
    load(a.x + at, h);
    if (a.delta) {
      float delta[kWidth];
      load(a.delta + at, delta);
      for (int j = 0; j < kWidth; ++j) h[j] = widen(narrow<Float>(h[j] + delta[j]));
      store(h, a.h + at);
    }
  }
  if constexpr (!kRms) {
    for (int j = 0; j < kWidth; ++j) sum += h[j];
    mean = block_sum(sum, space) / count;
    sum = 0;
  }
  for (int j = 0; j < kWidth; ++j) sum += is_mine ? (h[j] - mean) * (h[j] - mean) : 0.0f;
  const float scale = 1.0f / sqrtf(block_sum(sum, space) / count + a.eps);
  if (threadIdx.x == 0) {
    a.stats[2 * int64_t{blockIdx.x}] = mean;
    a.stats[2 * int64_t{blockIdx.x} + 1] = scale;
  }
  if (!is_mine) return;
  for (int n = 0; n < 2; ++n) {
    float weight[kWidth], bias[kWidth] = {};
    load(a.norms.weight[n] + i, weight);
    if (a.norms.bias[n]) load(a.norms.bias[n] + i, bias);
    for (int j = 0; j < kWidth; ++j) weight[j] = (h[j] - mean) * scale * weight[j] + bias[j];
    store(weight, a.y[n] + at);
  }
}

template <class Float>
struct Backward {
  int64_t rows, D;
  const Float* h;
  NormPair<Float> norms;
  const float* stats;
  const Float *dy[2], *dh;
  Float* dx;
  float *dweight_parts, *dbias_parts;  // (blocks, 2, D)
};

// As norm_gradient_in_registers, with g = sum over both of dy * weight.
template <bool kRms, class Float>
__global__ void __launch_bounds__(kMostThreads) norm_pair_gradient(Backward<Float> a) {
  constexpr int kWidth = kSize<Float>;
  __shared__ float space[kWarp];
  using Row = Pack<Float, kWidth>;
  const int64_t i = int64_t{threadIdx.x} * kWidth;
  const bool is_mine = i < a.D;
  const float count = static_cast<float>(a.D);
  const auto load_row = [&](const Float* from, int64_t row) {
    return is_mine && from && row < a.rows ? *reinterpret_cast<const Row*>(from + row * a.D + i)
                                           : Row{};
  };
  float weight[2][kWidth] = {}, dweight[2][kWidth] = {}, dbias[2][kWidth] = {};
  if (is_mine)
    for (int n = 0; n < 2; ++n) load(a.norms.weight[n] + i, weight[n]);
  for (int64_t row = blockIdx.x; row < a.rows; row += gridDim.x) {
    const Row h = load_row(a.h, row), dh = load_row(a.dh, row),
              dy[2] = {load_row(a.dy[0], row), load_row(a.dy[1], row)};
    const float center = a.stats[2 * row], scale = a.stats[2 * row + 1];
    float normed[kWidth], g[kWidth], along = 0, mean = 0;
    for (int j = 0; j < kWidth; ++j) {
      normed[j] = is_mine ? (widen(h.values[j]) - center) * scale : 0.0f;
      g[j] = 0;
      for (int n = 0; n < 2; ++n) {
        const float d = widen(dy[n].values[j]);
        g[j] += d * weight[n][j];
        dweight[n][j] += d * normed[j];
        dbias[n][j] += d;
      }
      along += g[j] * normed[j];
      mean += g[j];
    }
    along = block_sum(along, space) / count;
    mean = kRms ? 0.0f : block_sum(mean, space) / count;
    for (int j = 0; j < kWidth; ++j)
      g[j] = widen(dh.values[j]) + scale * (g[j] - normed[j] * along - mean);
    if (is_mine) store(g, a.dx + row * a.D + i);
  }
  if (!is_mine) return;
  for (int n = 0; n < 2; ++n) {
    const int64_t to = (2 * int64_t{blockIdx.x} + n) * a.D + i;
    store(dweight[n], a.dweight_parts + to);
    if (a.dbias_parts) store(dbias[n], a.dbias_parts + to);
  }
}

template <class Float>
int64_t threads_of(int64_t D) {
  return threads_for(blocks_for(D, kSize<Float>), kMostThreads);
}

}  // namespace

template <class Float>
bool takes_norm_pair(int64_t D) {
  return D % kSize<Float> == 0 && D <= int64_t{kMostThreads} * kSize<Float>;
}

template <class Float>
void norm_pair_forward(int64_t rows,
                       int64_t D,
                       bool is_rms,
                       float eps,
                       const Float* x,
                       const Float* delta,
                       const NormPair<Float>& norms,
                       Float* h,
                       Float* const (&y)[2],
                       float* stats) {
  const Forward<Float> a{D, eps, x, delta, norms, h, {y[0], y[1]}, stats};
  launch(is_rms ? &norm_pair_row<true, Float> : &norm_pair_row<false, Float>,
         dim3(rows),
         dim3(threads_of<Float>(D)),
         0,
         a);
}

template <class Float>
void norm_pair_backward(int64_t rows,
                        int64_t D,
                        bool is_rms,
                        const Float* h,
                        const NormPair<Float>& norms,
                        const float* stats,
                        const Float* const (&dy)[2],
                        const Float* dh,
                        Float* dx,
                        float* dweight,
                        float* dbias) {
  // About as many blocks as an H100 holds, the same on every GPU, so that sums are, too.
  const int64_t blocks = std::min<int64_t>(blocks_for(rows, 8), 132 * 8);
  const Scratch parts(blocks * 4 * D * static_cast<int64_t>(sizeof(float)));
  float *dweight_parts = parts.template as<float>(), *dbias_parts = dweight_parts + blocks * 2 * D;
  const Backward<Float> a{rows,
                          D,
                          h,
                          norms,
                          stats,
                          {dy[0], dy[1]},
                          dh,
                          dx,
                          dweight_parts,
                          dbias ? dbias_parts : nullptr};
  launch(is_rms ? &norm_pair_gradient<true, Float> : &norm_pair_gradient<false, Float>,
         dim3(blocks),
         dim3(threads_of<Float>(D)),
         0,
         a);
  sum_columns(blocks, 2 * D, dweight_parts, dweight);
  if (dbias) sum_columns(blocks, 2 * D, dbias_parts, dbias);
}

template decltype(takes_norm_pair<float>) takes_norm_pair<float>;
template decltype(takes_norm_pair<Bf16>) takes_norm_pair<Bf16>;
template decltype(norm_pair_forward<float>) norm_pair_forward<float>;
template decltype(norm_pair_forward<Bf16>) norm_pair_forward<Bf16>;
template decltype(norm_pair_backward<float>) norm_pair_backward<float>;
template decltype(norm_pair_backward<Bf16>) norm_pair_backward<Bf16>;

}  // namespace basin::kernels
