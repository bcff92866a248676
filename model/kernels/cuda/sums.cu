// Over rows: a block's warps read a band of columns, a row each in turn; their sums are added up in
// shared memory and, over all blocks, in a second launch.
#include "model/kernels/cuda/column_sums.cuh"
#include "model/kernels/cuda/packs.cuh"
#include "model/kernels/cuda/sums.h"

namespace basin::kernels {
namespace {

constexpr int kWarps = 8, kAhead = 4;  // rows of a warp that are under way together
constexpr int64_t kRowsOfBlock = 256;

template <int kWidth, class Float>
__global__ void __launch_bounds__(kWarp* kWarps)
    sum_band(int64_t rows, int64_t columns, const Float* x, float* parts) {
  __shared__ float of_warps[kWarps][kWarp * kWidth];
  const int lane = static_cast<int>(threadIdx.x) % kWarp,
            warp = static_cast<int>(threadIdx.x) / kWarp;
  const int64_t column = (int64_t{blockIdx.x} * kWarp + lane) * kWidth,
                first = blockIdx.y * kRowsOfBlock, end = std::min(first + kRowsOfBlock, rows);
  float sum[kWidth] = {};
  if (column < columns) {
    int64_t row = first + warp;
    for (; row + (kAhead - 1) * kWarps < end; row += kAhead * kWarps) {
      float v[kAhead][kWidth];
#pragma unroll
      for (int u = 0; u < kAhead; ++u) load(x + (row + u * kWarps) * columns + column, v[u]);
#pragma unroll
      for (int u = 0; u < kAhead; ++u)
        for (int j = 0; j < kWidth; ++j) sum[j] += v[u][j];
    }
    for (; row < end; row += kWarps) {
      float v[kWidth];
      load(x + row * columns + column, v);
      for (int j = 0; j < kWidth; ++j) sum[j] += v[j];
    }
  }
  for (int j = 0; j < kWidth; ++j) of_warps[warp][lane * kWidth + j] = sum[j];
  __syncthreads();
  for (int64_t i = threadIdx.x; i < kWarp * kWidth; i += kWarp * kWarps) {
    const int64_t at = int64_t{blockIdx.x} * kWarp * kWidth + i;
    if (at >= columns) continue;
    float total = 0;
    for (int w = 0; w < kWarps; ++w) total += of_warps[w][i];
    parts[blockIdx.y * columns + at] = total;
  }
}

template <int kWidth, class Float>
__global__ void add_elements(int64_t n, const Float* x, float* sum) {
  const int64_t i = first_element<kWidth>();
  if (i >= n) return;
  float v[kWidth], total[kWidth];
  load(x + i, v);
  load(sum + i, total);
  for (int j = 0; j < kWidth; ++j) total[j] += v[j];
  store(total, sum + i);
}

}  // namespace

template <class Float>
void sum_rows(int64_t rows, int64_t columns, const Float* x, float* sums) {
  const int64_t bands = blocks_for(rows, kRowsOfBlock);
  const Scratch parts(bands * columns * static_cast<int64_t>(sizeof(float)));
  with_width<Float>(packable<Float>(columns, x), [&](auto width) {
    launch(&sum_band<width(), Float>,
           dim3(blocks_for(columns, kWarp * width), bands),
           dim3(kWarp * kWarps),
           0,
           rows,
           columns,
           x,
           parts.template as<float>());
  });
  sum_columns(bands, columns, parts.template as<float>(), sums);
}

template <class Float>
void add_to_sum(int64_t n, const Float* x, float* sum) {
  constexpr int kThreads = 256;
  in_packs<Float>(n, packable<Float>(0, x, sum), [&](auto width, int64_t begin, int64_t count) {
    const dim3 blocks(blocks_for(count, kThreads * width));
    launch(&add_elements<width(), Float>, blocks, dim3(kThreads), 0, count, x + begin, sum + begin);
  });
}

template decltype(sum_rows<float>) sum_rows<float>;
template decltype(sum_rows<Bf16>) sum_rows<Bf16>;
template decltype(add_to_sum<Bf16>) add_to_sum<Bf16>;

}  // namespace basin::kernels
