// Matrix products of ops: Basin's kernel for bf16 where it is the faster one, else LibTorch's.
#pragma once

#include <ATen/core/Tensor.h>

namespace basin::ops {

/// a (M, K) times b (K, N) plus bias (N), if defined -> (M, N), without gradient. Sums in fp32,
/// rounded once.
at::Tensor gemm(const at::Tensor& a, const at::Tensor& b, const at::Tensor& bias = {});

/// The same into `out` (M, N).
void gemm_out(at::Tensor& out,
              const at::Tensor& a,
              const at::Tensor& b,
              const at::Tensor& bias = {});

/// Whether products of x take Basin's kernel: bf16 on a CPU that has it, and no ReferenceGuard
/// alive.
bool takes_gemm(const at::Tensor& x);

/// In which type LibTorch multiplies matrices of `dtype` at full speed: fp32 for bf16 on a CPU
/// without AVX-512, where its product of bf16 takes one thread and one element at a time.
at::ScalarType product_dtype(at::ScalarType dtype, at::Device device);

/// Columns of logits over a vocabulary of V: on a GPU filled up to whole 16 bytes, without which
/// its products and the loss take several times as long.
int64_t logit_columns(int64_t V, bool on_gpu);

/// Bytes of memory that a product of bf16 on this CPU wants while it runs.
int64_t gemm_workspace_bytes(int64_t M, int64_t N, int64_t K);

}  // namespace basin::ops
