// A run directory in a temporary folder and a tiny model on synthetic tokens that a network can
// learn: the next token is a fixed function of the last one, sometimes disturbed.
#pragma once

#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "configs/files.h"
#include "configs/scratch_folder.h"
#include "data/indexed_dataset.h"
#include "data/sample_order.h"
#include "train/config.h"

namespace basin {

inline constexpr int64_t kTestVocabulary = 64;
inline constexpr int64_t kFirstTestToken = 6;  // below lie the ids that sinks use

inline void write_test_dataset(const std::filesystem::path& prefix, int64_t tokens, uint64_t seed) {
  IndexedDatasetWriter writer(prefix, kTestVocabulary);
  const int64_t range = kTestVocabulary - kFirstTestToken;
  std::vector<int32_t> document;
  int64_t last = 0;
  for (int64_t i = 0; i < tokens; ++i) {
    const uint64_t noise = keyed_hash(seed, 7, static_cast<uint64_t>(i));
    last = noise % 8 == 0 ? static_cast<int64_t>(noise / 8 % static_cast<uint64_t>(range))
                          : (last * 5 + 3) % range;
    document.push_back(static_cast<int32_t>(last + kFirstTestToken));
  }
  writer.add_document(document);
  writer.commit();
}

class TrainTest : public testing::Test {
 protected:
  void SetUp() override {
    at::set_num_threads(
        1);  // the models are too small to share out, and other tests run beside these
    write_test_dataset(root_ / "train", 20000, 1);
    write_test_dataset(root_ / "heldout", 3000, 2);
  }

  /// 50 steps of 8 samples of 16 tokens; run.dir is `root_ / name`.
  RunConfig tiny_config(const std::string& name, Precision precision = Precision::kFp32) const {
    RunConfig config;
    config.run.dir = (root_ / name).string();
    config.model.vocab_size = kTestVocabulary;
    config.model.hidden_size = 32;
    config.model.num_hidden_layers = 2;
    config.model.num_attention_heads = 2;
    config.model.intermediate_size = 64;
    config.data.train = {DatasetConfig{(root_ / "train").string(), 1}};
    config.data.heldout = (root_ / "heldout").string();
    config.data.sequence_length = 16;
    config.train.steps = 50;
    config.train.global_batch = 8;
    config.train.micro_batch = 4;
    config.train.device = DeviceKind::kCpu;
    config.train.precision = precision;
    config.train.optimizer.lr = 1e-2;
    config.train.optimizer.min_lr = 1e-3;
    config.train.schedule.warmup_steps = 5;
    config.train.checkpoint.every = 0;
    config.train.validation = {.every = 25, .tokens = 1024};
    config.train.log_every = 1;
    return config;
  }

  /// The rows of metrics.jsonl of the run `root_ / run`.
  std::vector<nlohmann::json> rows(const std::string& run) const {
    std::istringstream lines(read_file(root_ / run / "metrics.jsonl"));
    std::vector<nlohmann::json> out;
    for (std::string line; std::getline(lines, line);) out.push_back(nlohmann::json::parse(line));
    return out;
  }
  std::vector<int64_t> row_steps(const std::string& run) const {
    std::vector<int64_t> out;
    for (const nlohmann::json& row : rows(run)) out.push_back(row.at("step"));
    return out;
  }

  const ScratchFolder folder_;
  const std::filesystem::path root_ = folder_.path();
};

}  // namespace basin
