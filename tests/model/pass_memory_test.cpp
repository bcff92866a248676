// The memory of a pass: against the literature and by hand. tests/train/plan_memory_test.cpp
// measures it.
#include "model/pass_memory.h"

#include <gtest/gtest.h>

#include "model/cpu_allocator.h"

namespace basin {
namespace {

constexpr int64_t D = 1024, H = 16, F = 4 * D, V = 50304;

ModelConfig shape(ModelType type, int64_t layers) {
  ModelConfig config;
  config.model_type = type;
  config.vocab_size = V;
  config.hidden_size = D;
  config.num_hidden_layers = layers;
  config.num_attention_heads = H;
  config.intermediate_size = F;
  config.sink.kind = SinkKind::kNone;
  return config;
}

/// What one more layer keeps of each position, in bytes.
double kept_by_a_layer(ModelType type, const PassShape& pass) {
  const int64_t more = pass_memory(shape(type, 13), pass).kept,
                fewer = pass_memory(shape(type, 12), pass).kept;
  return static_cast<double>(more - fewer) /
         static_cast<double>(pass.micro_batch * pass.sequence_length);
}

TEST(PassMemory, ALayerKeepsWhatTheLiteratureCounts) {
  // Korthikanti et al. (arXiv 2205.05198), equation 1: 34 s b h bytes a layer beside the scores,
  // which flash attention does not keep. Of these, two dropout masks (2) are not there; the
  // parallel residual has one input for both norms (2). Ours on top: statistics of two norms,
  // log-sum-exp, rotated queries and keys (4 h).
  const PassShape pass{.micro_batch = 4, .sequence_length = 2048, .bf16 = true, .cuda = true};
  EXPECT_DOUBLE_EQ(kept_by_a_layer(ModelType::kGptNeox, pass), (30 + 4) * D + 2 * 8 + 4 * H);
}

TEST(PassMemory, ALayerOnACpuByHand) {
  const PassShape pass{.micro_batch = 4, .sequence_length = 2048, .bf16 = true};
  const auto block = [](int64_t bytes) {
    return static_cast<double>(cpu_block_bytes(4 * 2048 * bytes)) / (4 * 2048);
  };
  // Two sums, two norms, qkv, attention's output, gate and up, their product.
  EXPECT_DOUBLE_EQ(kept_by_a_layer(ModelType::kLlama, pass),
                   5 * block(2 * D) + block(2 * 3 * D) + block(2 * 2 * F) + block(2 * F) +
                       2 * block(8) + block(4 * H));
}

TEST(PassMemory, RecomputationKeepsTheStreamAndItsDelta) {
  const PassShape pass{
      .micro_batch = 4, .sequence_length = 2048, .bf16 = true, .recompute = true, .cuda = true};
  for (const ModelType type : {ModelType::kLlama, ModelType::kGptNeox})
    EXPECT_DOUBLE_EQ(kept_by_a_layer(type, pass), 2 * 2 * D);
}

TEST(PassMemory, PlainAttentionOfAGpuInFp32KeepsAllScores) {
  const int64_t T = 2048;
  const PassShape pass{.micro_batch = 2, .sequence_length = T, .cuda = true};
  const PassShape twice{.micro_batch = 2, .sequence_length = 2 * T, .cuda = true};
  EXPECT_DOUBLE_EQ(
      kept_by_a_layer(ModelType::kLlama, twice) - kept_by_a_layer(ModelType::kLlama, pass),
      T * H * 4);
}

TEST(PassMemory, TheLogitsOfABatchNeverExist) {
  const PassShape pass{.micro_batch = 8, .sequence_length = 2048};
  EXPECT_EQ(pass_memory(shape(ModelType::kLlama, 2), pass).logits, cpu_block_bytes(1024 * V * 4));
}

TEST(PassMemory, AGpuFillsUpRowsOfLogitsAndForThatCopiesTheHead) {
  const PassShape pass{.micro_batch = 8, .sequence_length = 2048, .bf16 = true, .cuda = true};
  ModelConfig odd = shape(ModelType::kLlama, 2), even = odd;
  odd.vocab_size = 50257, even.vocab_size = 50264;
  const PassMemory of_odd = pass_memory(odd, pass), of_even = pass_memory(even, pass);
  EXPECT_EQ(of_odd.logits, of_even.logits);
  EXPECT_EQ(of_odd.peak_at, "the loss");
  EXPECT_NEAR(of_odd.peak - of_even.peak, 2 * 50264 * D, 2 * 3 * 7 * D + 2048);
}

TEST(PassMemory, EveryPassGivesBackWhatItTook) {
  for (const ModelType type :
       {ModelType::kLlama, ModelType::kGptNeox, ModelType::kMpt, ModelType::kFalcon})
    for (const int64_t layers : {1, 2, 5})
      for (const bool recompute : {false, true})
        for (const bool cuda : {false, true})
          for (const bool bf16 : {false, true})
            for (const bool tied : {false, true})
              for (const SinkKind sink : {SinkKind::kToken, SinkKind::kLogit}) {
                ModelConfig config = shape(type, layers);
                config.tie_word_embeddings = tied;
                config.sink.kind = sink;
                const PassShape pass{.micro_batch = 2,
                                     .sequence_length = 600,
                                     .bf16 = bf16,
                                     .recompute = recompute,
                                     .cuda = cuda};
                PassMemory memory;
                EXPECT_NO_THROW(memory = pass_memory(config, pass));
                EXPECT_GT(memory.peak, memory.kept);
                config.use_parallel_residual = false;
                EXPECT_NO_THROW(pass_memory(config, pass));
              }
}

}  // namespace
}  // namespace basin
