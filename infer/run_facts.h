// What a run directory says of a model, for its card: configuration, losses, streaming tables. All
// of it may be missing; a file that cannot be read is warned of and counts as missing.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "configs/config_node.h"

namespace basin {

/// One row of an evaluation that streams: `kept` initial tokens, nats per token.
struct StreamRow {
  int64_t kept = 0, tokens = 0;
  double nll = 0, perplexity = 0;
};

struct StreamTable {
  std::string source;  // what was read, without its folders
  int64_t cache = 0;
  std::string dtype;
  std::vector<StreamRow> rows;
};

struct RunFacts {
  ConfigNode config;                     // config.yaml; nothing when it is not there
  int64_t step = -1;                     // of the model; -1 when not known
  double tokens = 0;                     // predicted in training up to that step; 0: not known
  std::optional<double> loss, val_loss;  // the last ones logged up to that step, nats per token
  int64_t loss_step = -1, val_step = -1;  // of them
  std::vector<StreamTable> tables;       // of that step

  bool has_config() const { return config.kind == ConfigNode::Kind::kMap; }
  /// The scalar at "train.optimizer.lr"; empty when it is not there.
  std::string value(const std::string& key) const;
  /// Paths in data.train.
  std::vector<std::string> datasets() const;
};

/// `run`: the directory that holds config.yaml, metrics.jsonl and eval/. `step`: of the model, -1
/// for a run's only one.
RunFacts read_run_facts(const std::filesystem::path& run, int64_t step);

}  // namespace basin
