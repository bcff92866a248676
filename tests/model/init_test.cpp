#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>

#include "model/transformer.h"
#include "tests/model/small_model.h"

namespace basin {
namespace {

TEST(Initialize, IsAPureFunctionOfSeedAndName) {
  ModelConfig config = tiny(ModelType::kLlama);
  Transformer a(config, at::kFloat, at::kCPU), b(config, at::kFloat, at::kCPU),
      half(config, at::kBFloat16, at::kCPU);
  a.initialize(7);
  b.initialize(8);
  half.initialize(7);
  EXPECT_FALSE(at::equal(a.flat(), b.flat()));
  EXPECT_TRUE(at::equal(a.flat().to(at::kBFloat16), half.flat()));
  config.num_hidden_layers = 3;
  config.tie_word_embeddings = true;
  Transformer deeper(config, at::kFloat, at::kCPU);
  deeper.initialize(7);
  EXPECT_TRUE(
      at::equal(a.parameter("layers.1.qkv.weight"), deeper.parameter("layers.1.qkv.weight")));
  EXPECT_FALSE(at::equal(a.parameter("layers.0.qkv.weight"), a.parameter("layers.1.qkv.weight")));
}

TEST(Initialize, DrawsNormalNumbersOfTheFamilysDeviation) {
  for (const ModelType type : {ModelType::kLlama, ModelType::kGptNeox}) {
    ModelConfig config = tiny(type);
    config.hidden_size = 240;
    config.vocab_size = 501;
    config.intermediate_size = 401;
    config.sink.kind = SinkKind::kLogit;
    Transformer model(config, at::kFloat, at::kCPU);
    model.initialize(1);
    const double small = std::sqrt(2.0 / (5 * 240)), wang = 2.0 / (2 * std::sqrt(240.0));
    const auto expect_normal = [&](const std::string& name, double neox) {
      const double expected = type == ModelType::kLlama ? config.initializer_range : neox;
      const at::Tensor x = model.parameter(name).flatten().to(at::kDouble) / expected;
      const double n = static_cast<double>(x.numel());
      EXPECT_NEAR(x.mean().item<double>(), 0, 4 / std::sqrt(n)) << name;
      EXPECT_NEAR(x.square().mean().item<double>(), 1, 4 * std::sqrt(2 / n)) << name;
      EXPECT_NEAR(x.pow(4).mean().item<double>(), 3, 4 * std::sqrt(96 / n)) << name;
      EXPECT_NEAR((x.slice(0, 1) * x.slice(0, 0, -1)).mean().item<double>(), 0, 4 / std::sqrt(n))
          << name;
    };
    expect_normal("embedding.weight", small);
    expect_normal("layers.1.qkv.weight", small);
    expect_normal("layers.1.up.weight", small);
    expect_normal("head.weight", small);
    expect_normal("layers.1.attention_out.weight", wang);
    expect_normal("layers.1.down.weight", wang);
    EXPECT_TRUE(at::equal(model.parameter("layers.0.mlp_norm.weight"), at::ones({240})));
    EXPECT_TRUE(at::equal(model.parameter("layers.0.sink_logit"), at::zeros({6})));
    if (type == ModelType::kGptNeox) {
      EXPECT_TRUE(at::equal(model.parameter("layers.0.down.bias"), at::zeros({240})));
    }
  }
}

}  // namespace
}  // namespace basin
