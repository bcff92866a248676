// PREFIX.json: what `prepare` made, from what, and how; by it a later run knows that nothing has
// changed. Written last, so where it is, the rest is whole.
#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "data/text_reader.h"

namespace basin {

struct SplitCounts {
  int64_t documents = 0, tokens = 0, bytes = 0;  // bytes of text
};

struct Sidecar {
  struct Source {
    std::string path;
    uint64_t bytes = 0;
    int64_t modified_ns = 0;
    std::string hash;  // XXH3-64 of the file
  };

  std::string tokenizer_hash;
  int64_t vocab_size = 0, eos_id = -1;  // eos_id ends each document; -1: not recorded
  SplitCounts train;
  std::optional<SplitCounts> heldout;
  int64_t replaced_sequences = 0, literal_u2581 = 0, empty_documents = 0;
  std::string options;  // JSON text of the options that decide the result
  std::vector<Source> sources;

  nlohmann::json to_json() const;
  static Sidecar from_json(const nlohmann::json& json);
};

/// What stands in PREFIX.json while the files that it vouches for are replaced: whoever finds it knows
/// that `prepare` was cut short.
std::string unfinished_sidecar();

/// Whether the file at `path` was written by `prepare`, whole or damaged.
bool is_sidecar(const std::filesystem::path& path);

/// PREFIX + suffix; a prefix may contain dots.
std::filesystem::path output_path(const std::filesystem::path& prefix, const std::string& suffix);

/// Size and time of each file; the hash is left empty.
std::vector<Sidecar::Source> list_sources(const std::vector<TextFile>& files);

/// The sidecar of an earlier run with the same options on the same files (by path and content), all
/// of whose output is still there.
std::optional<Sidecar> find_up_to_date(const std::filesystem::path& prefix,
                                       const std::string& options,
                                       const std::vector<TextFile>& files);

}  // namespace basin
