// What surrounds attention on a GPU, against fp64: rotation by its definition, and the sink against
// a softmax with one more column.
#include <cmath>
#include <numeric>

#include "model/kernels/cuda/attention.h"
#include "tests/support/kernel_checks.h"

namespace basin::kernels {
namespace {

template <class Float>
std::vector<double> widened(const std::vector<Float>& x) {
  std::vector<double> wide;
  for (const Float value : x) wide.push_back(to_double(value));
  return wide;
}

struct Tables {
  explicit Tables(const AttentionShape& s) {
    for (const float angle : random_array<float>(s.T * s.rotary / 2, 1, 3)) {
      cos.push_back(std::cos(angle));
      sin.push_back(std::sin(angle));
    }
  }
  std::vector<float> cos, sin;  // (T, rotary/2)
};

// Rotates heads [begin, end) of x (B, T, heads, K); direction -1 undoes it.
void rotate(const AttentionShape& s,
            const Tables& tables,
            int64_t heads,
            int64_t begin,
            int64_t end,
            double direction,
            std::vector<double>& x) {
  const int64_t half = s.rotary / 2;
  for (int64_t row = 0; row < s.B * s.T; ++row) {
    for (int64_t head = begin; head < end; ++head) {
      double* at = x.data() + (row * heads + head) * s.K;
      for (int64_t i = 0; i < half; ++i) {
        const double c = tables.cos[row % s.T * half + i],
                     n = direction * tables.sin[row % s.T * half + i], a = at[i], b = at[i + half];
        at[i] = a * c - b * n;
        at[i + half] = b * c + a * n;
      }
    }
  }
}

// Heads [begin, end) of x (rows, heads, K).
template <class T>
std::vector<T> take_heads(
    const std::vector<T>& x, int64_t heads, int64_t K, int64_t begin, int64_t end) {
  std::vector<T> taken;
  for (size_t row = 0; row < x.size(); row += heads * K)
    taken.insert(taken.end(), &x[row] + begin * K, &x[row] + end * K);
  return taken;
}

const std::vector<AttentionShape> kRotaryShapes = {
    {
        2,
        3,
        4,
        4,
        32,
        32,
    },                     // B, T, H, G, K, rotary
    {1, 5, 6, 2, 32, 16},  // grouped, partial
    {2, 4, 3, 1, 20, 6},   // no packs
    {1, 3, 2, 2, 24, 12},  // packs of fp32 at most
    {2, 3, 4, 2, 16, 0},
    {1, 2, 40, 8, 128, 128},  // more work than threads
    {0, 3, 2, 2, 16, 16}};

template <class Body>
void for_each_rotary_shape(const Body& body) {
  for (const AttentionShape& s : kRotaryShapes) {
    SCOPED_TRACE(testing::Message() << "B " << s.B << ", T " << s.T << ", H " << s.H << ", G "
                                    << s.G << ", K " << s.K << ", rotary " << s.rotary);
    body(s);
  }
}

template <class Float>
struct RotaryResult {
  std::vector<Float> qk, dqkv;
};

template <class Float>
RotaryResult<Float> run_rotary(const AttentionShape& s,
                               const Tables& tables,
                               const std::vector<Float>& qkv,
                               const std::vector<Float>& gradient) {
  const int64_t heads = s.H + 2 * s.G;
  const std::vector<Float> dq = take_heads(gradient, heads, s.K, 0, s.H),
                           dk = take_heads(gradient, heads, s.K, s.H, s.H + s.G),
                           dv = take_heads(gradient, heads, s.K, s.H + s.G, heads);
  RotaryResult<Float> r{std::vector<Float>(static_cast<size_t>(s.B * s.T * (s.H + s.G) * s.K)),
                        std::vector<Float>(qkv.size())};
  rotary_split<Float>(s, qkv.data(), tables.cos.data(), tables.sin.data(), r.qk.data());
  rotary_merge<Float>(
      s, {dq.data(), dk.data(), dv.data()}, tables.cos.data(), tables.sin.data(), r.dqkv.data());
  return r;
}

TYPED_TEST_SUITE(KernelTest, KernelTypes);

TYPED_TEST(KernelTest, RotaryTurnsQueriesAndKeysAndBackwardTurnsThemBack) {
  for_each_rotary_shape([](const AttentionShape& s) {
    const Tables tables(s);
    const int64_t heads = s.H + 2 * s.G, size = s.B * s.T * heads * s.K;
    const std::vector<TypeParam> qkv = random_array<TypeParam>(size, 2),
                                 gradient = random_array<TypeParam>(size, 3);
    std::vector<double> forward = take_heads(widened(qkv), heads, s.K, 0, s.H + s.G),
                        backward = widened(gradient);
    rotate(s, tables, s.H + s.G, 0, s.H + s.G, 1, forward);
    rotate(s, tables, heads, 0, s.H + s.G, -1, backward);
    const RotaryResult<TypeParam> r = run_rotary(s, tables, qkv, gradient);
    expect_close(r.qk, forward, 1e-5, 1e-1);
    expect_close(r.dqkv, backward, 1e-5, 1e-1);
  });
}

TEST(CudaAttentionTest, RotaryBackwardIsTheTransposeOfForward) {
  for_each_rotary_shape([](const AttentionShape& s) {
    const int64_t heads = s.H + 2 * s.G, size = s.B * s.T * heads * s.K;
    std::vector<float> qkv = random_array<float>(size, 2);
    const std::vector<float> gradient = random_array<float>(size, 3);
    const RotaryResult<float> r = run_rotary(s, Tables(s), qkv, gradient);
    const std::vector<float> dqk = take_heads(gradient, heads, s.K, 0, s.H + s.G),
                             v = take_heads(qkv, heads, s.K, s.H + s.G, heads),
                             dv = take_heads(gradient, heads, s.K, s.H + s.G, heads);
    const double above = std::inner_product(r.qk.begin(), r.qk.end(), dqk.begin(), 0.0) +
                         std::inner_product(v.begin(), v.end(), dv.begin(), 0.0),
                 below = std::inner_product(r.dqkv.begin(), r.dqkv.end(), qkv.begin(), 0.0);
    EXPECT_NEAR(above, below, 1e-6 * static_cast<double>(size));
  });
}

// Attention of every query head to kKeys keys, without or with a sink column.
struct Attention {
  static constexpr int64_t kKeys = 6;
  explicit Attention(const AttentionShape& s)
      : shape(s),
        scores(random_array<float>(s.B * s.T * s.H * kKeys, 4, 2)),
        values(random_array<float>(s.H * kKeys * s.K, 5)) {}

  void run(const std::vector<double>& sink_logit) {
    out.assign(static_cast<size_t>(shape.B * shape.T * shape.H * shape.K), 0);
    lse.assign(static_cast<size_t>(shape.B * shape.T * shape.H), 0);
    for (int64_t row = 0; row < shape.B * shape.T * shape.H; ++row) {
      const int64_t h = row % shape.H, t = row / shape.H % shape.T, b = row / shape.H / shape.T;
      const float* score = scores.data() + row * kKeys;
      double sum = sink_logit.empty() ? 0 : std::exp(sink_logit[h]);
      for (int64_t n = 0; n < kKeys; ++n) sum += std::exp(score[n]);
      for (int64_t n = 0; n < kKeys; ++n)
        for (int64_t k = 0; k < shape.K; ++k)
          out[row * shape.K + k] +=
              std::exp(score[n]) / sum * values[(h * kKeys + n) * shape.K + k];
      lse[(b * shape.H + h) * shape.T + t] = std::log(sum);
    }
  }

  AttentionShape shape;
  std::vector<float> scores, values;  // (B, T, H, keys), (H, keys, K)
  std::vector<double> out, lse;       // (B, T, H, K), (B, H, T)
};

const std::vector<AttentionShape> kSinkShapes = {
    {2, 21, 3, 1, 16, 0}, {1, 16, 5, 5, 7, 0}, {3, 1, 1, 1, 80, 0}, {2, 40, 2, 1, 256, 0}};

template <class Float>
void expect_folded_sink(const AttentionShape& s) {
  SCOPED_TRACE(testing::Message() << "T " << s.T << ", H " << s.H << ", K " << s.K);
  Attention attention(s);
  attention.run({});
  std::vector<Float> out;
  for (const double value : attention.out) out.push_back(from_double<Float>(value));
  std::vector<float> lse(attention.lse.begin(), attention.lse.end());
  const std::vector<float> logit = random_array<float>(s.H, 6, 3);
  const std::vector<Float> dout = random_array<Float>(s.B * s.T * s.H * s.K, 7);
  std::vector<float> gradient(static_cast<size_t>(s.H), 7);
  fold_sink<Float>(s, logit.data(), out.data(), lse.data());
  sink_logit_gradient<Float>(
      s, {logit.data(), out.data(), lse.data(), dout.data()}, gradient.data());

  std::vector<double> wide_logit(logit.begin(), logit.end()), want_gradient;
  const auto objective = [&] {
    attention.run(wide_logit);
    double sum = 0;
    for (size_t i = 0; i < dout.size(); ++i) sum += to_double(dout[i]) * attention.out[i];
    return sum;
  };
  for (double& l : wide_logit) {
    const double center = l, step = 1e-4;
    l = center + step;
    const double up = objective();
    l = center - step;
    want_gradient.push_back((up - objective()) / (2 * step));
    l = center;
  }
  attention.run(wide_logit);
  const bool narrow = sizeof(Float) == 2;  // out is rounded before and after
  for (size_t i = 0; i < out.size(); ++i)
    ASSERT_NEAR(to_double(out[i]),
                attention.out[i],
                (narrow ? 8e-3 : 2e-6) * (0.01 + std::abs(attention.out[i])))
        << i;
  expect_close(lse, attention.lse, 2e-6, 1);
  expect_close(
      gradient, want_gradient, narrow ? 2e-3 : 1e-5, std::sqrt(static_cast<double>(s.T * s.K)));
}

TYPED_TEST(KernelTest, SinkFoldedInEqualsASoftmaxWithOneMoreColumn) {
  for (const AttentionShape& s : kSinkShapes) expect_folded_sink<TypeParam>(s);
}

TEST(CudaAttentionTest, SinkOfMinusInfinityChangesNothing) {
  const AttentionShape s{1, 3, 2, 2, 8, 0};
  const std::vector<float> logit(2, -std::numeric_limits<float>::infinity()),
      start = random_array<float>(48, 1), start_lse = random_array<float>(6, 2);
  std::vector<float> out = start, lse = start_lse, gradient(2, 7);
  fold_sink<float>(s, logit.data(), out.data(), lse.data());
  sink_logit_gradient<float>(
      s, {logit.data(), out.data(), lse.data(), out.data()}, gradient.data());
  EXPECT_EQ(out, start);
  EXPECT_EQ(lse, start_lse);
  EXPECT_EQ(gradient, std::vector<float>(2, 0));
}

}  // namespace
}  // namespace basin::kernels
