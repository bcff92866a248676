// The matrix product of bf16 on a CPU, where Basin's is faster than LibTorch's. Tested against
// fp64; ops choose (model/gemm.h).
#pragma once

#include "model/kernels/kernels.h"

namespace basin::kernels {

/// A matrix (rows, depth) as a product reads it: element (r, k) is data[r * stride + k], or
/// data[k * stride + r] of a transposed one.
struct GemmOperand {
  const Bf16* data;
  int64_t stride;
  bool transposed;
};

struct Gemm {
  int64_t M, N, K;
  GemmOperand a;     // (M, K)
  GemmOperand b;     // (N, K)
  const Bf16* bias;  // (N) or null
  Bf16* c;           // (M, N), contiguous
};

/// Whether this processor has AVX512-BF16 and nothing that LibTorch makes more of (AMX), or no
/// AVX-512 at all: LibTorch then multiplies bf16 on one thread, one element at a time.
bool has_gemm();

/// Floats of memory that gemm() wants beside its operands.
int64_t gemm_workspace(int64_t M, int64_t N, int64_t K);

/// c = a b' + bias: products of bf16, sums in fp32, rounded once. The order of the sums depends on
/// K alone, so results do not change with the number of threads. `workspace`: 64-byte aligned.
void gemm(const Gemm& call, float* workspace);

}  // namespace basin::kernels
