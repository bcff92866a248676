// A directory with a trained model, opened for inference: weights, tokenizer, and what its
// config.json says beyond the weights.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "data/tokenizer.h"
#include "model/transformer.h"

namespace basin {

struct LoadedModel {
  std::filesystem::path directory;  // the one that holds config.json
  std::unique_ptr<Transformer> model;
  std::optional<Tokenizer> tokenizer;  // nothing when the directory has none
  int64_t trained_tokens =
      0;  // T: max_position_embeddings minus the sinks; 0 when config.json does not say
  std::vector<int64_t>
      eos_ids;  // generation_config.json's, else config.json's, else the tokenizer's

  /// Throws std::invalid_argument saying what the tokenizer is wanted for.
  const Tokenizer& require_tokenizer() const;
  /// What a text begins with, as tokens of the stream: a model without sink tokens gets what its
  /// tokenizer's post-processor prepends (a BOS, mostly), a sink model nothing, since it has its
  /// own.
  std::span<const int32_t> prepended_ids() const;
  /// Place of the first of `ids` that is one of the model's own sink tokens: those stand in front,
  /// put there by the model. A tokenizer.json may turn what a text spells into one.
  std::optional<size_t> find_sink(std::span<const int32_t> ids) const;
  /// C = T - 1: the longest distance of a step is then one that was trained. Throws
  /// std::invalid_argument when T is not known.
  int64_t default_cache() const;
};

/// Opens `path`: a run (its newest step), a step, or any model directory. `dtype`: "float32" or
/// "bfloat16", or "float16" for a model that is only to be written.
LoadedModel open_model(const std::filesystem::path& path,
                       const std::string& dtype,
                       at::Device device = at::kCPU);

/// What generation_config.json or config.json says ends a text; empty where `file` is not there or
/// does not say. Throws std::runtime_error naming the file for anything else.
std::vector<int64_t> read_eos_ids(const std::filesystem::path& file);

/// "step-00001000" when `path` itself names a step of a run, not the run or its newest step; else
/// "".
std::string named_step(const std::filesystem::path& path);

/// Whether `file`, a result, is that of a step that was asked for by name:
/// evaluate-SOURCE-C127-step-00001000.json.
bool names_step(const std::filesystem::path& file);

/// The number in the name of the step that `directory` is or links to; -1 for what is no step.
int64_t step_of_model(const std::filesystem::path& directory);

/// Where `--save` writes: eval/ of the run that `path` is or lies in, else of the model directory
/// itself.
std::filesystem::path eval_directory(const std::filesystem::path& path);

/// The files RUN/eval/PREFIX*.json, in the order of their names; none where there is no eval/.
std::vector<std::filesystem::path> eval_files(const std::filesystem::path& run,
                                              std::string_view prefix);

}  // namespace basin
