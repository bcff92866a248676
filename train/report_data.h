// What `report` reads: run directories as plain structs. A part that is not there is empty, never an
// error; a part that is there and damaged is std::runtime_error with the file, what is wrong and the command that
// writes it anew. Numbers that a file leaves out or gives as null are NaN.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "train/report_tasks.h"

namespace basin {

/// One logged training step. Losses in nats per token; `skipped` counts non-finite steps so far.
struct LoggedStep {
  int64_t step = 0, skipped = 0;
  double tokens = 0;
  double loss = 0, val_loss = 0, tokens_per_second = 0, mfu = 0, sink_metric = 0, seconds = 0;
};

/// One mode and number of kept initial tokens. `nll_delta` is nats per token against the row with 4 of them, with its
/// 95 % interval.
struct SavedRow {
  std::string mode;  // dense, window, recompute, stream
  int64_t sinks = 0, recent = 0, tokens = 0;
  double perplexity = 0, bits_per_byte = 0, nll_delta = 0, ci_low = 0, ci_high = 0, tokens_per_second = 0;

  /// `window` is `stream` that keeps nothing.
  bool streams() const { return mode == "stream" || mode == "window"; }
  bool has_interval() const;
};

struct SavedDocument {
  int64_t tokens = 0, scored = 0, bytes = 0;
};

/// eval/evaluate-*.json with the per-token file beside it.
struct SavedEvaluation {
  std::string source, sink_kind, dtype;  // dtype: of the arithmetic
  int64_t cache = 0;
  std::vector<SavedDocument> documents;
  std::vector<SavedRow> rows;
  /// Positions in the document, 1-based: bin b holds [bins[b], bins[b + 1]). Equal for equal `documents`.
  std::vector<int64_t> bins;
  /// Perplexity by row and bin, NaN where fewer than `kFewestTokens` of the bin were scored. Empty without the .npy
  /// file.
  std::vector<std::vector<double>> by_position;

  int64_t after_eviction = -1;  // tokens scored after something had left the cache; -1 when the file does not say
  int64_t step = -1;            // of the run; -1 when the file does not say

  /// `source` without its folders, which may be spelled in several ways.
  std::string source_name() const;
  /// The row that streams with so many kept tokens; null when it was not run.
  const SavedRow* streaming_row(int64_t sinks) const;
};
inline constexpr int64_t kFewestTokens = 32;

/// eval/attention.json. L layers, H heads; a map is (size, size), query row by key column.
struct SavedAttention {
  std::string source;  // what was read; empty when the file does not say
  double epsilon = 0, sink_first = 0, sink_first_text = 0;  // shares of heads, 0..1
  int64_t positions = 0, sequences = 0, map_size = 0;
  int64_t step = -1;  // of the run; -1 when the file does not say
  std::vector<std::vector<double>> alpha;             // (L, H): mean attention on the first position
  std::vector<std::vector<std::vector<float>>> maps;  // (L, H, size * size)
};

struct RunRecord {
  std::filesystem::path directory;
  std::string name;                           // last part of the directory; the directory where two runs share it
  std::map<std::string, std::string> config;  // dotted key -> value; empty without config.yaml
  std::string tokenizer_hash;                 // of the newest step's tokenizer; empty without one
  std::vector<LoggedStep> metrics;
  std::vector<SavedEvaluation> evaluations;  // of the newest step, by source, then cache, float32 first
  std::vector<SavedEvaluation> trajectory;   // of every step that was evaluated: by source, cache, step
  std::optional<SavedAttention> attention;
  std::vector<SavedTask> tasks;  // of the newest step, by name

  /// none, token, zero, logit; empty when neither the configuration nor an evaluation says.
  std::string sink_kind() const;
  std::string config_value(const std::string& key) const;  // empty when absent
};

/// Reads the runs in the order given. Throws std::runtime_error for a path that is no run, std::invalid_argument for
/// the same run twice.
std::vector<RunRecord> read_runs(const std::vector<std::filesystem::path>& directories);

}  // namespace basin
