#include "model/config.h"

#include <gtest/gtest.h>

#include <algorithm>

namespace basin {
namespace {

bool mentions(const ModelConfig& config, std::string_view text) {
  const std::vector<std::string> lines = config.problems();
  return std::any_of(lines.begin(), lines.end(), [&](const std::string& line) {
    return line.find(text) != std::string::npos;
  });
}

TEST(ModelConfig, DefaultHasNoProblems) {
  EXPECT_TRUE(ModelConfig{}.problems().empty());
}

TEST(ModelConfig, DerivedNumbers) {
  ModelConfig config;
  config.hidden_size = 96;
  config.num_attention_heads = 6;
  EXPECT_EQ(config.kv_heads(), 6);
  EXPECT_EQ(config.head_size(), 16);
  config.num_key_value_heads = 2;
  config.head_dim = 8;
  EXPECT_EQ(config.qkv_size(), (6 + 2 + 2) * 8);
}

TEST(ModelConfig, RotarySizeRoundsDownAsHuggingFaceDoes) {
  ModelConfig config;
  config.head_dim = 64;
  EXPECT_EQ(config.rotary_size(), 64);
  config.partial_rotary_factor = 0.25;
  EXPECT_EQ(config.rotary_size(), 16);
  config.partial_rotary_factor = 0;
  EXPECT_EQ(config.rotary_size(), 0);
  EXPECT_TRUE(config.problems().empty());
  config.partial_rotary_factor = 0.2;  // int(12.8)
  EXPECT_EQ(config.rotary_size(), 12);
  EXPECT_TRUE(config.problems().empty());
}

TEST(ModelConfig, OddRotarySizeIsRefused) {
  ModelConfig config;
  config.head_dim = 12;
  config.partial_rotary_factor = 0.25;
  EXPECT_EQ(config.rotary_size(), 2);
  EXPECT_TRUE(mentions(config, "rotates 3 of 12 dimensions"));
}

TEST(ModelConfig, HeadsMustDivide) {
  ModelConfig config;
  config.num_attention_heads = 6;
  EXPECT_TRUE(mentions(config, "num_attention_heads 6 does not divide hidden_size 128"));
  config.hidden_size = 96;
  EXPECT_TRUE(config.problems().empty());
  config.num_key_value_heads = 4;
  EXPECT_TRUE(mentions(config, "num_key_value_heads 4 does not divide num_attention_heads 6"));
  config.num_key_value_heads = 3;
  EXPECT_TRUE(config.problems().empty());
}

TEST(ModelConfig, GptNeoxHasNoGroupedQueriesAndNoFreeHeadSize) {
  ModelConfig config;
  config.model_type = ModelType::kGptNeox;
  EXPECT_TRUE(config.problems().empty());
  config.num_key_value_heads = 2;
  EXPECT_TRUE(mentions(config, "num_key_value_heads 2: gpt_neox"));
  config.num_key_value_heads = 4;
  config.head_dim = 64;
  EXPECT_TRUE(mentions(config, "head_dim 64: gpt_neox"));
  EXPECT_FALSE(mentions(config, "num_key_value_heads"));
}

TEST(ModelConfig, SinkIdsLieInTheVocabularyOnceItIsKnown) {
  ModelConfig config;
  config.sink.token_ids = {512};
  EXPECT_TRUE(config.problems().empty());
  config.vocab_size = 512;
  EXPECT_TRUE(mentions(config, "sink token id 512 lies outside the vocabulary of 512"));
  config.sink.kind = SinkKind::kZero;
  EXPECT_TRUE(config.problems().empty());
}

TEST(ModelConfig, NonsenseIsReportedNotDividedBy) {
  ModelConfig config;
  config.num_attention_heads = 0;
  EXPECT_TRUE(mentions(config, "must be positive"));
}

}  // namespace
}  // namespace basin
