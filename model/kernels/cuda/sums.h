// Sums that gradients take: over the rows of a matrix (a bias'), and over micro-batches.
#pragma once

#include <cstdint>

#include "model/kernels/kernels.h"

namespace basin::kernels {

/// x (rows, columns) -> sums (columns), added up in fp32 in a fixed order, overwritten. Pointers are
/// to device memory.
template <class Float>
void sum_rows(int64_t rows, int64_t columns, const Float* x, float* sums);

/// sum[i] += x[i], n elements.
template <class Float>
void add_to_sum(int64_t n, const Float* x, float* sum);

}  // namespace basin::kernels
