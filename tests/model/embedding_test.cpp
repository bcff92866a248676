// The scatter-add equals a plain loop: bit for bit on any number of threads, and within rounding on
// GPUs, where the rows of a frequent id are summed in pieces.
#include "tests/support/kernel_checks.h"

namespace basin::kernels {
namespace {

template <class Float>
void expect_equals_plain_loop(int64_t n, int64_t D, int64_t V) {
  SCOPED_TRACE(testing::Message() << "n " << n << ", D " << D);
  const std::vector<Float> dy = random_array<Float>(n * D, 1);
  std::vector<float> got = random_array<float>(V * D, 2), want = got;
  std::vector<int64_t> ids(static_cast<size_t>(n));
  for (int64_t row = 0; row < n; ++row) ids[row] = row * row % V;  // many repeats
  for (int64_t row = 0; row < n; ++row) {
    for (int64_t i = 0; i < D; ++i)
      want[ids[row] * D + i] += static_cast<float>(to_double(dy[row * D + i]));
  }
  embedding_backward<Float>(n, D, ids.data(), dy.data(), got.data());
#ifdef BASIN_CUDA_KERNELS
  expect_close(got, std::vector<double>(want.begin(), want.end()), 1e-5, 1);
#else
  EXPECT_EQ(got, want);
#endif
}

TYPED_TEST_SUITE(KernelTest, KernelTypes);

TYPED_TEST(KernelTest, EmbeddingGradientEqualsAPlainLoop) {
  for_each_thread_count({1, 2, 3, 7}, [] {
    for (const int64_t D : {1, 17, 96, 128, 133, 400}) {
      expect_equals_plain_loop<TypeParam>(3, D, 2);
      expect_equals_plain_loop<TypeParam>(1500, D, 61);
    }
    expect_equals_plain_loop<TypeParam>(8000, 17, 61);  // too narrow to split by columns
    expect_equals_plain_loop<TypeParam>(0, 96, 61);
  });
  for_each_instruction_set([] { expect_equals_plain_loop<TypeParam>(50, 133, 13); });
}

}  // namespace
}  // namespace basin::kernels
