#include "infer/score_tasks.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <stdexcept>

#include "configs/clock.h"
#include "configs/log.h"
#include "configs/signals.h"
#include "infer/modes.h"

namespace basin {
namespace {

constexpr int64_t kBatchPositions = 8192;  // with padding

/// The part of a pair that is read and scored: the newest tokens of it.
struct Row {
  std::vector<int64_t> tokens;  // the last `targets` of them are predicted
  int64_t targets = 0;
  bool truncated = false;
};

Row make_row(const TokenPair& pair, int64_t trained_tokens) {
  const auto targets = std::ssize(pair.continuation);
  if (trained_tokens > 0 && targets > trained_tokens)
    throw std::runtime_error(fmt::format(
        "a continuation has {} tokens, the model was trained on {} at a time: it cannot "
        "be scored as a whole",
        targets,
        trained_tokens));
  Row row{{pair.context.begin(), pair.context.end()}, targets, false};
  row.tokens.insert(row.tokens.end(), pair.continuation.begin(), pair.continuation.end());
  if (const int64_t extra = std::ssize(row.tokens) - trained_tokens - 1;
      trained_tokens > 0 && extra > 0) {
    row.tokens.erase(row.tokens.begin(), row.tokens.begin() + extra);
    row.truncated = true;
  }
  return row;
}

/// Rows padded at their ends, which causal attention never looks at: one forward pass.
std::vector<ContinuationScore> score_rows(const Transformer& model, std::span<const Row> rows) {
  const int64_t sinks = model.config().sink.tokens(), n = std::ssize(rows);
  int64_t longest = 0;
  for (const Row& row : rows) longest = std::max<int64_t>(longest, std::ssize(row.tokens));
  at::Tensor ids = at::zeros({n, longest}, at::kLong);  // the last token of a row is never read
  std::vector<int64_t> read_at, targets;                // of hidden (n * (sinks + longest), D)
  for (int64_t r = 0; r < n; ++r) {
    const Row& row = rows[static_cast<size_t>(r)];
    const int64_t size = std::ssize(row.tokens);
    std::copy(row.tokens.begin(), row.tokens.end(), ids[r].mutable_data_ptr<int64_t>());
    for (int64_t i = size - row.targets; i < size; ++i) {
      read_at.push_back(r * (sinks + longest - 1) + sinks + i - 1);
      targets.push_back(row.tokens[static_cast<size_t>(i)]);
    }
  }
  const at::Tensor inputs = model.with_sinks(
      ids.narrow(1, 0, longest - 1).to(model.device()));  // (n, sinks + longest - 1)
  const at::Tensor hidden = model.hidden_states(inputs, model.causal_attention(inputs.size(1)));
  const auto on_device = [&](const std::vector<int64_t>& values) {
    return at::tensor(values, at::kLong).to(model.device());
  };
  const ScoredTokens scored = score_tokens(
      model, hidden.flatten(0, 1).index_select(0, on_device(read_at)), on_device(targets));
  const at::Tensor nll = scored.nll.cpu(), greedy = scored.greedy.cpu();
  std::vector<ContinuationScore> scores;
  int64_t begin = 0;
  for (const Row& row : rows) {
    ContinuationScore score{0, row.targets, true, row.truncated};
    for (int64_t i = begin; i < begin + row.targets; ++i) {
      score.log_likelihood -= nll.const_data_ptr<float>()[i];
      score.greedy = score.greedy && greedy.const_data_ptr<bool>()[i];
    }
    if (std::isnan(score.log_likelihood))
      throw std::runtime_error(
          "the model's loss is not a number: its weights are damaged or its arithmetic overflows");
    begin += row.targets;
    scores.push_back(score);
  }
  return scores;
}

std::string_view without_leading_space(std::string_view text) {
  while (!text.empty() && std::string_view(" \t\n\r\v\f").find(text.front()) != text.npos)
    text.remove_prefix(1);
  return text;
}

double characters(std::string_view text) {
  return static_cast<double>(
      std::ranges::count_if(text, [](char byte) { return (byte & 0xC0) != 0x80; }));
}

/// The first choice whose log-likelihood per unit of length is the largest.
template <class Length>
int64_t likeliest(const TaskExample& example,
                  std::span<const ContinuationScore> scores,
                  Length length) {
  std::vector<double> per_unit;
  for (size_t i = 0; i < scores.size(); ++i) {
    const std::string_view choice = without_leading_space(example.continuations[i]);
    per_unit.push_back(scores[i].log_likelihood / std::max(1.0, length(choice)));
  }
  return std::ranges::max_element(per_unit) - per_unit.begin();
}

std::vector<Metric> choice_metrics(const Task& task, std::span<const ExampleResult> results) {
  std::vector<double> acc, acc_norm, acc_bytes;
  for (size_t i = 0; i < results.size(); ++i) {
    const int64_t answer = task.examples[i].answer;
    acc.push_back(results[i].likeliest == answer);
    acc_norm.push_back(results[i].likeliest_norm == answer);
    acc_bytes.push_back(results[i].likeliest_bytes == answer);
  }
  return {mean_metric("acc", acc),
          mean_metric("acc_norm", acc_norm),
          mean_metric("acc_bytes", acc_bytes)};
}

std::vector<Metric> last_word_metrics(std::span<const ExampleResult> results) {
  std::vector<double> acc, log_likelihood;
  for (const ExampleResult& result : results) {
    acc.push_back(result.scores[0].greedy);
    log_likelihood.push_back(result.scores[0].log_likelihood);
  }
  Metric perplexity = mean_metric("perplexity", log_likelihood);
  perplexity.value = std::exp(-perplexity.value);
  if (perplexity.standard_error) *perplexity.standard_error *= perplexity.value;
  return {mean_metric("acc", acc), perplexity};
}

std::vector<TokenPair> encode_task(const LoadedModel& model, const Task& task) {
  std::vector<TokenPair> pairs;
  for (const TaskExample& example : task.examples) {
    check_interrupt();
    for (const std::string& continuation : example.continuations)
      pairs.push_back(encode_pair(model, example.context, continuation, example.name));
  }
  return pairs;
}

}  // namespace

std::vector<ContinuationScore> score_continuations(const Transformer& model,
                                                   std::span<const TokenPair> pairs,
                                                   int64_t trained_tokens,
                                                   Progress* progress) {
  const at::NoGradGuard no_grad;
  std::vector<Row> rows;
  for (const TokenPair& pair : pairs) rows.push_back(make_row(pair, trained_tokens));
  std::vector<size_t> order(rows.size());  // longest first: the batch that needs most memory
  std::iota(order.begin(), order.end(), 0);
  std::ranges::stable_sort(
      order, std::greater<>(), [&](size_t i) { return rows[i].tokens.size(); });
  std::vector<ContinuationScore> scores(rows.size());
  for (size_t begin = 0; begin < order.size();) {
    check_interrupt();
    const auto longest = std::ssize(rows[order[begin]].tokens);
    const auto most = static_cast<size_t>(std::max<int64_t>(1, kBatchPositions / longest));
    const size_t end = std::min(order.size(), begin + most);
    std::vector<Row> batch;
    for (size_t i = begin; i < end; ++i) batch.push_back(std::move(rows[order[i]]));
    const std::vector<ContinuationScore> scored = score_rows(model, batch);
    for (size_t i = begin; i < end; ++i) scores[order[i]] = scored[i - begin];
    if (progress != nullptr) progress->advance(static_cast<int64_t>(end - begin));
    begin = end;
  }
  return scores;
}

Metric mean_metric(std::string name, std::span<const double> values) {
  const auto n = static_cast<double>(values.size());
  const double mean = std::accumulate(values.begin(), values.end(), 0.0) / n;
  double squares = 0;
  for (const double value : values) squares += (value - mean) * (value - mean);
  Metric metric{std::move(name), mean, std::nullopt};
  if (values.size() > 1) metric.standard_error = std::sqrt(squares / (n - 1) / n);
  return metric;
}

TaskResult score_task(const LoadedModel& model, const Task& task) {
  const auto began = Clock::now();
  const std::vector<TokenPair> pairs = encode_task(model, task);
  Progress progress(task.name, std::ssize(pairs), "continuations");
  const std::vector<ContinuationScore> scores =
      score_continuations(*model.model, pairs, model.trained_tokens, &progress);
  TaskResult result;
  auto next = scores.begin();
  for (const TaskExample& example : task.examples) {
    ExampleResult one;
    one.scores.assign(next, next + std::ssize(example.continuations));
    next += std::ssize(example.continuations);
    if (task.is_choice) {
      one.likeliest = likeliest(example, one.scores, [](std::string_view) { return 1.0; });
      one.likeliest_norm = likeliest(example, one.scores, characters);
      one.likeliest_bytes = likeliest(
          example, one.scores, [](std::string_view s) { return static_cast<double>(s.size()); });
    }
    for (const ContinuationScore& score : one.scores) {
      result.truncated += score.truncated;
      result.tokens += score.tokens;
    }
    result.examples.push_back(std::move(one));
  }
  result.metrics =
      task.is_choice ? choice_metrics(task, result.examples) : last_word_metrics(result.examples);
  if (result.truncated > 0)
    log_warn(
        "{}: {} of {} contexts are longer than the {} tokens that the model was trained on: "
        "their beginning was left out",
        task.source,
        result.truncated,
        scores.size(),
        model.trained_tokens);
  result.seconds = seconds_since(began);
  return result;
}

}  // namespace basin
