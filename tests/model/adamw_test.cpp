// AdamW against the published update in fp64; the sum of squares against a plain sum.
#include <cmath>
#include <limits>

#include "tests/support/kernel_checks.h"

namespace basin::kernels {
namespace {

struct Buffers {
  explicit Buffers(int64_t n)
      : master(random_array<float>(n, 1)),
        m(random_array<float>(n, 2, 0.1)),
        v(random_array<float>(n, 3, 0.1)),
        published(static_cast<size_t>(n)) {
    for (float& value : v) value *= value;
  }
  std::vector<float> master, m, v;
  std::vector<Bf16> published;
};

AdamWStep step_at(double t) {
  AdamWStep s{3e-3f, 0.9f, 0.95f, 1e-2f, 0.1f, 0.25f, 0, 0};  // an eps that shows
  s.correction1 = static_cast<float>(1 - std::pow(s.beta1, t));
  s.correction2 = static_cast<float>(1 - std::pow(s.beta2, t));
  return s;
}

void expect_published_update(int64_t n, double t) {
  SCOPED_TRACE(testing::Message() << "n " << n << ", step " << t);
  const AdamWStep s = step_at(t);
  const double beta1 = s.beta1, beta2 = s.beta2;
  const std::vector<float> grad = random_array<float>(n, 4);
  Buffers b(n);
  std::vector<double> master, m, v;
  for (int64_t i = 0; i < n; ++i) {
    const double g = static_cast<double>(grad[i]) * s.grad_scale;
    m.push_back(beta1 * b.m[i] + (1 - beta1) * g);
    v.push_back(beta2 * b.v[i] + (1 - beta2) * g * g);
    const double m_hat = m[i] / (1 - std::pow(beta1, t)), v_hat = v[i] / (1 - std::pow(beta2, t));
    master.push_back(b.master[i] - s.lr * (m_hat / (std::sqrt(v_hat) + s.eps) +
                                           static_cast<double>(s.weight_decay) * b.master[i]));
  }
  adamw(s, n, grad.data(), b.master.data(), b.m.data(), b.v.data(), b.published.data());
  expect_close(b.m, m);
  expect_close(b.v, v, 1e-5, 1e-6);
  expect_close(b.master, master);
  for (int64_t i = 0; i < n; ++i)
    ASSERT_EQ(b.published[i].bits, from_double<Bf16>(b.master[i]).bits) << i;
}

TEST(AdamWTest, MatchesThePublishedUpdate) {
  for_each_instruction_set([] {
    for (const int64_t n : {1, 15, 16, 133}) expect_published_update(n, 1);
    expect_published_update(1000, 1000);
  });
  expect_published_update(70001, 3);  // several threads
}

TEST(AdamWTest, PiecesGiveTheSameBitsAsTheWhole) {
  const int64_t n = 70001, cut = 33333;
  const std::vector<float> grad = random_array<float>(n, 4);
  Buffers whole(n), pieces(n);
  adamw(step_at(2),
        n,
        grad.data(),
        whole.master.data(),
        whole.m.data(),
        whole.v.data(),
        whole.published.data());
  adamw(step_at(2),
        cut,
        grad.data(),
        pieces.master.data(),
        pieces.m.data(),
        pieces.v.data(),
        pieces.published.data());
  adamw(step_at(2),
        n - cut,
        grad.data() + cut,
        pieces.master.data() + cut,
        pieces.m.data() + cut,
        pieces.v.data() + cut,
        nullptr);
  EXPECT_EQ(whole.master, pieces.master);
  EXPECT_EQ(whole.m, pieces.m);
  EXPECT_EQ(whole.v, pieces.v);
  EXPECT_EQ(pieces.published[cut].bits, 0) << "null must leave the copy alone";
}

TEST(AdamWTest, PublishesTheNearestBf16WithTiesToEven) {
  const AdamWStep still{0, 0.9f, 0.95f, 1e-8f, 0, 1, 0.1f, 0.05f};
  std::vector<float> start;
  for (uint32_t upper = 0; upper < 0x10000; ++upper) {
    const uint32_t exponent = upper >> 7 & 0xFF;
    if (exponent == 0 || exponent == 0xFE)
      continue;  // denormals may be flushed; the largest values round to infinity
    for (const uint32_t lower : {0x0000u, 0x0001u, 0x7FFFu, 0x8000u, 0x8001u, 0xFFFFu})
      start.push_back(std::bit_cast<float>(upper << 16 | lower));
  }
  const std::vector<float> grad(start.size());
  for_each_instruction_set([&] {
    std::vector<float> master = start, m(start.size()), v(start.size());
    std::vector<Bf16> published(start.size());
    adamw(still,
          static_cast<int64_t>(start.size()),
          grad.data(),
          master.data(),
          m.data(),
          v.data(),
          published.data());
    for (size_t i = 0; i < start.size(); ++i) {
      if (std::isnan(start[i])) {
        ASSERT_TRUE(std::isnan(to_double(published[i]))) << std::bit_cast<uint32_t>(start[i]);
      } else {
        ASSERT_EQ(published[i].bits, from_double<Bf16>(start[i]).bits) << start[i];
      }
    }
  });
}

TEST(SumOfSquaresTest, MatchesAPlainSumAndNoThreadCountChangesABit) {
  for (const int64_t n : {0, 1, 7, 31, 16384, 16385, 100003, 1200007}) {
    const std::vector<float> x = random_array<float>(n, 5, 100);
    double want = 0;
    for (const float value : x) want += static_cast<double>(value) * value;
    for_each_instruction_set(
        [&] { EXPECT_NEAR(sum_of_squares(n, x.data()), want, 1e-12 * want) << n; });
    const double sum = sum_of_squares(n, x.data());
    for_each_thread_count({1, 2, 5}, [&] { EXPECT_EQ(sum_of_squares(n, x.data()), sum) << n; });
  }
}

TEST(AddToSumTest, MatchesFp64) {
  for (const int64_t n : {1, 7, 8, 2048, 5003, 100003}) {
    const std::vector<Bf16> x = random_array<Bf16>(n, 1);
    const std::vector<float> before = random_array<float>(n, 2, 100);
    for_each_instruction_set([&] {
      std::vector<float> sum = before;
      add_to_sum(n, x.data(), sum.data());
      for (int64_t i = 0; i < n; ++i)
        ASSERT_EQ(sum[i], static_cast<float>(before[i] + to_double(x[i]))) << i << " of " << n;
    });
  }
}

TEST(SumOfSquaresTest, IsNonFiniteExactlyWhenAnElementIs) {
  for (const float bad : {std::numeric_limits<float>::infinity(),
                          -std::numeric_limits<float>::infinity(),
                          std::numeric_limits<float>::quiet_NaN()}) {
    for (const int64_t place : {0, 20000, 40000}) {
      std::vector<float> x(40001, 1e30f);
      EXPECT_TRUE(std::isfinite(sum_of_squares(40001, x.data())));
      x[place] = bad;
      EXPECT_FALSE(std::isfinite(sum_of_squares(40001, x.data()))) << bad << " at " << place;
    }
  }
}

}  // namespace
}  // namespace basin::kernels
