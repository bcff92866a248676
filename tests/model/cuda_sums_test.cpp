// Sums over rows against fp64, at sizes that do and do not fill packs, warps and
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

}  // namespace
}  // namespace basin::kernels
