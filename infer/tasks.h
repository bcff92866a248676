// Zero-shot tasks: a .jsonl file of examples, one a line, either multiple choice or prediction of
// the last word. Each line has one of these forms; other keys are passed over.
//   {"context": "The sky is", "choices": [" blue.", " salty."], "answer": 0}
//   {"context": "She looked up at the", "target": " sky"}
//   {"goal": ..., "sol1": ..., "sol2": ..., "label": 0}    PIQA's own: Question: GOAL\nAnswer: SOL
//   {"text": ...}                                           LAMBADA's own: the last word is the
//   target
// Choices and targets follow the context as they are, nothing is put between.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "infer/model_directory.h"

namespace basin {

struct TaskExample {
  std::string name;  // FILE:LINE
  int64_t line = 0;
  std::string context;
  std::vector<std::string> continuations;  // the choices, or the one target
  int64_t answer = 0;                      // which of them is right
};

struct Task {
  std::string name;    // the file's, without .jsonl (.gz, .zst)
  std::string source;  // the file
  bool is_choice = false;
  std::vector<TaskExample> examples;  // at least one
};

/// Throws std::runtime_error naming file, line and key for what is no example, and for a file of
/// both kinds.
Task read_task(const std::string& path);

/// What a model scores: `continuation` behind `context`, without the model's own sinks.
struct TokenPair {
  std::vector<int32_t> context, continuation;  // the context of a sink model may be empty
};

/// As lm-eval tokenises (api/model.py, _encode_pair): white space at the end of the context goes to
/// the continuation; context + continuation are encoded together and split at the number of tokens
/// that the context has alone. Where nothing at all would come before the continuation (no context,
/// no sink), the end of a text does, behind which documents begin. Throws std::runtime_error naming
/// `name` when no token is left to score, or more than the model was trained to see.
TokenPair encode_pair(const LoadedModel& model,
                      std::string context,
                      std::string continuation,
                      const std::string& name);

/// Bytes of white space at the end of `text`, as Python's str.isspace has it; valid UTF-8.
size_t trailing_space_bytes(std::string_view text);

}  // namespace basin
