#include "model/gemm.h"

#include <ATen/ATen.h>

#include "model/kernels/gemm.h"
#include "model/op_functions.h"

namespace basin::ops {
namespace {

// Below that LibTorch's product is as fast, or faster, where it has one: too few rows to pay for
// the packing.
int64_t least_rows() {
  return product_dtype(at::kBFloat16, at::kCPU) == at::kBFloat16 ? 32 : 1;
}

// A matrix as the kernel reads it; null where neither its rows nor its columns are contiguous.
std::optional<kernels::GemmOperand> operand(const at::Tensor& x) {
  const auto* data = in<kernels::Bf16>(x);
  if (x.stride(1) == 1) return kernels::GemmOperand{data, x.stride(0), false};
  if (x.stride(0) == 1) return kernels::GemmOperand{data, x.stride(1), true};
  return std::nullopt;
}

}  // namespace

bool takes_gemm(const at::Tensor& x) {
  return takes_cpu_kernel(x) && x.scalar_type() == at::kBFloat16 && kernels::has_gemm();
}

at::ScalarType product_dtype(at::ScalarType dtype, at::Device device) {
  const bool slow =
      device.is_cpu() && dtype == at::kBFloat16 && !__builtin_cpu_supports("avx512bw");
  return slow ? at::kFloat : dtype;
}

int64_t logit_columns(int64_t V, bool on_gpu) {
  constexpr int64_t kPack = 8;
  return on_gpu ? (V + kPack - 1) / kPack * kPack : V;
}

int64_t gemm_workspace_bytes(int64_t M, int64_t N, int64_t K) {
  if (!kernels::has_gemm() || K == 0 || std::min(M, N) < least_rows()) return 0;
  return kernels::gemm_workspace(M, N, K) * static_cast<int64_t>(sizeof(float));
}

void gemm_out(at::Tensor& out, const at::Tensor& a, const at::Tensor& b, const at::Tensor& bias) {
  const int64_t M = a.size(0), K = a.size(1), N = b.size(1);
  if (takes_gemm(a) && out.is_contiguous() && K > 0 && std::min(M, N) >= least_rows()) {
    const auto rows = operand(a), columns = operand(b.t());
    if (rows && columns) {
      const at::Tensor workspace =
          at::empty({kernels::gemm_workspace(M, N, K)}, a.options().dtype(at::kFloat));
      kernels::gemm(
          {M, N, K, *rows, *columns, in<kernels::Bf16>(bias), ops::out<kernels::Bf16>(out)},
          ops::out<float>(workspace));
      return;
    }
  }
  if (bias.defined()) {
    at::addmm_out(out, bias, a, b);
  } else {
    at::mm_out(out, a, b);
  }
}

at::Tensor gemm(const at::Tensor& a, const at::Tensor& b, const at::Tensor& bias) {
  at::Tensor out = at::empty({a.size(0), b.size(1)}, a.options());
  gemm_out(out, a, b, bias);
  return out;
}

}  // namespace basin::ops
