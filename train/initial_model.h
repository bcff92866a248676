// train.init_from: a run that starts from a model that has been trained already, here or elsewhere.
// Its config.json is the model section of the run, except that a model without a sink may be given
// sink tokens. Once the run has a checkpoint, the directory is not read again.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "data/indexed_dataset.h"
#include "model/transformer.h"
#include "train/config.h"

namespace basin {

struct InitialModel {
  ModelConfig config;    // to which the run file's keys are added
  bool resumes = false;  // it is that of a run that goes on
};
/// The model of the run that goes on in `run_directory` (empty: not known), else `init_from`'s.
/// Throws std::runtime_error for a directory without a model that can be read.
InitialModel find_initial_model(const std::filesystem::path& init_from,
                                const std::filesystem::path& run_directory);

/// The model that `config` (read on top of initial.config) trains: sinks get their rows, the
/// vocabulary grows by those that are new. Throws std::invalid_argument naming all keys that
/// contradict the initial model.
void settle_model(RunConfig& config, const InitialModel& initial);

/// A row of the embedding that becomes a sink token.
struct SinkRow {
  enum class Kind { kBos, kReserved, kPadding, kNew };
  int64_t id = 0;
  Kind kind = Kind::kNew;
  std::string piece = {};  // what the tokenizer calls it, if it does
};
/// `count` rows for the sinks of the model in `directory`, best first: the tokenizer's BOS unless
/// it also ends texts, <sink1> and so on of `prepare`'s tokenizers, rows that no piece has, new
/// rows behind all of them.
std::vector<SinkRow> choose_sink_rows(const std::filesystem::path& directory,
                                      int64_t rows,
                                      int64_t count);

/// Refuses data that was prepared with another tokenizer than the initial model's, where both are
/// known and the run has not begun. Throws std::invalid_argument.
void check_initial_tokenizer(const RunConfig& config, const DatasetInfo& info);

/// Fills `target` with the weights of train.init_from. Rows that it does not have are the mean of
/// those that it has. Says on `says` what the sinks are.
void load_initial_weights(const RunConfig& config, Transformer& target, bool says);

/// Where a run keeps the tokenizer of its initial model, and what ended its texts, for its
/// checkpoints.
std::filesystem::path initial_tokenizer_directory(const RunConfig& config);
/// Fills that directory, which is not there yet. With new sinks, they are what is put in front of a
/// text.
void save_initial_tokenizer(const RunConfig& config);

}  // namespace basin
