#include "model/cost.h"

#include <gtest/gtest.h>

#include "model/parameters.h"
#include "model/transformer.h"

namespace basin {
namespace {

ModelConfig shape(
    ModelType type, int64_t vocab, int64_t hidden, int64_t layers, int64_t heads, int64_t width) {
  ModelConfig config;
  config.model_type = type;
  config.vocab_size = vocab;
  config.hidden_size = hidden;
  config.num_hidden_layers = layers;
  config.num_attention_heads = heads;
  config.intermediate_size = width;
  return config;
}

TEST(Cost, PublishedParameterCountsOfPythia) {  // arXiv 2304.01373, table 1 and the model cards
  EXPECT_EQ(count_parameters(shape(ModelType::kGptNeox, 50304, 512, 6, 8, 2048)), 70'426'624);
  EXPECT_EQ(count_parameters(shape(ModelType::kGptNeox, 50304, 768, 12, 12, 3072)), 162'322'944);
  EXPECT_EQ(count_parameters(shape(ModelType::kGptNeox, 50304, 1024, 24, 16, 4096)), 405'334'016);
}

TEST(Cost, PublishedParameterCountsOfLlama) {  // arXiv 2307.09288 and 2407.21783, model cards
  EXPECT_EQ(count_parameters(shape(ModelType::kLlama, 32000, 4096, 32, 32, 11008)), 6'738'415'616);
  ModelConfig llama3 = shape(ModelType::kLlama, 128256, 4096, 32, 32, 14336);
  llama3.num_key_value_heads = 8;
  EXPECT_EQ(count_parameters(llama3), 8'030'261'248);
  ModelConfig tiny_llama = shape(ModelType::kLlama, 32000, 2048, 22, 32, 5632);  // TinyLlama-1.1B
  tiny_llama.num_key_value_heads = 4;
  EXPECT_EQ(count_parameters(tiny_llama), 1'100'048'384);
}

TEST(Cost, TiedHeadCountsOnce) {
  ModelConfig config = shape(ModelType::kLlama, 1000, 64, 2, 4, 128);
  const int64_t untied = count_parameters(config);
  config.tie_word_embeddings = true;
  EXPECT_EQ(untied - count_parameters(config), 64'000);
}

TEST(Cost, SinkTokensCostNoParameterAndSinkLogitsOneAHead) {
  ModelConfig config = shape(ModelType::kLlama, 1000, 64, 2, 4, 128);
  config.sink.kind = SinkKind::kNone;
  const int64_t vanilla = count_parameters(config);
  config.sink.kind = SinkKind::kToken;
  EXPECT_EQ(count_parameters(config), vanilla);
  config.sink.kind = SinkKind::kZero;
  EXPECT_EQ(count_parameters(config), vanilla);
  config.sink.kind = SinkKind::kLogit;
  EXPECT_EQ(count_parameters(config), vanilla + 2 * 4);
}

TEST(Cost, FlopsOfASmallLlamaByHand) {
  ModelConfig config = shape(ModelType::kLlama, 100, 8, 1, 2, 16);
  config.num_key_value_heads = 1;
  // qkv (2 + 2) * 4 * 8, out 8 * 8, gate and up 2 * 16 * 8, down 8 * 16, head 100 * 8
  const double matrices = 128 + 64 + 256 + 128 + 800;
  EXPECT_DOUBLE_EQ(train_flops_per_token(config, 31), 6 * matrices + 6 * 8 * 32);
  config.tie_word_embeddings = true;  // the shared matrix still multiplies
  EXPECT_DOUBLE_EQ(train_flops_per_token(config, 31), 6 * matrices + 6 * 8 * 32);
}

TEST(Cost, PalmCountsTheWholeAttentionMatrix) {  // arXiv 2204.02311, appendix B: 6 N + 12 L H Q T
  const ModelConfig config = shape(ModelType::kGptNeox, 50304, 768, 12, 12, 3072);
  const double matrices = 12 * 12 * 768 * 768 + 50304 * 768;
  EXPECT_DOUBLE_EQ(palm_flops_per_token(config, 2048), 6 * matrices + 12.0 * 12 * 12 * 64 * 2048);
}

TEST(Cost, PartsOfPythia160MByHand) {
  ModelConfig config = shape(ModelType::kGptNeox, 50304, 768, 12, 12, 3072);
  config.sink.kind = SinkKind::kLogit;
  const ParameterParts parts = count_parameter_parts(config);
  EXPECT_EQ(parts.embedding, 50304 * 768);
  EXPECT_EQ(parts.head, 50304 * 768);
  EXPECT_EQ(parts.attention, 12 * (4 * 768 * 768 + 4 * 768 + 12));  // with a logit a head
  EXPECT_EQ(parts.mlp, 12 * (8 * 768 * 768 + 5 * 768));
  EXPECT_EQ(parts.norms, (2 * 12 + 1) * 2 * 768);
  EXPECT_EQ(parts.embedding + parts.attention + parts.mlp + parts.norms + parts.head,
            count_parameters(config));
}

TEST(Cost, RecomputationAddsTheBlocksForwardPass) {
  ModelConfig config = shape(ModelType::kLlama, 100, 8, 1, 2, 16);
  config.num_key_value_heads = 1;
  const double blocks = 6.0 * (128 + 64 + 256 + 128) + 6 * 8 * 32;
  EXPECT_DOUBLE_EQ(recomputed_flops_per_token(config, 31), 4.0 / 3 * blocks + 6 * 800);
}

TEST(Parameters, TheFlatBufferIsTheModels) {
  ModelConfig config = shape(ModelType::kGptNeox, 100, 24, 2, 2, 40);
  EXPECT_EQ(flat_elements(config), Transformer(config, at::kFloat, at::kCPU).flat().numel());
  EXPECT_GT(flat_elements(config), count_parameters(config));
}

TEST(Parameters, ShapesNamesAndDecay) {
  ModelConfig config = shape(ModelType::kGptNeox, 100, 8, 1, 2, 16);
  config.attention_bias = false;
  config.sink.kind = SinkKind::kLogit;
  std::vector<std::string> names;
  for (const ParameterShape& parameter : parameter_shapes(config)) {
    names.push_back(parameter.name);
    EXPECT_EQ(parameter.decay, parameter.shape.size() >= 2) << parameter.name;
  }
  EXPECT_EQ(names,
            (std::vector<std::string>{"embedding.weight",
                                      "layers.0.attention_norm.weight",
                                      "layers.0.attention_norm.bias",
                                      "layers.0.qkv.weight",
                                      "layers.0.attention_out.weight",
                                      "layers.0.mlp_norm.weight",
                                      "layers.0.mlp_norm.bias",
                                      "layers.0.up.weight",
                                      "layers.0.up.bias",
                                      "layers.0.down.weight",
                                      "layers.0.down.bias",
                                      "layers.0.sink_logit",
                                      "final_norm.weight",
                                      "final_norm.bias",
                                      "head.weight"}));
}

}  // namespace
}  // namespace basin
