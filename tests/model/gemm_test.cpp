// Products of bf16 against fp64: every layout of the operands, sizes that no panel, vector or pair
// divides, depths beyond one run of sums; the kernels of every instruction set, and what ops make
// of them.
#include "model/gemm.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <limits>

#include "model/kernels/gemm.h"
#include "tests/support/kernel_checks.h"

namespace basin {
namespace {

struct Sizes {
  int64_t M, N, K;
};

// (rows, columns); a transposed one is the transpose of a contiguous matrix.
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

kernels::Bf16* bits(const at::Tensor& x) {
  return static_cast<kernels::Bf16*>(x.data_ptr());
}

constexpr int64_t kMargin = 64;  // elements behind a result that must stay

// a (M, K) times b (K, N) by the kernel itself.
at::Tensor kernel_product(const at::Tensor& a, const at::Tensor& b, const at::Tensor& bias) {
  const int64_t M = a.size(0), K = a.size(1), N = b.size(1);
  const auto operand = [](const at::Tensor& x) {
    const bool transposed = x.stride(1) != 1;
    return kernels::GemmOperand{bits(x), x.stride(transposed ? 1 : 0), transposed};
  };
  const int64_t floats = kernels::gemm_workspace(M, N, K);
  const at::Tensor c = at::full({M * N + kMargin}, 7, a.options()),
                   workspace = at::full({floats + kMargin}, 7, a.options().dtype(at::kFloat));
  kernels::gemm(
      {M, N, K, operand(a), operand(b.t()), bias.defined() ? bits(bias) : nullptr, bits(c)},
      workspace.data_ptr<float>());
  EXPECT_TRUE((c.narrow(0, M * N, kMargin) == 7).all().item<bool>());
  EXPECT_TRUE((workspace.narrow(0, floats, kMargin) == 7).all().item<bool>());
  return c.narrow(0, 0, M * N).view({M, N});
}

void check_layouts(const Sizes& sizes) {
  const auto& [M, N, K] = sizes;
  for (const bool a_transposed : {false, true}) {
    for (const bool b_transposed : {false, true}) {
      const at::Tensor a = matrix(M, K, a_transposed), b = matrix(K, N, b_transposed),
                       bias = at::randn({N}).to(at::kBFloat16);
      expect_product(kernel_product(a, b, {}), a, b, {});
      expect_product(kernel_product(a, b, bias), a, b, bias);
    }
  }
}

TEST(GemmTest, EveryLayoutAndSizeMatchesFp64) {
  at::manual_seed(1);
  kernels::for_each_instruction_set([] {
    for (const Sizes& sizes : {Sizes{1, 1, 1},
                               Sizes{32, 32, 1},   // one pair, half of it missing
                               Sizes{14, 32, 64},  // one tile
                               Sizes{42, 64, 64},  // whole tiles
                               Sizes{5, 45, 33},
                               Sizes{37, 45, 33},
                               Sizes{61, 36, 130},
                               Sizes{130, 200, 71},   // the rows are shared
                               Sizes{200, 130, 257},  // the columns are
                               Sizes{33, 37, 9217},   // runs of depth, the last one odd
                               Sizes{40, 35, 9217},
                               Sizes{700, 500, 300}}) {
      check_layouts(sizes);
    }
  });
}

TEST(GemmTest, ThreadsDoNotChangeBits) {
  const at::Tensor a = matrix(300, 5001, true), b = matrix(5001, 200, false),
                   expected = kernel_product(a, b, {});
  kernels::for_each_thread_count(
      {1, 2, 3, 7}, [&] { EXPECT_TRUE(at::equal(kernel_product(a, b, {}), expected)); });
}

TEST(GemmTest, FewRowsAndManyMatchFp64) {
  for (const auto& [M, N, K] : {Sizes{1, 300, 70}, Sizes{31, 40, 5}, Sizes{300, 200, 70}}) {
    const at::Tensor a = matrix(M, K, false), b = matrix(K, N, true),
                     bias = at::randn({N}).to(at::kBFloat16);
    expect_product(ops::gemm(a, b), a, b, {});
    expect_product(ops::gemm(a, b, bias), a, b, bias);
  }
}

TEST(GemmTest, WithoutDepthOnlyTheBiasIsLeft) {
  const at::Tensor bias = at::randn({40}).to(at::kBFloat16),
                   c = ops::gemm(matrix(50, 0, false), matrix(0, 40, false), bias);
  EXPECT_TRUE(at::equal(c, bias.expand({50, 40})));
}

TEST(GemmTest, RowsOfAWiderMatrixAreAnOperand) {
  const at::Tensor wide = matrix(60, 100, false), a = wide.narrow(1, 20, 50),
                   b = matrix(40, 60, false).t();  // b (60, 40)
  expect_product(ops::gemm(a.t(), b), a.t(), b, {});
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
