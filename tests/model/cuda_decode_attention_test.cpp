// Streaming attention of a decoding step on a GPU against its definition in fp64, token by token
// through caches that wrap.
#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <type_traits>

#include "model/kernels/cuda/decode.h"
#include "tests/support/kernel_checks.h"

namespace basin::kernels {
namespace {

struct Heads {
  int64_t H, G, K, rotary;
};
struct Cache {
  int64_t sinks, recent, origin;
};

std::vector<double> frequencies_of(int64_t half) {
  std::vector<double> f;
  for (int64_t i = 0; i < half; ++i)
    f.push_back(std::pow(100.0, -static_cast<double>(i) / static_cast<double>(half)));
  return f;
}

std::vector<double> rotated(const float* x, int64_t K, int64_t half, int64_t position) {
  const std::vector<double> frequencies = frequencies_of(half);
  std::vector<double> y(x, x + K);
  for (int64_t i = 0; i < half; ++i) {
    const double angle = static_cast<double>(position) * frequencies[i];
    y[i] = x[i] * std::cos(angle) - x[half + i] * std::sin(angle);
    y[half + i] = x[half + i] * std::cos(angle) + x[i] * std::sin(angle);
  }
  return y;
}

// A stream with all its tokens, (T, (H + 2G) K), and the definition: what token t attends to, with
// nothing cached. Keys and values are rounded as the cache rounds them.
template <class Float>
struct Stream {
  Heads heads;
  Cache cache;
  std::vector<float> qkv, logit;

  const float* row(int64_t t, int64_t head) const {
    return qkv.data() + (t * (heads.H + 2 * heads.G) + head) * heads.K;
  }
  std::vector<double> attended(int64_t t, int64_t h) const {
    const int64_t g = h / (heads.H / heads.G), half = heads.rotary / 2, K = heads.K,
                  S = cache.sinks;
    double sum = logit.empty() ? 0 : std::exp(logit[h]);
    std::vector<double> out(static_cast<size_t>(K));
    for (int64_t j = 0; j <= t; ++j) {
      const bool sink = j < S;
      if (!sink && j < t - cache.recent) continue;
      const int64_t at = sink ? std::min(t, S + cache.recent) : t + cache.origin;
      const std::vector<double> q = rotated(row(t, h), K, half, at),
                                k = rotated(
                                    row(j, heads.H + g), K, half, sink ? j : j + cache.origin);
      const float* v = row(j, heads.H + heads.G + g);
      double score = 0;
      for (int64_t i = 0; i < K; ++i) score += q[i] * to_double(from_double<Float>(k[i]));
      const double weight = std::exp(score / std::sqrt(static_cast<double>(K)));
      sum += weight;
      for (int64_t i = 0; i < K; ++i) out[i] += weight * to_double(from_double<Float>(v[i]));
    }
    for (double& x : out) x /= sum;
    return out;
  }
};

// Streams of the same model with caches of their own, stepped together; layer 1 of 2 is tested.
template <class Float>
class Streams {
 public:
  Streams(const Heads& heads, const std::vector<Cache>& caches, int64_t T, bool has_logit)
      : heads_(heads), frequencies_(frequencies_of(heads.rotary / 2)) {
    if (has_logit) logit_ = random_array<float>(heads.H, 9);
    const int64_t N = static_cast<int64_t>(caches.size()),
                  width = (heads.H + 2 * heads.G) * heads.K;
    for (const Cache& c : caches) {
      const int64_t slots = c.sinks + c.recent + 1, size = 2 * heads.G * slots * heads.K;
      streams_.push_back({heads, c, random_array<float>(T * width, streams_.size()), logit_});
      keys_.emplace_back(static_cast<size_t>(size), from_double<Float>(NAN));  // nobody reads these
      values_.push_back(keys_.back());
      DecodeState state;
      state.origin = c.origin;
      state.sinks = c.sinks;
      state.recent = c.recent;
      state.keys = keys_.back().data();
      state.values = values_.back().data();
      states_.push_back(state);
      attention_.most_slots = std::max(attention_.most_slots, slots);
    }
    angles_.resize(static_cast<size_t>(N * 2 * std::max<int64_t>(heads.rotary, 1)));
    out_.resize(static_cast<size_t>(N * heads.H * heads.K));
    attention_.H = heads.H;
    attention_.G = heads.G;
    attention_.K = heads.K;
    attention_.rotary = heads.rotary;
    attention_.cache = std::is_same_v<Float, float> ? WeightType::kF32 : WeightType::kBf16;
    attention_.angles = angles_.data();
    attention_.out = out_.data();
    scratch_.resize(static_cast<size_t>(decode_attention_scratch(N, attention_) / 8 + 1));
    attention_.scratch = scratch_.data();
  }

  // Token t of every stream.
  void step(int64_t t) {
    const DecodeBatch batch{static_cast<int64_t>(states_.size()), states_.data()};
    const std::vector<float> table(1);
    std::vector<float> hs(states_.size());
    decode_begin(batch,
                 {WeightType::kF32, table.data(), 1, heads_.rotary / 2, frequencies_.data()},
                 hs.data(),
                 angles_.data());
    const int64_t width = (heads_.H + 2 * heads_.G) * heads_.K;
    std::vector<float> qkv;
    for (const auto& s : streams_) qkv.insert(qkv.end(), s.row(t, 0), s.row(t, 0) + width);
    attention_.qkv = qkv.data();
    std::fill(out_.begin(), out_.end(), NAN);
    decode_attention(batch, attention_, 1, logit_.empty() ? nullptr : logit_.data());
    decode_advance(batch);
  }

  void expect_definition(int64_t t) const {
    std::vector<double> want;
    for (const auto& s : streams_)
      for (int64_t h = 0; h < heads_.H; ++h) {
        const std::vector<double> of_head = s.attended(t, h);
        want.insert(want.end(), of_head.begin(), of_head.end());
      }
    // a key may round the other way
    const double tolerance = std::is_same_v<Float, float> ? 5e-6 : 2e-3;
    expect_close(out_, want, tolerance, 1);
    for (size_t n = 0; n < keys_.size(); ++n)
      for (size_t i = 0; i < keys_[n].size() / 2; ++i)  // layer 0
        ASSERT_TRUE(std::isnan(to_double(keys_[n][i])) && std::isnan(to_double(values_[n][i])));
  }

 private:
  Heads heads_;
  std::vector<double> frequencies_;
  std::vector<float> logit_, angles_, out_;
  std::vector<Stream<Float>> streams_;
  std::vector<std::vector<Float>> keys_, values_;
  std::vector<DecodeState> states_;
  std::vector<int64_t> scratch_;
  DecodeAttention attention_;
};

template <class Float>
using CudaDecodeAttention = KernelTest<Float>;
TYPED_TEST_SUITE(CudaDecodeAttention, KernelTypes);

TYPED_TEST(CudaDecodeAttention, StreamsThroughCachesThatWrap) {
  constexpr int64_t kTokens = 29, kFar = (int64_t{1} << 22) + 12345;
  for (const Heads& heads : {Heads{2, 2, 16, 16},
                             Heads{4, 2, 64, 32},  // partial rotary, grouped queries
                             Heads{3, 1, 20, 6},   // rows that are no packs
                             Heads{2, 1, 8, 0},    // nothing rotates
                             Heads{1, 1, 256, 64},
                             Heads{1, 1, 5, 2}})
    for (const bool has_logit : {false, true}) {
      SCOPED_TRACE(testing::Message() << heads.H << " heads of " << heads.K);
      Streams<TypeParam> streams(
          heads, {{0, 7, 0}, {1, 1, kFar}, {4, 6, 3}, {30, 5, 0}}, kTokens, has_logit);
      for (int64_t t = 0; t < kTokens; ++t) {
        SCOPED_TRACE(testing::Message() << "token " << t);
        streams.step(t);
        streams.expect_definition(t);
        if (this->HasFatalFailure()) return;
      }
    }
}

// 64 slots or more a block; 4400 slots are two rounds of them.
TYPED_TEST(CudaDecodeAttention, BlocksShareLongCaches) {
  constexpr int64_t kTokens = 230;
  Streams<TypeParam> streams(
      {2, 1, 32, 16}, {{4, 180, 0}, {0, 100, 77}, {1, 4399, 0}}, kTokens, true);
  for (int64_t t = 0; t < kTokens; ++t) {
    SCOPED_TRACE(testing::Message() << "token " << t);
    streams.step(t);
    const bool is_edge = t % 64 < 2 || t > 225 || t % 50 == 3;
    if (is_edge) streams.expect_definition(t);
    if (this->HasFatalFailure()) return;
  }
}

TYPED_TEST(CudaDecodeAttention, BlocksShareCachesOfShortHeads) {
  Streams<TypeParam> streams({1, 1, 8, 8}, {{2, 130, 0}}, 150, false);
  for (int64_t t = 0; t < 150; ++t) {
    streams.step(t);
    if (t % 30 == 5) streams.expect_definition(t);
  }
}

TEST(CudaDecodeAttention, RefusesLongHeads) {
  DecodeAttention attention;
  attention.H = attention.G = 1;
  attention.K = 264;
  EXPECT_THROW(decode_attention({}, attention, 0, nullptr), std::invalid_argument);
}

}  // namespace
}  // namespace basin::kernels
