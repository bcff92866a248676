// An evaluation as JSON for programs, as a table for people, and as files in a run's eval/ folder.
#pragma once

#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "infer/documents.h"
#include "infer/evaluate.h"

namespace basin {

/// "1 sink token", "sink zero".
std::string describe_sink(const SinkConfig& sink);

/// {model, step (null for what is no step of a run), sink: {kind, count}}: what results begin with.
nlohmann::ordered_json result_header(const std::string& model, const SinkConfig& sink);

/// What an evaluation was made with.
struct EvaluationHeader {
  std::string model;  // the directory
  SinkConfig sink;
  int64_t cache = 0;                // C
  std::string dtype, source, stem;  // stem: names the files
  std::string step = {};            // too, where a step was asked for by name
};

/// {model, step, sink, cache, dtype, source, after_eviction, documents: [{name?, tokens, scored, bytes}],
///  rows: [{mode, sinks, recent, tokens, nll, perplexity, bits_per_byte, nll_delta, nll_delta_ci95:
///  [low, high], tokens_per_second}]}.
/// What is not there is null: recent of dense, bits and bytes without a tokenizer, differences
/// without a four-sink row, intervals below kFewestBlocks.
nlohmann::ordered_json to_json(const EvaluationHeader& header, const Evaluation& evaluation);

/// The same as text, one document that ends with a newline; names that are not UTF-8 with U+FFFD.
std::string json_text(const EvaluationHeader& header, const Evaluation& evaluation);

/// Fixed columns, then the sentence of first_token_sentence. Ends with a newline.
std::string to_table(const EvaluationHeader& header, const Evaluation& evaluation);

/// float32 (rows, scorable tokens in order), NaN where a row did not score.
void write_per_token(const std::filesystem::path& path, const Evaluation& evaluation);

/// DIRECTORY/evaluate-<stem>-C<cache>[-bfloat16][-<step>].json.
std::filesystem::path saved_path(const std::filesystem::path& directory,
                                 const EvaluationHeader& header);

/// Throws std::invalid_argument when saved_path holds something that the evaluation to come would not
/// have: other text or arithmetic, more tokens than `max_tokens` leaves (0: all) of it, more rows.
void refuse_to_replace(const std::filesystem::path& directory,
                       const EvaluationHeader& header,
                       const EvaluateConfig& config,
                       const std::vector<TokenDocument>& documents,
                       int64_t max_tokens);

/// Writes saved_path and .npy (the per-token numbers of its rows); returns the JSON's path.
std::filesystem::path save_evaluation(const std::filesystem::path& directory,
                                      const EvaluationHeader& header,
                                      const Evaluation& evaluation);

}  // namespace basin
