// The accuracy of a model on a task: log-likelihoods of continuations, and what lm-eval 0.4.13
// makes of them (api/task.py, process_results).
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "configs/progress.h"
#include "infer/tasks.h"

namespace basin {

struct ContinuationScore {
  double log_likelihood = 0;  // nats, of all its tokens together
  int64_t tokens = 0;
  bool greedy = false;     // greedy decoding would have written it
  bool truncated = false;  // the beginning of the context was left out
};

/// Scores `pairs`, in batches of similar length, each behind the model's own sinks. With
/// `trained_tokens` T (0: unknown, no limit) only the newest T + 1 tokens count, of which T are
/// read and the last one only predicted. Throws std::runtime_error for a continuation of more than
/// T tokens, Interrupted. `progress` advances by the pairs.
std::vector<ContinuationScore> score_continuations(const Transformer& model,
                                                   std::span<const TokenPair> pairs,
                                                   int64_t trained_tokens,
                                                   Progress* progress = nullptr);

/// A mean over examples, or for the perplexity the exponential of one, with its standard error;
/// nothing for a single example. Perplexity: exp(-mean log-likelihood of a target), whose error is
/// its size times that of the mean.
struct Metric {
  std::string name;
  double value = 0;
  std::optional<double> standard_error;
};

struct ExampleResult {
  std::vector<ContinuationScore> scores;  // in the order of the example's continuations
  int64_t likeliest = 0;                  // choices: by log-likelihood,
  int64_t likeliest_norm = 0;             // ... by that per character of the choice,
  int64_t likeliest_bytes = 0;            // ... and per byte; all 0 for a last word
};

struct TaskResult {
  std::vector<ExampleResult> examples;  // in the order of the task's
  std::vector<Metric> metrics;  // choices: acc, acc_norm, acc_bytes; last words: acc, perplexity
  int64_t truncated = 0;        // continuations whose context was cut
  int64_t tokens = 0;           // scored
  double seconds = 0;
};

/// Characters and bytes of a choice leave out the white space that it begins with, as lm-eval does
/// not count what it puts between.
TaskResult score_task(const LoadedModel& model, const Task& task);

/// Mean of `values` and its standard error (sample deviation / sqrt(n)); not empty.
Metric mean_metric(std::string name, std::span<const double> values);

}  // namespace basin
