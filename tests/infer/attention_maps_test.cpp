#include "infer/attention_maps.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "model/rope.h"
#include "tests/infer/tiny_model.h"

namespace basin {
namespace {

constexpr int kSlopes[] = {-2, -4, -6, -8, -1, -3};  // of ALiBi with six heads, as powers of 2

// Attention weights (L, H, T, T) of one sequence, one number at a time, in fp64.
at::Tensor naive_weights(const Transformer& model, const at::Tensor& ids) {
  const auto [H, G, K] = model.head_shape();
  const int64_t T = ids.size(1);
  const ops::Rotary rotary = rotary_table(model.config(), at::arange(T, at::kLong));
  at::Tensor all = at::zeros({model.config().num_hidden_layers, H, T, T}, at::kDouble);
  const LayerAttention ordinary = model.causal_attention(T);
  model.hidden_states(ids, [&, H = H, G = G, K = K](int64_t layer, const at::Tensor& qkv) {
    const at::Tensor x = apply_rotary(qkv[0].view({T, H + 2 * G, K}).narrow(1, 0, H + G), rotary)
                             .to(at::kDouble)
                             .contiguous();
    const auto* p = x.const_data_ptr<double>();
    const at::Tensor logit = model.sink_logit(layer);
    for (int64_t h = 0; h < H; ++h)
      for (int64_t t = 0; t < T; ++t) {
        double sum = logit.defined() ? std::exp(logit[h].item<double>()) : 0;
        std::vector<double> weight(t + 1);
        for (int64_t k = 0; k <= t; ++k) {
          double dot = 0;
          for (int64_t d = 0; d < K; ++d)
            dot += p[(t * (H + G) + h) * K + d] * p[(k * (H + G) + H + h / (H / G)) * K + d];
          const double bias =
              model.config().uses_alibi() ? std::ldexp(static_cast<double>(k - t), kSlopes[h]) : 0;
          sum += weight[k] = std::exp(dot / std::sqrt(static_cast<double>(K)) + bias);
        }
        for (int64_t k = 0; k <= t; ++k) all[layer][h][t][k] = weight[k] / sum;
      }
    return ordinary(layer, qkv);
  });
  return all;
}

TEST(SinkMetric, IsTheDefinition) {
  for (const SinkKind kind : {SinkKind::kNone, SinkKind::kToken, SinkKind::kLogit}) {
    const ModelConfig config = tiny_config(ModelType::kLlama, kind, 2);
    const Transformer model = random_model(config, at::kFloat, 3);
    const int64_t sinks = config.sink.tokens(), T = kSinkPositions;
    const at::Tensor samples = random_tokens(config, 2 * 70).view({2, 70});
    const SinkMetric metric = measure_sink(model, samples);
    at::Tensor mean = at::zeros({2, 4, T, T}, at::kDouble);
    for (int64_t n = 0; n < 2; ++n)
      mean +=
          naive_weights(model, model.with_sinks(samples.narrow(0, n, 1).narrow(1, 0, T - sinks))) /
          2;
    const auto check = [&](const at::Tensor& alpha, double share, int64_t k) {
      int64_t above = 0;
      for (int64_t l = 0; l < 2; ++l)
        for (int64_t h = 0; h < 4; ++h) {
          double sum = 0;
          for (int64_t t = k; t < T; ++t) sum += mean[l][h][t][k].item<double>();
          EXPECT_NEAR(alpha[l][h].item<double>(), sum / (T - k), 1e-5);
          above += sum / (T - k) > 0.3;
        }
      EXPECT_DOUBLE_EQ(share, above / 8.0);
    };
    check(metric.alpha, metric.sink_first, 0);
    check(metric.alpha_first_text, metric.sink_first_text, sinks);
    EXPECT_LT((metric.maps.to(at::kDouble) - mean.narrow(2, 0, 32).narrow(3, 0, 32))
                  .abs()
                  .max()
                  .item<double>(),
              1e-5);
    EXPECT_EQ(metric.sequences, 2);
  }
}

TEST(SinkMetric, OfAlibiToo) {
  const Transformer model = random_model(variant_base(ModelType::kMpt, 0), at::kFloat, 3);
  const at::Tensor samples = random_tokens(model.config(), kSinkPositions).unsqueeze(0);
  const at::Tensor expected = naive_weights(model, samples).narrow(2, 0, 32).narrow(3, 0, 32);
  EXPECT_LT(
      (measure_sink(model, samples).maps.to(at::kDouble) - expected).abs().max().item<double>(),
      1e-5);
}

// One layer whose every query points at the key of token 6 alone: all attention beyond itself goes
// there.
TEST(SinkMetric, SeesASink) {
  ModelConfig config = tiny_config(ModelType::kLlama, SinkKind::kNone);
  config.num_hidden_layers = 1;
  config.partial_rotary_factor = 0;
  const Transformer model = random_model(config, at::kFloat);
  for (const Parameter& p : model.parameters()) {
    at::Tensor t = p.tensor;
    if (p.name == "embedding.weight") {
      t.fill_(0).select(1, 0).fill_(1);  // all tokens look alike ...
      t[6][0] = -1;                      // ... but the one
    }
    if (p.name == "layers.0.qkv.weight") {
      t.fill_(0);
      t.narrow(0, 0, 32).select(1, 0).fill_(1);  // queries of ordinary tokens
      t.narrow(0, 32, 16).select(1, 0).fill_(
          -1);  // keys: against them for ordinary tokens, along for token 6
    }
  }
  at::Tensor samples = random_tokens(config, 64).clamp_min(7).view({1, 64});
  EXPECT_EQ(measure_sink(model, samples).sink_first, 0);  // uniform: 4.74 / 64
  EXPECT_NEAR(measure_sink(model, samples).alpha[0][0].item<double>(), 4.7439 / 64, 1e-4);
  samples[0][0] = 6;
  const SinkMetric metric = measure_sink(model, samples);
  EXPECT_EQ(metric.sink_first, 1);
  EXPECT_EQ(metric.sink_first_text, 1);  // without sink tokens the first token is both
  EXPECT_GT(metric.alpha[0][0].item<double>(), 0.95);
}

TEST(SinkMetric, SamplesDoNotCrossDocuments) {
  const std::vector<TokenDocument> documents = {{"a", at::arange(0, 25, at::kLong)},
                                                {"b", at::arange(100, 109, at::kLong)},
                                                {"c", at::arange(200, 240, at::kLong)}};
  const at::Tensor all = spread_samples(documents, 10, 100);
  ASSERT_EQ(all.sizes(), (std::vector<int64_t>{6, 10}));
  EXPECT_TRUE(at::equal(all.select(1, 0), at::tensor({0, 10, 200, 210, 220, 230}, at::kLong)));
  EXPECT_TRUE(at::equal(all[5], at::arange(230, 240, at::kLong)));
  EXPECT_TRUE(at::equal(spread_samples(documents, 10, 3).select(1, 0),
                        at::tensor({0, 200, 220}, at::kLong)));
  EXPECT_THROW(spread_samples(documents, 41, 3), std::runtime_error);
}

TEST(SinkMetric, JsonHasTheDocumentedShape) {
  const ModelConfig config = tiny_config(ModelType::kLlama, SinkKind::kToken);
  const nlohmann::ordered_json json = to_json(
      measure_sink(random_model(config, at::kFloat), random_tokens(config, 3 * 63).view({3, 63})));
  EXPECT_EQ(json["epsilon"], 0.3);
  EXPECT_EQ(json["positions"], 64);
  EXPECT_EQ(json["sequences"], 3);
  EXPECT_EQ(json["alpha"].size(), 2u);
  EXPECT_EQ(json["alpha"][1].size(), 4u);
  EXPECT_TRUE(json["alpha_first_text"][0][3].is_number());
  EXPECT_EQ(json["maps"]["size"], 32);
  EXPECT_EQ(json["maps"]["values"][1][3].size(), 32u * 32u);
  EXPECT_EQ(json["maps"]["values"][0][0][0], 1.0);  // the first query sees itself alone
  EXPECT_EQ(json["maps"]["values"][0][0][1], 0.0);
  EXPECT_THROW(
      measure_sink(random_model(config, at::kFloat), random_tokens(config, 62).view({1, 62})),
      std::invalid_argument);
}

}  // namespace
}  // namespace basin
