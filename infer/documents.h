// What evaluation reads: documents as token ids, from text files or from a token dataset, checked
// against the model's vocabulary.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <vector>

#include "infer/model_directory.h"

namespace basin {

struct TokenDocument {
  std::string name;   // FILE or FILE:LINE of a text; empty for a document of a dataset
  at::Tensor tokens;  // int64 (N)
};

/// Where documents come from: either texts or a dataset.
struct DocumentSource {
  std::vector<std::string> text;  // files, folders, globs (see data/text_reader.h): .txt is one
                                  // document, .jsonl one a line, as they are
  std::string text_key = "text";  // of .jsonl
  std::string dataset;     // PREFIX of PREFIX.bin and PREFIX.idx; each stored document is one
  int64_t max_tokens = 0;  // of each document only the first so many; 0: all

  /// "data/demo_heldout", or the first text and how many more.
  std::string describe() const;
  /// A file name for results: "demo_heldout", "1981-Carter", "1981-Carter-and-2-more".
  std::string stem() const;
};

/// Throws std::invalid_argument when text or dataset cannot be what the model reads: no tokenizer,
/// another tokenizer, ids beyond the vocabulary, ids of the model's own sink tokens, no token to
/// score; std::runtime_error for missing or damaged files.
std::vector<TokenDocument> read_documents(const DocumentSource& source, const LoadedModel& model);

}  // namespace basin
