// What the CUDA cross-entropy does that the CPU's does otherwise.
#include <cmath>

#include "tests/support/kernel_checks.h"

namespace basin::kernels {
namespace {

TYPED_TEST_SUITE(KernelTest, KernelTypes);

TYPED_TEST(KernelTest, TargetsOutsideTheVocabularyMakeTheirRowNan) {
  for (const int64_t bad : {int64_t{-1}, int64_t{40}, int64_t{1} << 40}) {
    std::vector<TypeParam> logits(120, from_double<TypeParam>(0.5));
    std::vector<float> nll(3, 7);
    const std::vector<int64_t> targets = {0, bad, 2};
    cross_entropy_in_place<TypeParam>(3, 40, logits.data(), targets.data(), 1, nll.data());
    for (size_t i = 0; i < logits.size(); ++i)
      EXPECT_EQ(std::isnan(to_double(logits[i])), i / 40 == 1) << i << ", target " << bad;
    EXPECT_TRUE(std::isnan(nll[1]));
    EXPECT_NEAR(nll[2], std::log(40), 1e-5);
  }
}

}  // namespace
}  // namespace basin::kernels
