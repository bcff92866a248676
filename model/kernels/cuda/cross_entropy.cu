// Softmax cross-entropy whose logits become their own gradient, a block for a row. Rows that fit are
// kept in shared memory: one read, one write. Longer ones are read once for maximum and sum
// together, and once more for the gradient. Targets cannot be checked
// here without waiting for the device: one outside the vocabulary makes its loss and its row NaN.
#include <algorithm>
#include <limits>

#include "model/kernels/cuda/packs.cuh"

namespace basin::kernels {

namespace {

constexpr int kMostThreads = 1024;

struct RowLoss {
  float max, sum, nll;  // sum: of exp(logit - max)
};

// Every thread corrects its sum when it meets a larger logit. A NaN or an infinite logit makes sum
// and nll NaN; the start is finite, so that masked logits (-infinity) count as zeros.
template <int kWidth, class Float>
__device__ RowLoss row_loss(int64_t V, const Float* row, int64_t target) {
  __shared__ float space[kWarp];
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const bool known = target >= 0 && target < V;
  const float target_logit = known ? widen(row[target]) : nan;  // before the row is overwritten
  float max = std::numeric_limits<float>::lowest(), sum = known ? 0.0f : nan;
  for (int64_t i = int64_t{threadIdx.x} * kWidth; i < V; i += int64_t{blockDim.x} * kWidth) {
    float logits[kWidth], larger = max;
    load(row + i, logits);
    for (int j = 0; j < kWidth; ++j) larger = fmaxf(larger, logits[j]);
    sum *= __expf(max - larger);
    for (int j = 0; j < kWidth; ++j) sum += __expf(logits[j] - larger);
    max = larger;
  }
  const float row_max = block_max(max, space),
              row_sum = block_sum(sum * __expf(max - row_max), space);
  return {row_max, row_sum, logf(row_sum) + (row_max - target_logit)};
}

template <int kWidth, class Float>
__global__ void __launch_bounds__(kMostThreads)
    nll_row(int64_t V, const Float* logits, const int64_t* targets, float* nll) {
  const RowLoss loss = row_loss<kWidth>(V, logits + blockIdx.x * V, targets[blockIdx.x]);
  if (threadIdx.x == 0) nll[blockIdx.x] = loss.nll;
}

template <int kWidth, class Float>
__global__ void __launch_bounds__(kMostThreads)
    cross_entropy_row(int64_t V, Float* logits, const int64_t* targets, float scale, float* nll) {
  Float* const row = logits + blockIdx.x * V;
  const int64_t target = targets[blockIdx.x];
  const RowLoss loss = row_loss<kWidth>(V, row, target);
  if (threadIdx.x == 0) nll[blockIdx.x] = loss.nll;
  const float factor = 1.0f / loss.sum;
  for (int64_t i = int64_t{threadIdx.x} * kWidth; i < V; i += int64_t{blockDim.x} * kWidth) {
    float x[kWidth];
    load(row + i, x);
    for (int j = 0; j < kWidth; ++j)
      x[j] = scale * (__expf(x[j] - loss.max) * factor - (i + j == target ? 1.0f : 0.0f));
    store(x, row + i);
  }
}

int64_t row_threads(int64_t V, int width) {
  return threads_for(blocks_for(V, width == 1 ? 4 : width), kMostThreads);
}

// Each thread keeps, and later reads, its own packs only.
template <int kWidth, class Float>
__global__ void __launch_bounds__(kMostThreads)
    cross_entropy_kept(int64_t V, Float* logits, const int64_t* targets, float scale, float* nll) {
  __shared__ float space[kWarp];
  Float* const kept = shared_memory<Float>();  // (V)
  Float* const row = logits + blockIdx.x * V;
  const int64_t target = targets[blockIdx.x];
  const bool known = target >= 0 && target < V;
  const float nan = std::numeric_limits<float>::quiet_NaN(),
              target_logit = known ? widen(row[target]) : nan;
  const int first = static_cast<int>(threadIdx.x) * kWidth,
            step = static_cast<int>(blockDim.x) * kWidth, size = static_cast<int>(V);
  float max = std::numeric_limits<float>::lowest(), sum = known ? 0.0f : nan;
#pragma unroll 4
  for (int i = first; i < size; i += step) {
    const auto pack = *reinterpret_cast<const Pack<Float, kWidth>*>(row + i);
    *reinterpret_cast<Pack<Float, kWidth>*>(kept + i) = pack;
    for (int j = 0; j < kWidth; ++j) max = fmaxf(max, widen(pack.values[j]));
  }
  max = block_max(max, space);
  for (int i = first; i < size; i += step) {
    float x[kWidth];
    load(kept + i, x);
    for (int j = 0; j < kWidth; ++j) sum += __expf(x[j] - max);
  }
  sum = block_sum(sum, space);
  if (threadIdx.x == 0) nll[blockIdx.x] = logf(sum) + (max - target_logit);
  const float factor = 1.0f / sum;
  for (int i = first; i < size; i += step) {
    float x[kWidth];
    load(kept + i, x);
    for (int j = 0; j < kWidth; ++j)
      x[j] = scale * (__expf(x[j] - max) * factor - (i + j == target ? 1.0f : 0.0f));
    store(x, row + i);
  }
}

}  // namespace

template <class Float>
void cross_entropy_in_place(
    int64_t rows, int64_t V, Float* logits, const int64_t* targets, float scale, float* nll) {
  with_width<Float>(packable<Float>(V, logits), [&](auto width) {
    const dim3 threads(row_threads(V, width));
    constexpr int64_t kMost = 160 * 1024;  // beyond that too few blocks run at once
    const int64_t bytes = V * static_cast<int64_t>(sizeof(Float));
    const bool keeps = bytes <= std::min(kMost, most_shared_memory());
    const auto kernel =
        keeps ? &cross_entropy_kept<width(), Float> : &cross_entropy_row<width(), Float>;
    const int shared = keeps ? static_cast<int>(bytes) : 0;
    launch(kernel, dim3(rows), threads, shared, V, logits, targets, scale, nll);
  });
}

template <class Float>
void cross_entropy(
    int64_t rows, int64_t V, const Float* logits, const int64_t* targets, float* nll) {
  with_width<Float>(packable<Float>(V, logits), [&](auto width) {
    const dim3 threads(row_threads(V, width));
    launch(&nll_row<width(), Float>, dim3(rows), threads, 0, V, logits, targets, nll);
  });
}

template decltype(cross_entropy<float>) cross_entropy<float>;
template decltype(cross_entropy<Bf16>) cross_entropy<Bf16>;
template decltype(cross_entropy_in_place<float>) cross_entropy_in_place<float>;
template decltype(cross_entropy_in_place<Bf16>) cross_entropy_in_place<Bf16>;

}  // namespace basin::kernels
