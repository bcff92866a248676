// Sums over rows, and into fp32, against fp64, at sizes that do and do not fill packs, warps and
// blocks.
#include "model/kernels/cuda/sums.h"
#include "tests/support/kernel_checks.h"

namespace basin::kernels {
namespace {

template <class Float>
class SumRows : public testing::Test {};
TYPED_TEST_SUITE(SumRows, KernelTypes);

TYPED_TEST(SumRows, MatchFp64) {
  for (const auto& [rows, columns] : {std::pair<int64_t, int64_t>{1, 8},
                                      {300, 256},
                                      {257, 768},
                                      {1030, 40},
                                      {9, 7},
                                      {513, 301}}) {
    const std::vector<TypeParam> x = random_array<TypeParam>(rows * columns, 1);
    std::vector<float> sums(static_cast<size_t>(columns), NAN);
    sum_rows(rows, columns, x.data(), sums.data());
    for (int64_t c = 0; c < columns; ++c) {
      double expected = 0, size = 0;
      for (int64_t r = 0; r < rows; ++r) {
        expected += to_double(x[r * columns + c]);
        size += std::abs(to_double(x[r * columns + c]));
      }
      EXPECT_NEAR(sums[c], expected, 1e-6 * size) << rows << " x " << columns << ", column " << c;
    }
  }
}

TYPED_TEST(SumRows, IntoFp32MatchFp64) {
  for (const int64_t n : {1, 7, 8, 2048, 5003}) {
    const std::vector<TypeParam> x = random_array<TypeParam>(n, 1);
    const std::vector<float> before = random_array<float>(n, 2, 100);
    std::vector<float> sum = before;
    add_to_sum(n, x.data(), sum.data());
    for (int64_t i = 0; i < n; ++i)
      EXPECT_EQ(sum[i], static_cast<float>(before[i] + to_double(x[i]))) << i;
  }
}

}  // namespace
}  // namespace basin::kernels
