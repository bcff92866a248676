// Evaluation of a model on documents: one row per mode and cache, each with its mean negative
// log-likelihood, and the paired difference to the streaming row that keeps four initial tokens
// (the one-versus-four table).
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "infer/bootstrap.h"
#include "infer/config.h"
#include "infer/documents.h"

namespace basin {

/// Nats, and means over the tokens that the row scored.
struct EvaluationRow {
  Mode mode = Mode::kStream;
  int64_t sinks = 0;              // kept initial tokens; recompute: the model's own sinks; dense: 0
  std::optional<int64_t> recent;  // R; nothing for dense
  std::vector<float> token_nll;   // every scorable token in order, x_1 .. x_{N-1} of each document;
                                  // NaN where the row did not score
  int64_t tokens = 0;             // scored
  double nll = 0;
  std::optional<double> bits_per_byte;  // nothing without a tokenizer
  std::optional<double> nll_delta;  // mean of nll minus the four-sink row's, over tokens that both
                                    // scored; nothing without that row
  std::optional<Interval> nll_delta_ci95;  // block bootstrap over 512-token blocks within
                                           // documents; nothing below kFewestBlocks
  double tokens_per_second = 0;

  double perplexity() const;
};

struct DocumentSummary {
  std::string name;                // empty for a dataset's documents
  int64_t tokens = 0, scored = 0;  // N and N - 1
  std::optional<int64_t>
      bytes;  // of text that the scored tokens stand for; nothing without a tokenizer
};

struct Evaluation {
  std::vector<DocumentSummary> documents;
  std::vector<EvaluationRow> rows;
  int64_t after_eviction = 0;  // of a row's scored tokens, those predicted after something had left
                               // the cache: on all others, caches that keep other tokens agree
};

/// Scores `documents` in every mode of `config`, in its order; streaming rows in the order of
/// `config.sinks`. A row with S = 0 appears once: as `stream` when the modes list `stream` and the
/// sinks list 0, else as `window`. Where nothing ever leaves the cache, rows are not compared, and
/// that is warned of. Throws std::invalid_argument (see EvaluateConfig) and
/// Interrupted.
Evaluation evaluate(const LoadedModel& model,
                    std::span<const TokenDocument> documents,
                    const EvaluateConfig& config);

/// Sets nll_delta and its interval of all rows, from their token_nll. `document_sizes`: scorable
/// tokens of each document.
void compare_to_four_sinks(std::span<EvaluationRow> rows, std::span<const int64_t> document_sizes);

/// The row that evicts everything (stream or window with S = 0), or null.
const EvaluationRow* evicting_row(std::span<const EvaluationRow> rows);

/// Whether the model uses its first tokens, in words, from the row with S = 0 and its interval;
/// empty without such a row or interval.
std::string first_token_sentence(std::span<const EvaluationRow> rows);

}  // namespace basin
