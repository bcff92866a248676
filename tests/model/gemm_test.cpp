// Products of bf16 against fp64: every layout of the operands, sizes that no panel, vector or pair
// divides, depths beyond one run of sums.
#include "model/gemm.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <omp.h>

#include <limits>

#include "model/kernels/gemm.h"

namespace basin {
namespace {

struct Sizes {
  int64_t M, N, K;
};

// (rows, columns) of bf16; a transposed one is the transpose of a contiguous matrix.
at::Tensor matrix(int64_t rows, int64_t columns, bool transposed) {
  const at::Tensor x =
      at::randn(transposed ? at::IntArrayRef{columns, rows} : at::IntArrayRef{rows, columns})
          .to(at::kBFloat16);
  return transposed ? x.t() : x;
}

// Each element may be wrong by fp32's rounding of K sums and by its own rounding to bf16.
void expect_product(const at::Tensor& c,
                    const at::Tensor& a,
                    const at::Tensor& b,
                    const at::Tensor& bias) {
  at::Tensor exact = at::matmul(a.to(at::kDouble), b.to(at::kDouble));
  if (bias.defined()) exact = exact + bias.to(at::kDouble);
  const at::Tensor size = at::matmul(a.to(at::kDouble).abs(), b.to(at::kDouble).abs());
  const at::Tensor excess = (c.to(at::kDouble) - exact).abs() - (exact.abs() / 256 + size * 1e-6);
  EXPECT_LE(excess.max().item<double>(), 0) << a.sizes() << " times " << b.sizes();
}

TEST(GemmTest, EveryLayoutAndSizeMatchesFp64) {
  at::manual_seed(1);
  for (const auto& [M, N, K] :
       {Sizes{32, 32, 1},   // one pair, half of it missing
        Sizes{14, 32, 64},  // one tile; LibTorch's, since it has too few rows
        Sizes{42, 64, 64},  // whole tiles
        Sizes{37, 45, 33},
        Sizes{61, 36, 130},
        Sizes{130, 200, 71},   // the rows are shared
        Sizes{200, 130, 257},  // the columns are
        Sizes{33, 37, 9217},   // three runs of depth, the last one odd
        Sizes{40, 35, 9217},
        Sizes{700, 500, 300}}) {
    for (const bool a_transposed : {false, true}) {
      for (const bool b_transposed : {false, true}) {
        const at::Tensor a = matrix(M, K, a_transposed), b = matrix(K, N, b_transposed),
                         bias = at::randn({N}).to(at::kBFloat16);
        expect_product(ops::gemm(a, b), a, b, {});
        expect_product(ops::gemm(a, b, bias), a, b, bias);
      }
    }
  }
}

TEST(GemmTest, RowsOfAWiderMatrixAreAnOperand) {
  const at::Tensor wide = matrix(60, 100, false), a = wide.narrow(1, 20, 50),
                   b = matrix(40, 60, false).t();  // b (60, 40)
  expect_product(ops::gemm(a.t(), b), a.t(), b, {});
}

TEST(GemmTest, ThreadsDoNotChangeBits) {
  const at::Tensor a = matrix(300, 5001, true), b = matrix(5001, 200, false);
  const int before = omp_get_max_threads();
  const at::Tensor expected = ops::gemm(a, b);
  for (const int threads : {1, 2, 3, 7}) {
    omp_set_num_threads(threads);
    EXPECT_TRUE(at::equal(ops::gemm(a, b), expected)) << threads;
  }
  omp_set_num_threads(before);
}

TEST(GemmTest, WritesNothingButItsResult) {
  if (!kernels::has_gemm()) return;  // LibTorch's product is not ours to check
  for (const auto& [M, N, K] : {Sizes{33, 47, 5}, Sizes{47, 33, 4700}}) {
    const at::Tensor a = matrix(M, K, false), b = matrix(K, N, true);  // b' has contiguous rows
    const int64_t workspace_size = kernels::gemm_workspace(M, N, K);
    at::Tensor c = at::full({M * N + 64}, 7).to(at::kBFloat16),
               workspace = at::full({workspace_size + 64}, 7.0f);
    const auto bits = [](const at::Tensor& x) { return static_cast<kernels::Bf16*>(x.data_ptr()); };
    kernels::gemm({M, N, K, {bits(a), K, false}, {bits(b), K, false}, nullptr, bits(c)},
                  workspace.data_ptr<float>());
    expect_product(c.narrow(0, 0, M * N).view({M, N}), a, b, {});
    EXPECT_TRUE((c.narrow(0, M * N, 64) == 7).all().item<bool>());
    EXPECT_TRUE((workspace.narrow(0, workspace_size, 64) == 7).all().item<bool>());
  }
}

TEST(GemmTest, NumbersThatAreNotStay) {
  at::Tensor a = matrix(40, 64, false);
  a[3][5] = std::numeric_limits<float>::quiet_NaN();
  a[4][6] = std::numeric_limits<float>::infinity();
  const at::Tensor b = matrix(64, 50, false), c = ops::gemm(a, b);
  EXPECT_TRUE(c[3].isnan().all().item<bool>());
  EXPECT_TRUE(at::logical_not(c[4].isfinite()).all().item<bool>());
  EXPECT_EQ(at::logical_not(c.isfinite()).sum().item<int64_t>(), 2 * 50);
}

}  // namespace
}  // namespace basin
