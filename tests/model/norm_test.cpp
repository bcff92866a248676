// Norm kernels against fp64: the definition for forward, finite differences of the definition for
// backward.
#include <cmath>

#include "tests/support/kernel_checks.h"

namespace basin::kernels {
namespace {

constexpr double kEps = 1e-5;

template <class Float>
struct Case {
  Case(int64_t rows_in, int64_t D_in, bool is_rms_in, bool with_residual, bool with_bias)
      : rows(rows_in),
        D(D_in),
        is_rms(is_rms_in),
        x(random_array<Float>(rows * D, 1)),
        weight(random_array<Float>(D, 2)),
        dy(random_array<Float>(rows * D, 3)) {
    for (Float& value : x)
      value = from_double<Float>(to_double(value) + 0.5);  // a mean that matters
    if (with_residual)
      delta = random_array<Float>(rows * D, 4), dh = random_array<Float>(rows * D, 5);
    if (with_bias) bias = random_array<Float>(D, 6);
  }

  // h as it is stored, in fp64
  std::vector<double> hidden() const {
    std::vector<double> h(x.size());
    for (size_t i = 0; i < x.size(); ++i)
      h[i] = to_double(delta.empty() ? x[i]
                                     : from_double<Float>(to_double(x[i]) + to_double(delta[i])));
    return h;
  }

  int64_t rows, D;
  bool is_rms;
  std::vector<Float> x, delta, weight, bias, dy, dh;
};

struct Statistics {
  double mean = 0, scale = 0;
};

Statistics statistics(const double* h, int64_t D, bool is_rms) {
  Statistics s;
  double variance = 0;
  for (int64_t i = 0; i < D && !is_rms; ++i) s.mean += h[i] / static_cast<double>(D);
  for (int64_t i = 0; i < D; ++i)
    variance += (h[i] - s.mean) * (h[i] - s.mean) / static_cast<double>(D);
  s.scale = 1 / std::sqrt(variance + kEps);
  return s;
}

template <class Float>
double normed(const Case<Float>& c, const double* h, const Statistics& s, int64_t i) {
  return (h[i] - s.mean) * s.scale * to_double(c.weight[i]) +
         (c.bias.empty() ? 0 : to_double(c.bias[i]));
}

// sum(dy * norm(h)) over one row
template <class Float>
double objective(const Case<Float>& c, const double* h, int64_t row) {
  const Statistics s = statistics(h, c.D, c.is_rms);
  double sum = 0;
  for (int64_t i = 0; i < c.D; ++i) sum += to_double(c.dy[row * c.D + i]) * normed(c, h, s, i);
  return sum;
}

template <class Float>
struct Result {
  std::vector<Float> h, y, dx;
  std::vector<float> stats, dweight, dbias;
};

template <class Float>
Result<Float> run(const Case<Float>& c) {
  const size_t size = c.x.size(), width = static_cast<size_t>(c.D);
  Result<Float> r{std::vector<Float>(size),
                  std::vector<Float>(size),
                  std::vector<Float>(size),
                  std::vector<float>(2 * c.rows),
                  std::vector<float>(width, 7),
                  std::vector<float>(width, 7)};
  const auto pointer = [](const std::vector<Float>& v) { return v.empty() ? nullptr : v.data(); };
  norm_forward<Float>(c.rows,
                      c.D,
                      c.is_rms,
                      kEps,
                      c.x.data(),
                      pointer(c.delta),
                      c.weight.data(),
                      pointer(c.bias),
                      c.delta.empty() ? nullptr : r.h.data(),
                      r.y.data(),
                      r.stats.data());
  if (c.delta.empty()) r.h = c.x;
  norm_backward<Float>(c.rows,
                       c.D,
                       c.is_rms,
                       r.h.data(),
                       c.weight.data(),
                       r.stats.data(),
                       c.dy.data(),
                       pointer(c.dh),
                       r.dx.data(),
                       r.dweight.data(),
                       c.bias.empty() ? nullptr : r.dbias.data());
  return r;
}

template <class Float>
void expect_matches_definition(const Case<Float>& c) {
  SCOPED_TRACE(testing::Message() << "rows " << c.rows << ", D " << c.D << ", rms " << c.is_rms
                                  << ", residual " << !c.delta.empty() << ", bias "
                                  << !c.bias.empty());
  std::vector<double> h = c.hidden(), y(h.size()), dx(h.size()), dweight(c.D), dbias(c.D), stats;
  for (int64_t row = 0; row < c.rows; ++row) {
    double* at = h.data() + row * c.D;
    const Statistics s = statistics(at, c.D, c.is_rms);
    stats.insert(stats.end(), {s.mean, s.scale});
    for (int64_t i = 0; i < c.D; ++i) {
      const int64_t k = row * c.D + i;
      const double d = to_double(c.dy[k]), center = at[i], step = 1e-5;
      y[k] = normed(c, at, s, i);
      dweight[i] += d * (at[i] - s.mean) * s.scale;
      dbias[i] += d;
      at[i] = center + step;
      const double up = objective(c, at, row);
      at[i] = center - step;
      dx[k] = (up - objective(c, at, row)) / (2 * step) + (c.dh.empty() ? 0 : to_double(c.dh[k]));
      at[i] = center;
    }
  }
  const Result<Float> r = run(c);
  expect_close(r.h, h);
  expect_close(r.stats, stats);
  expect_close(r.y, y, 1e-5, 1);
  expect_close(r.dx, dx, 1e-5, 1);
  const double sum_size = std::sqrt(static_cast<double>(c.rows));
  expect_close(r.dweight, dweight, 1e-5, sum_size);
  if (!c.bias.empty()) expect_close(r.dbias, dbias, 1e-5, sum_size);
}

TYPED_TEST_SUITE(KernelTest, KernelTypes);

TYPED_TEST(KernelTest, NormMatchesItsDefinition) {
  for_each_instruction_set([] {
    for (const int64_t D : {1, 7, 16, 33, 96, 133, 256}) {
      if (D > 1) expect_matches_definition(Case<TypeParam>(3, D, false, false, true));
      if (D > 1) expect_matches_definition(Case<TypeParam>(2, D, false, true, false));
      expect_matches_definition(Case<TypeParam>(3, D, true, true, false));
      expect_matches_definition(Case<TypeParam>(1, D, true, false, false));
    }
  });
}

TYPED_TEST(KernelTest, NormOverManyRowsOnSeveralThreads) {
  expect_matches_definition(Case<TypeParam>(600, 96, true, true, false));
  expect_matches_definition(Case<TypeParam>(600, 96, false, true, true));
}

TYPED_TEST(KernelTest, NormRepeatsBitForBit) {
  const Case<TypeParam> c(999, 133, false, true, true);
  const Result<TypeParam> first = run(c);
  for (int i = 0; i < 5; ++i) {
    const Result<TypeParam> again = run(c);
    EXPECT_EQ(again.dweight, first.dweight);
    EXPECT_EQ(again.dbias, first.dbias);
    EXPECT_EQ(again.stats, first.stats);
  }
}

TYPED_TEST(KernelTest, NormKeepsAMeanFarFromZeroExact) {
  Case<TypeParam> c(2, 512, false, false, false);
  for (size_t i = 0; i < c.x.size(); ++i)
    c.x[i] = from_double<TypeParam>(1000 + 8 * static_cast<double>(i % 5));
  std::vector<double> h = c.hidden();
  const Statistics s = statistics(h.data(), c.D, false);
  const Result<TypeParam> r = run(c);
  EXPECT_NEAR(r.stats[0], s.mean, 1e-3);
  EXPECT_NEAR(r.stats[1] / s.scale, 1, 1e-5);
}

}  // namespace
}  // namespace basin::kernels
