// basin export --format gguf: one file for llama.cpp.
#pragma once

#include <filesystem>
#include <string>

namespace basin {

struct GgufExport {
  std::filesystem::path out;
  std::string
      dtype;  // f32, f16, bf16 or q8_0, llama.cpp's names; empty: what the model is stored in
  bool force = false;  // replace an earlier export that is there, outside of the model's directory
};

/// Writes `options.out`, whole or not at all. Throws std::invalid_argument for models that the
/// format has no counterpart for, saying what.
void export_gguf(const std::filesystem::path& model_path, const GgufExport& options);

}  // namespace basin
