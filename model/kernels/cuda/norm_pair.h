// Two norms of the same input, as a block with a parallel residual has them: one read and one set
// of statistics for both, and one gradient of the input.
#pragma once

#include <cstdint>

#include "model/kernels/kernels.h"

namespace basin::kernels {

/// Weight and bias of both norms, (D); biases null or not, alike.
template <class Float>
struct NormPair {
  const Float* weight[2];
  const Float* bias[2];
};

/// Whether the functions below take rows of this size.
template <class Float>
bool takes_norm_pair(int64_t D);

/// h = x + delta (delta and h null: h is x), y[n] = norm n of h, stats (rows, 2). All (rows, D),
/// aligned to 16 bytes, in device memory.
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
                       float* stats);

/// dx from dy[0], dy[1] and dh (or null); dweight and dbias (2, D) each, overwritten, dbias null
/// without biases.
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
                        float* dbias);

}  // namespace basin::kernels
