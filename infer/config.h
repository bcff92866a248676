// What the verbs of this room can be told: the shape of a streaming cache and the ways of scoring a
// document.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "configs/fields.h"
#include "model/config.h"

namespace basin {

/// A cache of C = S + R entries: the first S tokens of the stream (a sink model's own sink tokens
/// come first and count) and the R most recent.
struct CacheShape {
  int64_t sinks = 0;   // S
  int64_t recent = 1;  // R

  int64_t entries() const { return sinks + recent; }
};

/// `entries` C split for S kept initial tokens. Throws std::invalid_argument unless 0 <= S < C.
CacheShape split_cache(int64_t entries, int64_t sinks);

/// How a document is scored. `kWindow` is `kStream` with S = 0.
enum class Mode { kDense, kWindow, kRecompute, kStream };
template <>
inline constexpr std::string_view kEnumNames<Mode>[] = {"dense", "window", "recompute", "stream"};

/// Throws std::invalid_argument naming the modes there are.
Mode parse_mode(std::string_view name);

/// What to score, and with which caches.
struct EvaluateConfig {
  std::vector<Mode> modes = {Mode::kStream};
  int64_t cache = 0;                          // C, entries; every row but `dense` uses it
  std::vector<int64_t> sinks = {0, 1, 2, 4};  // S, one row of mode `stream` each
  int64_t limit =
      0;  // `recompute` scores this many targets, spread evenly over all documents; 0: all
  int64_t trained_tokens =
      0;  // T, what the model was trained to see; 0: unknown. Only for warnings

  /// Throws std::invalid_argument for what `model` cannot score, whatever the documents are.
  void validate(const ModelConfig& model) const;
};

}  // namespace basin
