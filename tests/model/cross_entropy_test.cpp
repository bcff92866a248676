// Cross-entropy kernel against its definition in fp64.
#include <cmath>
#include <limits>
#include <stdexcept>

#include "tests/support/kernel_checks.h"

namespace basin::kernels {
namespace {

std::vector<int64_t> targets_of(int64_t rows, int64_t V) {
  std::vector<int64_t> targets(static_cast<size_t>(rows));
  for (int64_t n = 0; n < rows; ++n) targets[n] = n == 0 ? V - 1 : n * 7919 % V;
  return targets;
}

template <class Float>
void expect_matches_definition(int64_t rows, int64_t V, double spread) {
  SCOPED_TRACE(testing::Message() << "rows " << rows << ", V " << V << ", spread " << spread);
  const double scale = 1 / static_cast<double>(rows);
  std::vector<Float> logits = random_array<Float>(rows * V, 1, spread);
  const std::vector<int64_t> targets = targets_of(rows, V);
  std::vector<double> nll_want, gradient_want;
  for (int64_t n = 0; n < rows; ++n) {
    double max = -1e300, sum = 0;
    for (int64_t i = 0; i < V; ++i) max = std::max(max, to_double(logits[n * V + i]));
    for (int64_t i = 0; i < V; ++i) sum += std::exp(to_double(logits[n * V + i]) - max);
    nll_want.push_back(std::log(sum) + max - to_double(logits[n * V + targets[n]]));
    for (int64_t i = 0; i < V; ++i)
      gradient_want.push_back(
          scale * (std::exp(to_double(logits[n * V + i]) - max) / sum - (i == targets[n] ? 1 : 0)));
  }
  std::vector<float> nll(static_cast<size_t>(rows), -1);
  cross_entropy<Float>(rows, V, logits.data(), targets.data(), nll.data());
  expect_close(nll, nll_want);
  std::fill(nll.begin(), nll.end(), -1);
  cross_entropy_in_place<Float>(
      rows, V, logits.data(), targets.data(), static_cast<float>(scale), nll.data());
  expect_close(nll, nll_want);
  expect_close(logits, gradient_want, 1e-5, 1e-2 * scale);
}

TYPED_TEST_SUITE(KernelTest, KernelTypes);

TYPED_TEST(KernelTest, CrossEntropyMatchesItsDefinition) {
  for_each_instruction_set([] {
    for (const int64_t V : {1, 2, 17, 512, 1000, 4099}) {
      expect_matches_definition<TypeParam>(3, V, 1);
      expect_matches_definition<TypeParam>(2, V, 20);
    }
  });
  expect_matches_definition<TypeParam>(70, 1000, 3);  // several threads
  expect_matches_definition<TypeParam>(2, 65536, 3);
}

TYPED_TEST(KernelTest, CrossEntropyOfMaskedLogitsIsExactlyZeroThere) {
  const double infinity = std::numeric_limits<double>::infinity();
  std::vector<TypeParam> logits(100, from_double<TypeParam>(1e30));
  logits[5] = TypeParam{};
  for (int i = 50; i < 100; ++i) logits[i] = from_double<TypeParam>(-infinity);
  const std::vector<int64_t> targets = {0};
  std::vector<float> nll = {-1};
  cross_entropy_in_place<TypeParam>(1, 100, logits.data(), targets.data(), 1, nll.data());
  EXPECT_NEAR(nll[0], std::log(49), 1e-5);
  EXPECT_EQ(to_double(logits[5]), 0);
  EXPECT_EQ(to_double(logits[99]), 0);
}

TYPED_TEST(KernelTest, CrossEntropyOfLogitsFarBelowZero) {
  std::vector<TypeParam> logits(100, from_double<TypeParam>(-1000));
  const std::vector<int64_t> targets = {3};
  std::vector<float> nll = {-1};
  cross_entropy_in_place<TypeParam>(1, 100, logits.data(), targets.data(), 1, nll.data());
  EXPECT_NEAR(nll[0], std::log(100), 1e-5);
  EXPECT_NEAR(to_double(logits[99]), 0.01, 1e-4);
}

TYPED_TEST(KernelTest, CrossEntropyOfNonFiniteLogitsIsNan) {
  for (const double bad :
       {std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity()}) {
    for_each_instruction_set([bad] {
      for (const int64_t place : {0, 37, 99}) {
        std::vector<TypeParam> logits(100, from_double<TypeParam>(0.5));
        logits[place] = from_double<TypeParam>(bad);
        const std::vector<int64_t> targets = {1};
        std::vector<float> nll = {-1};
        cross_entropy_in_place<TypeParam>(1, 100, logits.data(), targets.data(), 1, nll.data());
        EXPECT_TRUE(std::isnan(nll[0])) << place;
        EXPECT_TRUE(std::isnan(to_double(logits[1]))) << place;
      }
    });
  }
}

#ifndef BASIN_CUDA_KERNELS  // cannot refuse without waiting: cuda_cross_entropy_test.cpp
TEST(CrossEntropyTest, TargetsOutsideTheVocabularyAreRefusedBeforeAnythingIsWritten) {
  for (const int64_t bad : {int64_t{-1}, int64_t{10}, int64_t{1} << 40}) {
    std::vector<float> logits(20, 0.5f), nll(2, 3);
    const std::vector<int64_t> targets = {0, bad};
    try {
      cross_entropy_in_place<float>(2, 10, logits.data(), targets.data(), 1, nll.data());
      FAIL() << "accepted target " << bad;
    } catch (const std::out_of_range& error) {
      EXPECT_NE(std::string(error.what()).find(std::to_string(bad)), std::string::npos)
          << error.what();
    }
    EXPECT_EQ(logits, std::vector<float>(20, 0.5f));
    EXPECT_EQ(nll, std::vector<float>(2, 3));
  }
}
#endif

}  // namespace
}  // namespace basin::kernels
