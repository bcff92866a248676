// A clean Hugging Face directory of any model that Basin opens: weights, configuration, tokenizer
// and a model card, nothing of its training.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

namespace basin {

struct HfExport {
  std::filesystem::path out;
  std::string dtype;  // float32, float16, bfloat16; empty: what the model is stored in
  uint64_t max_shard_bytes = 5'000'000'000;
  bool force = false;  // replace an earlier export
};

/// Writes `options.out`, whole or not at all. Throws std::invalid_argument when it may not be
/// written, std::runtime_error for weights that the dtype cannot hold.
void export_hugging_face(const std::filesystem::path& model_path, const HfExport& options);

}  // namespace basin
