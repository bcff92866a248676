// Streaming attention of chunks against the definition in fp64, for every instruction set of this
// machine: query t sees the sinks up to itself, at distance min(t, C), and the R tokens before it.
// ALiBi's biases go by the same distances.
#include <algorithm>
#include <cmath>

#include "tests/support/kernel_checks.h"

namespace basin::kernels {
namespace {

struct StreamShape {
  int64_t H, G, K, rotary, sinks, recent;
  bool logit, alibi = false;
};

float slope(int64_t head) {
  return 0.7f / static_cast<float>(head + 1);
}

std::vector<double> rotated(const std::vector<double>& x, int64_t rotary, int64_t position) {
  std::vector<double> y = x;
  const int64_t half = rotary / 2;
  for (int64_t i = 0; i < half; ++i) {
    const double angle = static_cast<double>(position) *
                         std::pow(100.0, -static_cast<double>(i) / static_cast<double>(half));
    y[i] = x[i] * std::cos(angle) - x[half + i] * std::sin(angle);
    y[half + i] = x[half + i] * std::cos(angle) + x[i] * std::sin(angle);
  }
  return y;
}

std::vector<float> table(
    int64_t rotary, int64_t begin, int64_t n, int64_t most, double (*function)(double)) {
  std::vector<float> out;
  for (int64_t t = begin; t < begin + n; ++t)
    for (int64_t i = 0; i < rotary / 2; ++i)
      out.push_back(static_cast<float>(
          function(static_cast<double>(std::min(t, most)) *
                   std::pow(100.0, -static_cast<double>(i) / static_cast<double>(rotary / 2)))));
  return out;
}
double cosine(double x) {
  return std::cos(x);
}
double sine(double x) {
  return std::sin(x);
}

// The whole stream, token by token, nothing cached: out (N, H K).
template <class Float>
std::vector<double> definition(const StreamShape& s,
                               const std::vector<Float>& qkv,
                               const std::vector<float>& logit,
                               int64_t N) {
  const int64_t heads = s.H + 2 * s.G, C = s.sinks + s.recent;
  const auto row = [&](int64_t t, int64_t head) {
    std::vector<double> x;
    for (int64_t i = 0; i < s.K; ++i) x.push_back(to_double(qkv[(t * heads + head) * s.K + i]));
    return x;
  };
  std::vector<double> out;
  for (int64_t t = 0; t < N; ++t)
    for (int64_t h = 0; h < s.H; ++h) {
      const int64_t g = h / (s.H / s.G);
      double sum = s.logit ? std::exp(logit[h]) : 0;
      std::vector<double> o(static_cast<size_t>(s.K));
      for (int64_t j = 0; j <= t; ++j) {
        const bool sink = j < s.sinks;
        if (!sink && j < t - s.recent) continue;
        const std::vector<double> q = rotated(row(t, h), s.rotary, sink ? std::min(t, C) : t),
                                  k = rotated(row(j, s.H + g), s.rotary, j);
        double score = 0;
        for (int64_t i = 0; i < s.K; ++i) score += q[i] * k[i];
        score /= std::sqrt(static_cast<double>(s.K));
        if (s.alibi) score += slope(h) * static_cast<double>(j - (sink ? std::min(t, C) : t));
        const double weight = std::exp(score);
        const std::vector<double> v = row(j, s.H + s.G + g);
        sum += weight;
        for (int64_t i = 0; i < s.K; ++i) o[i] += weight * v[i];
      }
      for (const double x : o) out.push_back(x / sum);
    }
  return out;
}

template <class Float>
void expect_stream(const StreamShape& s, const std::vector<int64_t>& chunks) {
  int64_t N = 0;
  for (const int64_t n : chunks) N += n;
  const int64_t heads = s.H + 2 * s.G, C = s.sinks + s.recent, slots = C + 1;
  const auto qkv = random_array<Float>(N * heads * s.K, 1);
  const auto logit = random_array<float>(s.H, 2);
  std::vector<float> slopes;
  for (int64_t h = 0; h < s.H; ++h) slopes.push_back(slope(h));
  std::vector<Float> keys(static_cast<size_t>(s.G * slots * s.K)), values = keys;
  std::vector<Float> out(static_cast<size_t>(N * s.H * s.K));
  int64_t position = 0;
  for (const int64_t n : chunks) {
    const auto cos_ring = table(s.rotary, position, n, INT64_MAX, cosine),
               sin_ring = table(s.rotary, position, n, INT64_MAX, sine),
               cos_sink = table(s.rotary, position, n, C, cosine),
               sin_sink = table(s.rotary, position, n, C, sine);
    attention_stream<Float>({n,
                             s.H,
                             s.G,
                             s.K,
                             s.rotary,
                             position,
                             s.sinks,
                             s.recent,
                             qkv.data() + position * heads * s.K,
                             cos_ring.data(),
                             sin_ring.data(),
                             cos_sink.data(),
                             sin_sink.data(),
                             s.logit ? logit.data() : nullptr,
                             s.alibi ? slopes.data() : nullptr,
                             keys.data(),
                             values.data(),
                             out.data() + position * s.H * s.K});
    position += n;
  }
  const std::vector<double> want = definition(s, qkv, logit, N);
  if constexpr (std::is_same_v<Float, float>) {
    expect_close(out, want, 2e-5, 1);
  } else {  // probabilities, keys and outputs are rounded to 8 bits
    for (size_t i = 0; i < want.size(); ++i) ASSERT_NEAR(to_double(out[i]), want[i], 0.04) << i;
  }
}

template <class Float>
using StreamChunks = KernelTest<Float>;
TYPED_TEST_SUITE(StreamChunks, KernelTypes);

TYPED_TEST(StreamChunks, AnyShapeInAnyChunks) {
  for_each_instruction_set([] {
    for (const StreamShape& s :
         {StreamShape{2, 1, 16, 16, 1, 20, false},
          StreamShape{4, 2, 20, 8, 4, 70, true},
          StreamShape{3, 3, 8, 0, 0, 33, false},
          StreamShape{1, 1, 64, 32, 90, 5, true},  // more sinks than a tile of keys
          StreamShape{2, 2, 5, 2, 2, 1, false},
          StreamShape{4, 2, 16, 0, 3, 40, true, true},
          StreamShape{1, 1, 32, 0, 0, 70, false, true}})
      for (const std::vector<int64_t>& chunks :
           {std::vector<int64_t>{200}, {1, 1, 1, 3, 64, 65, 40}, {100, 30, 1, 60}}) {
        SCOPED_TRACE(testing::Message() << "K " << s.K << ", " << s.sinks << " + " << s.recent
                                        << ", " << chunks.size() << " chunks");
        expect_stream<TypeParam>(s, chunks);
      }
  });
}

}  // namespace
}  // namespace basin::kernels
