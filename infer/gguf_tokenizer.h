// A tokenizer in GGUF's keys.
#pragma once

#include "infer/gguf.h"
#include "infer/model_directory.h"

namespace basin {

/// Appends tokenizer.* for llama.cpp's reading of SentencePiece BPE (tokenizer.model), else of a
/// byte-level tokenizer.json: pieces with what is added to them, scores or merges, special ids, and
/// whether a text begins with BOS, which it does for sink models and for those whose own tokenizer
/// says so. Rows of the embedding without a piece become unused ones.
/// Throws std::invalid_argument for tokenizers that this cannot describe exactly.
void add_tokenizer_keys(const LoadedModel& model, GgufFile& file);

}  // namespace basin
