// The mechanism in seconds, on synthetic text in which attention has work to do now and then: the
// next symbol follows a fixed random bigram table, but after one of four triggers it repeats the
// symbol before the trigger (after the Bigram-Backcopy task of arXiv 2410.13835). A head that
// copies after triggers has nowhere to look the rest of the time: the sink token becomes that
// place.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "infer/evaluate.h"
#include "tests/train/train_fixture.h"
#include "train/trainer.h"

namespace basin {
namespace {

constexpr int64_t kTriggers = 4, kSymbols = kTestVocabulary - kFirstTestToken;

/// The rank of a draw under p(r) = 2^-(r+1), as which one of 58 symbols of the row: peaked rows
/// that differ by symbol.
int32_t next_symbol(int64_t last, uint64_t noise) {
  const int rank = std::min(__builtin_ctzll(noise | 1ull << 20), 20);
  return static_cast<int32_t>(
      keyed_hash(77, static_cast<uint64_t>(last), static_cast<uint64_t>(rank)) % kSymbols);
}

std::vector<int32_t> back_copy_text(int64_t tokens, uint64_t seed) {
  std::vector<int32_t> symbols = {kTriggers, kTriggers + 1};
  while (std::ssize(symbols) < tokens) {
    const int32_t last = symbols.back(), before = symbols[symbols.size() - 2];
    const uint64_t noise = keyed_hash(seed, 11, symbols.size());
    symbols.push_back(last < kTriggers && before >= kTriggers ? before : next_symbol(last, noise));
  }
  for (int32_t& symbol : symbols) symbol += static_cast<int32_t>(kFirstTestToken);
  return symbols;
}

void write_text(const std::filesystem::path& prefix, int64_t tokens, uint64_t seed) {
  IndexedDatasetWriter writer(prefix, kTestVocabulary);
  writer.add_document(back_copy_text(tokens, seed));
  writer.commit();
}

class SinkMechanism : public TrainTest {
 protected:
  Evaluation stream_after_training(SinkKind kind) {
    write_text(root_ / "text", 1000000, 1);
    write_text(root_ / "heldout", 20000, 2);
    RunConfig config = tiny_config(std::string(enum_name(kind)));
    config.model.model_type = ModelType::kGptNeox;
    config.model.hidden_size = 64;
    config.model.num_hidden_layers = 1;
    config.model.num_attention_heads = 1;
    config.model.intermediate_size = 8;  // so that the head, not the MLP, has to do the work
    config.model.partial_rotary_factor = 0.5;
    config.model.sink.kind = kind;
    config.data.train = {DatasetConfig{(root_ / "text").string(), 1}};
    config.data.sequence_length = 128;
    config.train.steps = 1500;
    config.train.global_batch = 8;
    config.train.micro_batch = 0;
    config.train.optimizer.lr = 3e-3;
    config.train.optimizer.min_lr = 3e-4;
    config.train.schedule.warmup_steps = 50;
    config.train.validation.every = 0;
    config.train.log_every = 100;
    const auto comm = make_single_comm();
    Trainer trainer(config, *comm, at::kCPU);
    trainer.run();
    LoadedModel model = open_model(root_ / std::string(enum_name(kind)), "float32");
    DocumentSource source;
    source.dataset = (root_ / "heldout").string();
    EvaluateConfig evaluation;
    evaluation.cache = 127;
    return evaluate(model, read_documents(source, model), evaluation);
  }
};

// Seeds 1 to 4 cost +0.019, +0.027, +0.011 and +0.007 nats with a sink token and at most 0.0001
// without when this was written.
TEST_F(SinkMechanism, EvictingTheSinkCostsAndOneSlotDoesTheWorkOfFour) {
  const Evaluation sink = stream_after_training(SinkKind::kToken),
                   vanilla = stream_after_training(SinkKind::kNone);
  ASSERT_EQ(sink.rows.size(), 4u);
  EXPECT_GT(sink.rows[0].nll_delta_ci95.value().low, 0.003);
  EXPECT_LT(std::abs(sink.rows[1].nll_delta.value()), 0.001);
  EXPECT_LT(std::abs(sink.rows[2].nll_delta.value()), 0.001);
  EXPECT_LT(std::abs(vanilla.rows[0].nll_delta.value()), 0.001);
  EXPECT_NEAR(sink.rows[3].nll, vanilla.rows[3].nll, 0.01);
}

}  // namespace
}  // namespace basin
