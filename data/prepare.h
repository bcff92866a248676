// Text to token datasets: PREFIX.model, PREFIX_train.{bin,idx}, PREFIX_heldout.{bin,idx} (with a
// held-out part) and PREFIX.json. Uses all cores, holds a few documents at a time, and gives the
// same bytes whatever the number of threads. Nothing appears under its name before all is done.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "data/sidecar.h"

namespace basin {

struct PrepareOptions {
  std::vector<std::string> inputs;   // files, folders, globs
  std::filesystem::path prefix;      // PREFIX
  int64_t vocab_size = 0;            // 0: that of `tokenizer`
  std::vector<std::string> holdout;  // globs on a file's path, name or stem, or one fraction of the
                                     // documents; empty: none
  std::filesystem::path tokenizer;   // empty: train one
  std::string text_key = "text";
  uint64_t seed = 1;                 // of the tokenizer's sample and of a held-out fraction
  int threads = 0;                   // 0: all cores
  size_t sample_bytes = 32'000'000;  // text that the tokenizer is trained on, at most
  bool force = false;                // replaces files that an earlier `prepare` did not write
};

struct PrepareResult {
  Sidecar sidecar;
  bool up_to_date = false;  // an earlier run had done it all
};

/// Throws std::invalid_argument for options that cannot be met and for files of somebody else in the
/// output's place, std::runtime_error for input that
/// cannot be read, Interrupted on Ctrl-C.
PrepareResult prepare(const PrepareOptions& options);

}  // namespace basin
