// A model as one GGUF file that llama.cpp loads: llama and gpt_neox, with their SentencePiece
// tokenizer; the sink is the BOS token, which readers put in front of a text by themselves.
#pragma once

#include <filesystem>
#include <string>

#include "infer/gguf.h"
#include "infer/model_directory.h"

namespace basin {

struct GgufExport {
  std::filesystem::path out;
  std::string
      dtype;  // f32, f16, bf16 or q8_0, llama.cpp's names; empty: what the model is stored in
  bool force = false;  // replace a file that is there
};

/// Writes `options.out`, whole or not at all. Throws std::invalid_argument for models that the
/// format has no counterpart for, saying what.
void export_gguf(const std::filesystem::path& model_path, const GgufExport& options);

/// Keys and tensors of `model`, with matrices as `matrix_type` and all else as F32. `name`:
/// general.name. Throws as export_gguf does. The model must outlive the result.
GgufFile to_gguf(const LoadedModel& model, GgufType matrix_type, const std::string& name);

}  // namespace basin
