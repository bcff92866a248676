// The second stage of reductions over rows: every block of the first stage leaves a row of partial
// sums, which are added up here in a fixed order.
#pragma once

#include "model/kernels/cuda/launch.cuh"

namespace basin::kernels {

/// A block of 32 x 32 threads sums 32 columns: each of its warps takes every 32nd row, and then the
/// 32 sums of one column.
static __global__ void __launch_bounds__(kWarp* kWarp)
    sum_32_columns(int64_t rows, int64_t columns, const float* parts, float* sums) {
  __shared__ float by_row[kWarp][kWarp + 1];  // one more: no bank conflicts when read by columns
  const int64_t first = int64_t{blockIdx.x} * kWarp, column = first + threadIdx.x;
  float sum = 0;
  if (column < columns)
    for (int64_t row = threadIdx.y; row < rows; row += kWarp) sum += parts[row * columns + column];
  by_row[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  sum = warp_sum(by_row[threadIdx.x][threadIdx.y]);
  if (threadIdx.x == 0 && first + threadIdx.y < columns) sums[first + threadIdx.y] = sum;
}

/// parts (rows, columns) -> sums (columns), overwritten.
inline void sum_columns(int64_t rows, int64_t columns, const float* parts, float* sums) {
  launch(&sum_32_columns,
         dim3(blocks_for(columns, kWarp)),
         dim3(kWarp, kWarp),
         0,
         rows,
         columns,
         parts,
         sums);
}

}  // namespace basin::kernels
