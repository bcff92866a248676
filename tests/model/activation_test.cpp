// SwiGLU and GELU kernels against their definitions in fp64.
#include <cmath>
#include <limits>
#include <numbers>

#include "tests/support/kernel_checks.h"

namespace basin::kernels {
namespace {

double sigmoid(double x) {
  return 1 / (1 + std::exp(-x));
}
double normal_cdf(double x) {
  return 0.5 * std::erfc(-x / std::numbers::sqrt2);
}
double normal_pdf(double x) {
  return std::exp(-x * x / 2) / std::sqrt(2 * std::numbers::pi);
}

template <class Float>
void expect_swiglu(int64_t rows, int64_t F) {
  SCOPED_TRACE(testing::Message() << "rows " << rows << ", F " << F);
  const std::vector<Float> gate_up = random_array<Float>(rows * 2 * F, 1, 3),
                           dy = random_array<Float>(rows * F, 2);
  std::vector<Float> y(dy.size()), dgate_up(gate_up.size());
  swiglu_forward<Float>(rows, F, gate_up.data(), y.data());
  swiglu_backward<Float>(rows, F, gate_up.data(), dy.data(), dgate_up.data());
  std::vector<double> y_want(y.size()), gradient_want(gate_up.size());
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t i = 0; i < F; ++i) {
      const int64_t gate = row * 2 * F + i, up = gate + F, out = row * F + i;
      const double g = to_double(gate_up[gate]), u = to_double(gate_up[up]), d = to_double(dy[out]),
                   s = sigmoid(g);
      y_want[out] = g * s * u;
      gradient_want[gate] = d * u * (s + g * s * (1 - s));
      gradient_want[up] = d * g * s;
    }
  }
  expect_close(y, y_want);
  expect_close(dgate_up, gradient_want);
}

template <class Float>
void expect_gelu(const std::vector<Float>& x) {
  const std::vector<Float> dy = random_array<Float>(static_cast<int64_t>(x.size()), 3);
  std::vector<Float> y(x.size()), dx(x.size());
  gelu_forward<Float>(static_cast<int64_t>(x.size()), x.data(), y.data());
  gelu_backward<Float>(static_cast<int64_t>(x.size()), x.data(), dy.data(), dx.data());
  std::vector<double> y_want, dx_want;
  for (size_t i = 0; i < x.size(); ++i) {
    const double v = to_double(x[i]);
    y_want.push_back(v * normal_cdf(v));
    dx_want.push_back(to_double(dy[i]) * (normal_cdf(v) + v * normal_pdf(v)));
  }
  expect_close(y, y_want);
  expect_close(dx, dx_want, 1e-5, 3e-2);  // its two terms cancel near -0.75
}

TYPED_TEST_SUITE(KernelTest, KernelTypes);

TYPED_TEST(KernelTest, SwigluMatchesItsDefinition) {
  for_each_instruction_set([] {
    for (const int64_t F : {1, 15, 16, 67, 384}) expect_swiglu<TypeParam>(5, F);
  });
  expect_swiglu<TypeParam>(700, 67);  // several threads
  expect_swiglu<TypeParam>(2, 2056);  // more than one turn of a GPU's block
}

TYPED_TEST(KernelTest, GeluMatchesItsDefinition) {
  for_each_instruction_set([] {
    for (const int64_t n : {1, 15, 16, 67, 1000}) expect_gelu(random_array<TypeParam>(n, 1, 2));
  });
  expect_gelu(random_array<TypeParam>(70001, 1, 2));  // several threads
}

TEST(ActivationTest, NormalDistributionOfGeluIsExactInBothTails) {
#ifdef BASIN_CUDA_KERNELS
  constexpr double kTolerance = 4e-7;  // CUDA's normcdff is right to 5 units in the last place
#else
  constexpr double kTolerance = 1.3e-7;  // 0.3e-7 of it from rounding y and 1e-7 the kernel
#endif
  std::vector<float> x, y;
  for (float v = 1e-4f; v < 15; v *= 1.0001f) x.insert(x.end(), {v, -v});
  y.resize(x.size());
  for_each_instruction_set([&] {
    gelu_forward<float>(static_cast<int64_t>(x.size()), x.data(), y.data());
    for (size_t i = 0; i < x.size(); ++i) {
      const double v = x[i], cdf = y[i] / v;
      ASSERT_NEAR(cdf, normal_cdf(v), kTolerance) << v;
      if (v > -12) {
        ASSERT_NEAR(cdf / normal_cdf(v), 1, 1e-5) << v;
      }
    }
  });
}

TEST(ActivationTest, SigmoidHoldsAtTheEndsOfTheRange) {
  const float infinity = std::numeric_limits<float>::infinity();
  const std::vector<float> gate = {0, 30, -30, 87, -87, 100, -100, 3e38f, -3e38f, infinity};
  for_each_instruction_set([&] {
    for (const float g : gate) {
      const std::vector<float> gate_up = {g, 1};
      std::vector<float> y = {-1};
      swiglu_forward<float>(1, 1, gate_up.data(), y.data());
      if (g > -80) {
        EXPECT_FLOAT_EQ(y[0], static_cast<float>(g == infinity ? infinity : g * sigmoid(g))) << g;
      } else {
        EXPECT_NEAR(y[0], 0, 1e-35) << g;
      }
    }
  });
}

TYPED_TEST(KernelTest, ActivationsPassNanOn) {
  const TypeParam nan = from_double<TypeParam>(std::numeric_limits<double>::quiet_NaN());
  for_each_instruction_set([&] {
    std::vector<TypeParam> gate_up(40, from_double<TypeParam>(1)), y(20),
        x(20, from_double<TypeParam>(1));
    gate_up[3] = gate_up[39] = x[3] = x[19] = nan;
    swiglu_forward<TypeParam>(1, 20, gate_up.data(), y.data());
    EXPECT_TRUE(std::isnan(to_double(y[3])) && std::isnan(to_double(y[19])) &&
                !std::isnan(to_double(y[4])));
    gelu_forward<TypeParam>(20, x.data(), y.data());
    EXPECT_TRUE(std::isnan(to_double(y[3])) && std::isnan(to_double(y[19])) &&
                !std::isnan(to_double(y[4])));
  });
}

}  // namespace
}  // namespace basin::kernels
