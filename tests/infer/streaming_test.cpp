// Streaming, three ways: the ring buffer token by token, the same cache in parallel chunks, and a
// literal transcription of the reference semantics in fp64 (keys cached unrotated, all rotated
// again at their cache indices every step, trimmed after each step). BASIN_STREAM_TOKENS sets the
// length of the streams; 1000 if unset.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <c10/core/GradMode.h>
#include <gtest/gtest.h>

#include <cmath>
#include <complex>
#include <cstdlib>
#include <vector>

#include "infer/kv_cache.h"
#include "infer/modes.h"
#include "tests/infer/tiny_model.h"

namespace basin {
namespace {

int64_t stream_tokens() {
  const char* wanted = std::getenv("BASIN_STREAM_TOKENS");
  return wanted == nullptr ? 1000 : std::atoll(wanted);
}

// The reference, written out: plain loops over doubles, nothing shared with the code under test.
class LiteralCache {
 public:
  LiteralCache(const Transformer& model, const CacheShape& shape)
      : model_(model), shape_(shape), keys_(layers()), values_(layers()) {}

  at::Tensor attend(int64_t layer, const at::Tensor& qkv) {
    const auto [H, G, K] = model_.head_shape();
    const double* x = qkv.const_data_ptr<double>();
    keys_[layer].emplace_back(x + H * K, x + (H + G) * K);
    values_[layer].emplace_back(x + (H + G) * K, x + (H + 2 * G) * K);
    const auto n = static_cast<int64_t>(keys_[layer].size());
    std::vector<std::vector<double>> rotated;
    for (int64_t i = 0; i < n; ++i) rotated.push_back(rotate(keys_[layer][i], i));
    const std::vector<double> q = rotate({x, x + H * K}, n - 1);
    const at::Tensor logit = model_.sink_logit(layer);
    at::Tensor out = at::zeros({1, 1, H * K}, at::kDouble);
    for (int64_t h = 0; h < H; ++h) {
      const int64_t g = h / (H / G);
      std::vector<double> weight(n);
      double sum = logit.defined() ? std::exp(logit[h].item<double>()) : 0;
      for (int64_t i = 0; i < n; ++i) {
        double dot = 0;
        for (int64_t d = 0; d < K; ++d) dot += q[h * K + d] * rotated[i][g * K + d];
        sum += weight[i] =
            std::exp(dot / std::sqrt(static_cast<double>(K)) + bias(h, i) - bias(h, n - 1));
      }
      double* o = out.mutable_data_ptr<double>() + h * K;
      for (int64_t i = 0; i < n; ++i)
        for (int64_t d = 0; d < K; ++d) o[d] += weight[i] / sum * values_[layer][i][g * K + d];
    }
    return out;
  }

  void trim() {
    for (auto* entries : {&keys_, &values_})
      for (auto& layer : *entries)
        if (static_cast<int64_t>(layer.size()) > shape_.entries())
          layer.erase(layer.begin() + shape_.sinks, layer.end() - shape_.recent);
  }

 private:
  size_t layers() const { return static_cast<size_t>(model_.config().num_hidden_layers); }

  // ALiBi of a key at a place in the cache, as transformers' MptModel and FalconModel add it: the
  // slopes of six heads, and Falcon's bf16.
  double bias(int64_t head, int64_t place) const {
    constexpr int kExponents[] = {-2, -4, -6, -8, -1, -3};
    if (!model_.config().uses_alibi()) return 0;
    const double product = std::ldexp(static_cast<double>(place), kExponents[head]);
    if (model_.config().model_type == ModelType::kMpt) return product;
    return static_cast<float>(c10::BFloat16(static_cast<float>(product))) /
           std::sqrt(static_cast<double>(model_.config().head_size()));
  }

  // As transformers' _compute_linear_scaling_rope_parameters and _compute_llama3_parameters.
  double stretched(double frequency) const {
    const RopeScaling& r = model_.config().rope_scaling;
    if (r.rope_type == RopeType::kDefault) return frequency;
    if (r.rope_type == RopeType::kLinear) return frequency / r.factor;
    const double original = static_cast<double>(r.original_max_position_embeddings),
                 wave = 2 * std::acos(-1.0) / frequency;
    if (wave < original / r.high_freq_factor) return frequency;
    if (wave > original / r.low_freq_factor) return frequency / r.factor;
    const double smooth =
        (original / wave - r.low_freq_factor) / (r.high_freq_factor - r.low_freq_factor);
    return (1 - smooth) * frequency / r.factor + smooth * frequency;
  }

  // The pairs (i, i + rotary / 2) of each head, as complex numbers, turned by position * theta^(-2i
  // / rotary).
  std::vector<double> rotate(std::vector<double> heads, int64_t position) {
    const int64_t K = model_.config().head_size(), half = model_.config().rotary_size() / 2;
    if (position >= static_cast<int64_t>(turns_.size())) {
      std::vector<std::complex<double>>& turn = turns_.emplace_back();
      for (int64_t i = 0; i < half; ++i)
        turn.push_back(std::polar(
            1.0,
            position * stretched(std::pow(model_.config().rope_theta,
                                          -static_cast<double>(i) / static_cast<double>(half)))));
    }
    for (size_t head = 0; head < heads.size(); head += K)
      for (int64_t i = 0; i < half; ++i) {
        const std::complex<double> turned =
            std::complex(heads[head + i], heads[head + i + half]) * turns_[position][i];
        heads[head + i] = turned.real();
        heads[head + i + half] = turned.imag();
      }
    return heads;
  }

  const Transformer& model_;
  CacheShape shape_;
  std::vector<std::vector<std::complex<double>>>
      turns_;  // by position and pair, as far as asked for
  std::vector<std::vector<std::vector<double>>> keys_, values_;  // layer, cache index, G K
};

// nll of x_1.. under `literal`; fp64.
at::Tensor literal_nll(const Transformer& model,
                       const CacheShape& shape,
                       const at::Tensor& tokens) {
  LiteralCache cache(model, shape);
  const at::Tensor stream = model.with_sinks(tokens.unsqueeze(0));
  const int64_t sinks = model.config().sink.tokens();
  at::Tensor nll = at::empty({tokens.size(0) - 1}, at::kDouble);
  for (int64_t p = 0; p + 1 < stream.size(1); ++p) {
    const at::Tensor logits = model.decode(
        stream.narrow(1, p, 1),
        [&](int64_t layer, const at::Tensor& qkv) { return cache.attend(layer, qkv); });
    cache.trim();
    if (p >= sinks)
      nll[p - sinks] = -at::log_softmax(logits, -1)[0][stream[0][p + 1].item<int64_t>()];
  }
  return nll;
}

// The same through a KvCache, in chunks of the given lengths, repeated; fp64 of the model's own
// logits.
at::Tensor cached_nll(const Transformer& model,
                      KvCache cache,
                      const at::Tensor& tokens,
                      const std::vector<int64_t>& chunks) {
  const at::NoGradGuard no_grad;
  const at::Tensor stream = model.with_sinks(tokens.unsqueeze(0));
  const int64_t inputs = stream.size(1) - 1;
  std::vector<at::Tensor> nll;
  size_t next = 0;
  for (int64_t begin = 0; begin < inputs;) {
    const int64_t n = std::min(chunks[next++ % chunks.size()], inputs - begin);
    const at::Tensor hidden = model.hidden_states(stream.narrow(1, begin, n), cache.attention());
    cache.advance(n);
    nll.push_back(-at::log_softmax(model.logits(hidden[0]).to(at::kDouble), -1)
                       .gather(1, stream[0].narrow(0, begin + 1, n).unsqueeze(1))
                       .squeeze(1));
    begin += n;
  }
  return at::cat(nll).slice(0, model.config().sink.tokens());
}

double largest(const at::Tensor& difference) {
  return difference.abs().max().item<double>();
}

struct Case {
  std::string name;
  ModelConfig config;
  std::vector<CacheShape> shapes;
};

Case plain(ModelType type, SinkKind kind, int64_t count, std::vector<CacheShape> shapes) {
  return {std::string(enum_name(type)) + "_" + std::string(enum_name(kind)) + std::to_string(count),
          tiny_config(type, kind, count),
          std::move(shapes)};
}

std::vector<Case> variants() {
  std::vector<Case> all;
  for (const FamilyVariant& v : family_variants())
    all.push_back({v.name, v.config, {{0, 32}, {4, v.config.uses_alibi() ? 60 : 252}}});
  for (const SinkKind kind : {SinkKind::kToken, SinkKind::kLogit})
    for (const FamilyVariant& v : family_variants())
      if (v.config.uses_alibi()) {
        all.push_back({v.name + "_" + std::string(enum_name(kind)), v.config, {{1, 63}}});
        all.back().config.sink.kind = kind;
      }
  return all;
}

class ThreeWays : public testing::TestWithParam<Case> {};

// The models are too small to share out: threads would only wait for each other.
struct OneThread : testing::Environment {
  void SetUp() override { at::set_num_threads(1); }
};
const testing::Environment* const kOneThread = testing::AddGlobalTestEnvironment(new OneThread);

// Random attention this sharp makes single tokens matter, the initial ones too, and is tame enough
// for fp32 to stay within 1e-4 of fp64 over tens of thousands of tokens.
constexpr double kGain = 1.75;

TEST_P(ThreeWays, Agree) {
  const Case& c = GetParam();
  const ModelConfig& config = c.config;
  const Transformer model = random_model(config, at::kFloat, kGain),
                    exact = random_model(config, at::kDouble, kGain);
  const at::Tensor tokens = random_tokens(config, stream_tokens() + 1);
  for (const CacheShape& shape : c.shapes) {
    SCOPED_TRACE(testing::Message() << shape.sinks << "+" << shape.recent);
    const at::Tensor literal = literal_nll(exact, shape, tokens);
    EXPECT_LT(largest(cached_nll(model, KvCache(model, shape), tokens, {1}) - literal), 1e-4)
        << "token by token";
    EXPECT_LT(largest(cached_nll(model, KvCache(model, shape), tokens, {1, 3, 130, 2, 517, 1, 64}) -
                      literal),
              1e-4)
        << "in chunks";
    EXPECT_LT(largest(score_stream(model, shape, tokens) - literal), 1e-4) << "as evaluate does it";
    EXPECT_LT(largest(cached_nll(exact, KvCache(exact, shape), tokens, {300, 1, 40}) - literal),
              3e-5)
        << "fp64 but for the rotary tables";
  }
}

// Otherwise the comparison above could not see a wrong sink.
TEST_P(ThreeWays, InitialTokensMatter) {
  const Case& c = GetParam();
  const ModelConfig& config = c.config;
  const Transformer model = random_model(config, at::kFloat, kGain);
  const at::Tensor tokens = random_tokens(config, stream_tokens() + 1);
  for (const CacheShape& shape : c.shapes) {
    const int64_t C = shape.entries();
    const at::Tensor difference =
        (score_stream(model, {0, C}, tokens) - score_stream(model, {4, C - 4}, tokens))
            .slice(0, C)
            .abs();
    EXPECT_GT(difference.mean().item<double>(), 0.05) << "cache " << C;
  }
}

// Room for one recent token, and sinks that come one by one or all in a chunk.
TEST(Streaming, TheSmallestCachesAgree) {
  std::vector<ModelConfig> configs = {tiny_config(ModelType::kLlama, SinkKind::kNone),
                                      tiny_config(ModelType::kGptNeox, SinkKind::kToken, 2)};
  for (const FamilyVariant& v : family_variants())
    if (v.config.uses_alibi()) configs.push_back(v.config);
  for (const ModelConfig& config : configs) {
    const Transformer model = random_model(config, at::kFloat, kGain),
                      exact = random_model(config, at::kDouble, kGain);
    const at::Tensor tokens = random_tokens(config, 160);
    for (const CacheShape& shape : {CacheShape{0, 1}, {1, 1}, {4, 1}, {3, 2}, {130, 1}}) {
      SCOPED_TRACE(testing::Message() << shape.sinks << "+" << shape.recent);
      const at::Tensor literal = literal_nll(exact, shape, tokens);
      for (const std::vector<int64_t>& chunks :
           std::vector<std::vector<int64_t>>{{1}, {2}, {3, 1, 140}, {500}})
        EXPECT_LT(largest(cached_nll(model, KvCache(model, shape), tokens, chunks) - literal), 1e-4)
            << "chunks of " << chunks[0];
    }
  }
}

INSTANTIATE_TEST_SUITE_P(
    All,
    ThreeWays,
    testing::Values(plain(ModelType::kLlama, SinkKind::kNone, 1, {{4, 508}, {0, 64}}),
                    plain(ModelType::kLlama, SinkKind::kToken, 1, {{1, 15}, {4, 196}}),
                    plain(ModelType::kLlama, SinkKind::kZero, 1, {{2, 62}, {0, 16}}),
                    plain(ModelType::kLlama, SinkKind::kLogit, 1, {{4, 12}, {1, 255}}),
                    plain(ModelType::kGptNeox, SinkKind::kNone, 1, {{0, 256}, {1, 15}}),
                    plain(ModelType::kGptNeox, SinkKind::kToken, 1, {{1, 299}, {2, 62}}),
                    plain(ModelType::kGptNeox, SinkKind::kToken, 2, {{4, 60}, {1, 63}}),
                    plain(ModelType::kGptNeox, SinkKind::kZero, 1, {{4, 28}, {1, 127}}),
                    plain(ModelType::kGptNeox, SinkKind::kLogit, 1, {{2, 14}, {0, 100}})),
    [](const auto& each) { return each.param.name; });
INSTANTIATE_TEST_SUITE_P(Layouts, ThreeWays, testing::ValuesIn(variants()), [](const auto& each) {
  return each.param.name;
});

// The ring's positions only ever meet as differences, and their angles are exact: a stream that
// stands beyond 2^22 gives the numbers of one that starts at 0.
TEST(Streaming, PositionsMayGrowForEver) {
  for (const ModelType type : {ModelType::kLlama, ModelType::kGptNeox}) {
    const ModelConfig config = tiny_config(type, SinkKind::kToken);
    const Transformer model = random_model(config, at::kFloat, kGain);
    const at::Tensor tokens = random_tokens(config, 400);
    const CacheShape shape{2, 62};
    const at::Tensor here = cached_nll(model, KvCache(model, shape), tokens, {1, 100});
    const at::Tensor far =
        cached_nll(model, KvCache(model, shape, (int64_t{1} << 22) + 12345), tokens, {1, 100});
    const at::Tensor very_far =
        cached_nll(model, KvCache(model, shape, (int64_t{1} << 40) + 7), tokens, {100, 1});
    EXPECT_LT(largest(here - far), 1e-4);
    EXPECT_GT(largest(here - far), 0);  // the positions were really others
    EXPECT_LT(largest(here - very_far),
              0.02);  // doubles have 12 bits left for the fraction of the angle there
  }
}

TEST(Streaming, DenseIsTheOrdinaryForward) {
  std::vector<ModelConfig> configs;
  for (const ModelType type : {ModelType::kLlama, ModelType::kGptNeox})
    for (const SinkKind kind :
         {SinkKind::kNone, SinkKind::kToken, SinkKind::kZero, SinkKind::kLogit})
      configs.push_back(tiny_config(type, kind));
  for (const FamilyVariant& v : family_variants()) configs.push_back(v.config);
  for (const ModelConfig& config : configs) {
    const Transformer model = random_model(config, at::kFloat, kGain);
    const at::Tensor tokens = random_tokens(config, 300),
                     stream = model.with_sinks(tokens.unsqueeze(0));
    const at::NoGradGuard no_grad;
    const at::Tensor hidden =
        model.hidden_states(stream, model.causal_attention(stream.size(1)))[0].slice(
            0, config.sink.tokens(), -1);
    const at::Tensor expected = -at::log_softmax(model.logits(hidden), -1)
                                     .gather(1, tokens.slice(0, 1).unsqueeze(1))
                                     .squeeze(1);
    EXPECT_LT(largest(score_dense(model, tokens) - expected), 1e-4) << enum_name(config.model_type);
  }
}

// A model's own window is a limit of every way to attend.
TEST(Streaming, NothingExceedsTheSlidingWindow) {
  ModelConfig config = variant_base(ModelType::kMistral, 2);
  config.sliding_window = 32;
  const Transformer model = random_model(config, at::kFloat);
  const at::Tensor tokens = random_tokens(config, 40);
  EXPECT_EQ(score_stream(model, {4, 27}, tokens).numel(), 39);  // and the query
  EXPECT_THROW(score_stream(model, {4, 28}, tokens), std::invalid_argument);
  EXPECT_EQ(score_dense(model, tokens.narrow(0, 0, 33)).numel(), 32);
  EXPECT_THROW(score_dense(model, tokens.narrow(0, 0, 34)), std::invalid_argument);
  const at::Tensor last = at::tensor({39}, at::kLong);
  EXPECT_EQ(score_recompute(model, 31, tokens, last).numel(), 1);
  EXPECT_THROW(score_recompute(model, 32, tokens, last), std::invalid_argument);
}

TEST(Streaming, RecomputeIsAForwardOverEachWindow) {
  for (const SinkKind kind : {SinkKind::kNone, SinkKind::kToken}) {
    const ModelConfig config = tiny_config(ModelType::kLlama, kind, 2);
    const Transformer model = random_model(config, at::kFloat, kGain);
    const at::Tensor tokens = random_tokens(config, 60);
    const int64_t C = 16, sinks = config.sink.tokens();
    const at::NoGradGuard no_grad;
    const at::Tensor nll = score_recompute(model, C, tokens, at::arange(1, 60, at::kLong));
    for (int64_t target = 1; target < 60; ++target) {
      const int64_t window = std::min(target, C + 1 - sinks);
      const at::Tensor ids =
          model.with_sinks(tokens.narrow(0, target - window, window).unsqueeze(0));
      ASSERT_LE(ids.size(1), C + 1);
      const at::Tensor logits =
          model.logits(model.hidden_states(ids, model.causal_attention(ids.size(1)))[0][-1]);
      EXPECT_NEAR(nll[target - 1].item<double>(),
                  -at::log_softmax(logits, -1)[tokens[target].item<int64_t>()].item<double>(),
                  1e-4)
          << "target " << target;
    }
    // Only some targets: the same numbers.
    const at::Tensor some = at::tensor({3, 17, 40, 59}, at::kLong);
    EXPECT_LT(largest(score_recompute(model, C, tokens, some) - nll.index_select(0, some - 1)),
              1e-5);
  }
}

TEST(Streaming, ShortDocuments) {
  const ModelConfig config = tiny_config(ModelType::kLlama, SinkKind::kToken);
  const Transformer model = random_model(config, at::kFloat);
  EXPECT_EQ(score_stream(model, {1, 15}, random_tokens(config, 0)).numel(), 0);
  EXPECT_EQ(score_stream(model, {1, 15}, random_tokens(config, 1)).numel(), 0);
  EXPECT_EQ(score_stream(model, {1, 15}, random_tokens(config, 2)).numel(), 1);
}

TEST(Streaming, BFloat16StaysClose) {
  const ModelConfig config = tiny_config(ModelType::kLlama, SinkKind::kLogit);
  const Transformer model = random_model(config, at::kFloat),
                    half = random_model(config, at::kBFloat16);
  const at::Tensor tokens = random_tokens(config, 300);
  const at::Tensor expected = score_stream(model, {2, 62}, tokens);
  EXPECT_LT((score_stream(half, {2, 62}, tokens) - expected).abs().mean().item<double>(), 0.05);
  EXPECT_LT((cached_nll(half, KvCache(half, {2, 62}), tokens, {1}) - expected)
                .abs()
                .mean()
                .item<double>(),
            0.05);
}

}  // namespace
}  // namespace basin
