// Two norms of one input against the kernels for one norm.
#include "model/kernels/cuda/norm_pair.h"
#include "tests/support/kernel_checks.h"

namespace basin::kernels {
namespace {

template <class Float>
class NormPairs : public testing::Test {};
TYPED_TEST_SUITE(NormPairs, KernelTypes);

TYPED_TEST(NormPairs, AreTwoNorms) {
  const double ulp = std::is_same_v<TypeParam, float> ? 1e-5 : 1.0 / 64;
  for (const auto& [rows, D] : {std::pair<int64_t, int64_t>{3, 8}, {20, 768}, {33, 1000}})
    for (const bool is_rms : {true, false})
      for (const bool with_delta : {true, false}) {
        const auto random = [size = rows * D](uint64_t seed) {
          return random_array<TypeParam>(size, seed);
        };
        const std::vector<TypeParam> x = random(1), delta = random(2), dh = random(3);
        const std::vector<TypeParam> dy[2] = {random(4), random(5)};
        std::vector<TypeParam> weight[2], bias[2];
        for (uint64_t n = 0; n < 2; ++n) {
          weight[n] = random_array<TypeParam>(D, 6 + n);
          bias[n] = random_array<TypeParam>(D, 8 + n);
        }
        ASSERT_TRUE(takes_norm_pair<TypeParam>(D));
        const NormPair<TypeParam> norms{{weight[0].data(), weight[1].data()},
                                        {bias[0].data(), bias[1].data()}};
        std::vector<TypeParam> h = x, y[2] = {x, x}, dx = x;
        std::vector<float> stats(2 * rows), dweight(2 * D), dbias(2 * D);
        norm_pair_forward<TypeParam>(rows,
                                     D,
                                     is_rms,
                                     1e-5f,
                                     x.data(),
                                     with_delta ? delta.data() : nullptr,
                                     norms,
                                     with_delta ? h.data() : nullptr,
                                     {y[0].data(), y[1].data()},
                                     stats.data());
        norm_pair_backward<TypeParam>(rows,
                                      D,
                                      is_rms,
                                      h.data(),
                                      norms,
                                      stats.data(),
                                      {dy[0].data(), dy[1].data()},
                                      with_delta ? dh.data() : nullptr,
                                      dx.data(),
                                      dweight.data(),
                                      dbias.data());
        std::vector<double> want_dx(x.size());
        for (int n = 0; n < 2; ++n) {
          std::vector<TypeParam> one_h = x, one_y = x, one_dx = x;
          std::vector<float> one_stats(2 * rows), one_dweight(D), one_dbias(D);
          norm_forward<TypeParam>(rows,
                                  D,
                                  is_rms,
                                  1e-5f,
                                  x.data(),
                                  with_delta ? delta.data() : nullptr,
                                  weight[n].data(),
                                  bias[n].data(),
                                  with_delta ? one_h.data() : nullptr,
                                  one_y.data(),
                                  one_stats.data());
          norm_backward<TypeParam>(rows,
                                   D,
                                   is_rms,
                                   one_h.data(),
                                   weight[n].data(),
                                   one_stats.data(),
                                   dy[n].data(),
                                   with_delta && n == 0 ? dh.data() : nullptr,
                                   one_dx.data(),
                                   one_dweight.data(),
                                   one_dbias.data());
          for (size_t i = 0; i < x.size(); ++i) {
            EXPECT_EQ(to_double(h[i]), to_double(one_h[i]));
            EXPECT_NEAR(
                to_double(y[n][i]), to_double(one_y[i]), ulp * (1 + std::abs(to_double(one_y[i]))));
            want_dx[i] += to_double(one_dx[i]);
          }
          for (int64_t i = 0; i < D; ++i) {
            EXPECT_NEAR(dweight[n * D + i], one_dweight[i], 1e-4 * static_cast<double>(rows));
            EXPECT_NEAR(dbias[n * D + i], one_dbias[i], 1e-4 * static_cast<double>(rows));
          }
        }
        for (size_t i = 0; i < x.size(); ++i)
          EXPECT_NEAR(to_double(dx[i]), want_dx[i], ulp * (2 + std::abs(want_dx[i]))) << i;
      }
}

TYPED_TEST(NormPairs, LeaveOtherRowsAlone) {
  EXPECT_FALSE(takes_norm_pair<TypeParam>(7));
  EXPECT_FALSE(takes_norm_pair<TypeParam>(8192));
}

}  // namespace
}  // namespace basin::kernels
