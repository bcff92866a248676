// What may be compared with what: runs whose held-out text and tokenizer agree, and the configuration keys in which
// they differ.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "train/report_data.h"

namespace basin {

/// The evaluations of one held-out text with one cache size and arithmetic; `by_run[i]` is null where run i has none.
struct EvaluationGroup {
  std::string source;
  int64_t cache = 0;
  std::string dtype;
  std::vector<const SavedEvaluation*> by_run;

  /// ", bfloat16": what a reader does not take for granted.
  std::string unusual_dtype() const { return dtype == "float32" ? "" : ", " + dtype; }
};

struct Comparison {
  std::vector<EvaluationGroup> groups;  // held by every run that was evaluated at all; largest cache first
  std::string refusal;                  // why there are none, one line; empty when there is nothing to refuse
  bool losses_comparable = true;        // training and held-out data and tokenizer agree as far as the runs say
};
/// The pointers in it are valid as long as `runs`.
Comparison compare(const std::vector<RunRecord>& runs);

/// A key in which the runs differ; `values[i]` is empty where run i does not have it.
struct KeyDifference {
  std::string key;
  std::vector<std::string> values;
};
std::vector<KeyDifference> config_differences(const std::vector<RunRecord>& runs);
/// True when one run is vanilla, one has a sink, and `model.sink.*` and `run.*` are all that differs.
bool is_sink_against_vanilla(const std::vector<RunRecord>& runs);

}  // namespace basin
