// Sums over the rows of a matrix, which a bias' gradient takes.
#pragma once

#include <cstdint>

#include "model/kernels/kernels.h"

namespace basin::kernels {

/// x (rows, columns) -> sums (columns), added up in fp32 in a fixed order, overwritten. Pointers are
/// to device memory.
template <class Float>
void sum_rows(int64_t rows, int64_t columns, const Float* x, float* sums);

}  // namespace basin::kernels
