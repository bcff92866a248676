#include "infer/evaluate.h"

#include <ATen/ATen.h>
#include <fmt/core.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>
#include <stdexcept>

#include "configs/clock.h"
#include "configs/log.h"
#include "configs/progress.h"
#include "infer/modes.h"

namespace basin {
namespace {

constexpr int64_t kBlockTokens = 512;  // of the bootstrap
constexpr int64_t kReferenceSinks = 4;

// A row still to be scored.
struct Plan {
  Mode mode;
  CacheShape shape;
};

std::vector<Plan> plan_rows(const EvaluateConfig& config, int64_t model_sinks) {
  const auto has = [](const auto& list, auto value) {
    return std::find(list.begin(), list.end(), value) != list.end();
  };
  const bool stream_has_zero = has(config.modes, Mode::kStream) && has(config.sinks, 0);
  std::vector<Plan> plans;
  for (auto mode = config.modes.begin(); mode != config.modes.end(); ++mode) {
    if (std::find(config.modes.begin(), mode, *mode) != mode) continue;
    if (*mode == Mode::kDense) plans.push_back({*mode, {}});
    if (*mode == Mode::kWindow && !stream_has_zero)
      plans.push_back({*mode, split_cache(config.cache, 0)});
    if (*mode == Mode::kRecompute) plans.push_back({*mode, split_cache(config.cache, model_sinks)});
    if (*mode == Mode::kStream)
      for (const int64_t s : config.sinks) plans.push_back({*mode, split_cache(config.cache, s)});
  }
  return plans;
}

void warn_beyond_training(const EvaluateConfig& config, std::span<const TokenDocument> documents) {
  if (config.trained_tokens == 0) return;
  if (config.cache > config.trained_tokens - 1)
    log_warn(
        "a cache of {} entries reaches further back than the {} tokens that the model was trained "
        "to see: {} or less stays within",
        config.cache,
        config.trained_tokens,
        config.trained_tokens - 1);
  const bool dense =
      std::find(config.modes.begin(), config.modes.end(), Mode::kDense) != config.modes.end();
  const auto longest = std::max_element(
      documents.begin(), documents.end(), [](const TokenDocument& a, const TokenDocument& b) {
        return a.tokens.numel() < b.tokens.numel();
      });
  if (dense && longest != documents.end() && longest->tokens.numel() > config.trained_tokens)
    log_warn(
        "mode dense: the longest document has {} tokens, the model was trained on {}: expect its "
        "loss to rise behind that",
        longest->tokens.numel(),
        config.trained_tokens);
}

// Which of the `n` scorable tokens of a document recompute scores: those of `limit` places spread
// evenly over all `total` that lie in it.
at::Tensor recompute_targets(int64_t begin, int64_t n, int64_t total, int64_t limit) {
  if (limit == 0 || limit >= total) return at::arange(1, n + 1, at::kLong);
  std::vector<int64_t> targets;
  for (int64_t j = 0; j < limit; ++j) {
    const int64_t place = (2 * j + 1) * total / (2 * limit) - begin;
    if (place >= 0 && place < n) targets.push_back(place + 1);
  }
  return at::tensor(targets, at::kLong);
}

at::Tensor score_document(const Transformer& model,
                          const Plan& plan,
                          const at::Tensor& tokens,
                          const at::Tensor& targets,
                          Progress& progress) {
  if (plan.mode == Mode::kDense) return score_dense(model, tokens, &progress);
  if (plan.mode == Mode::kRecompute)
    return score_recompute(model, plan.shape.entries(), tokens, targets, &progress);
  return score_stream(model, plan.shape, tokens, &progress);
}

// Fills token_nll, tokens and the speed of a row.
EvaluationRow score_row(const Transformer& model,
                        const Plan& plan,
                        std::span<const TokenDocument> documents,
                        int64_t limit,
                        Progress& progress) {
  EvaluationRow row;
  row.mode = plan.mode;
  row.sinks = plan.shape.sinks;
  if (plan.mode != Mode::kDense) row.recent = plan.shape.recent;
  int64_t total = 0, begin = 0;
  for (const TokenDocument& d : documents) total += std::max<int64_t>(0, d.tokens.numel() - 1);
  row.token_nll.assign(static_cast<size_t>(total), std::numeric_limits<float>::quiet_NaN());
  const Clock::time_point start = Clock::now();
  for (const TokenDocument& d : documents) {
    const int64_t n = std::max<int64_t>(0, d.tokens.numel() - 1);
    const at::Tensor targets =
        recompute_targets(begin, n, total, plan.mode == Mode::kRecompute ? limit : 0);
    if (n > 0 && targets.numel() > 0) {
      const at::Tensor nll = score_document(model, plan, d.tokens, targets, progress).contiguous();
      if (nll.isnan().any().item<bool>())
        throw std::runtime_error(
            "the model's loss is not a number: its weights are damaged or its arithmetic "
            "overflows");
      for (int64_t i = 0; i < targets.numel(); ++i)
        row.token_nll[static_cast<size_t>(begin + targets.const_data_ptr<int64_t>()[i] - 1)] =
            nll.const_data_ptr<float>()[i];
      row.tokens += targets.numel();
    }
    begin += n;
  }
  row.tokens_per_second = static_cast<double>(row.tokens) / seconds_since(start);
  return row;
}

// Bytes of text behind each scorable token, in the order of token_nll; empty without a tokenizer.
std::vector<int64_t> scored_bytes(const LoadedModel& model,
                                  std::span<const TokenDocument> documents) {
  std::vector<int64_t> bytes;
  if (!model.tokenizer) return bytes;
  const int64_t pieces = model.tokenizer->vocab_size();
  std::vector<int64_t> bytes_of(static_cast<size_t>(pieces));
  for (int64_t id = 0; id < pieces; ++id)
    bytes_of[static_cast<size_t>(id)] = model.tokenizer->piece_bytes(id);
  for (const TokenDocument& d : documents) {
    const int64_t* id = d.tokens.const_data_ptr<int64_t>();
    for (int64_t i = 1; i < d.tokens.numel(); ++i)
      bytes.push_back(id[i] < pieces ? bytes_of[static_cast<size_t>(id[i])] : 0);
  }
  return bytes;
}

/// Query t of a stream sees the cache's C entries and itself: from t = C + 1 on something is gone.
int64_t tokens_after_eviction(std::span<const DocumentSummary> documents,
                              int64_t cache,
                              int64_t sinks) {
  int64_t tokens = 0;
  for (const DocumentSummary& d : documents)
    tokens += std::clamp<int64_t>(sinks + d.scored - (cache + 1), 0, d.scored);
  return tokens;
}

void summarize(EvaluationRow& row, const std::vector<int64_t>& bytes) {
  double sum = 0;
  int64_t scored_text = 0;
  for (size_t i = 0; i < row.token_nll.size(); ++i) {
    if (std::isnan(row.token_nll[i])) continue;
    sum += row.token_nll[i];
    if (!bytes.empty()) scored_text += bytes[i];
  }
  row.nll = sum / static_cast<double>(row.tokens);
  if (scored_text > 0)
    row.bits_per_byte = sum / std::numbers::ln2 / static_cast<double>(scored_text);
}

std::vector<DocumentSummary> summarize(std::span<const TokenDocument> documents,
                                       const std::vector<int64_t>& bytes) {
  std::vector<DocumentSummary> summaries;
  size_t at = 0;
  for (const TokenDocument& d : documents) {
    DocumentSummary s{
        d.name, d.tokens.numel(), std::max<int64_t>(0, d.tokens.numel() - 1), std::nullopt};
    if (!bytes.empty()) {
      s.bytes = 0;
      for (int64_t i = 0; i < s.scored; ++i) *s.bytes += bytes[at++];
    }
    summaries.push_back(std::move(s));
  }
  return summaries;
}

}  // namespace

double EvaluationRow::perplexity() const {
  return std::exp(nll);
}

void compare_to_four_sinks(std::span<EvaluationRow> rows, std::span<const int64_t> document_sizes) {
  const auto reference = std::find_if(rows.begin(), rows.end(), [](const EvaluationRow& r) {
    return r.mode == Mode::kStream && r.sinks == kReferenceSinks;
  });
  if (reference == rows.end()) return;
  for (EvaluationRow& row : rows) {
    std::vector<BlockSum> blocks;
    BlockSum all;
    size_t at = 0;
    for (const int64_t size : document_sizes) {
      for (int64_t begin = 0; begin < size; begin += kBlockTokens) {
        BlockSum block;
        for (int64_t i = begin; i < std::min(begin + kBlockTokens, size); ++i, ++at) {
          if (std::isnan(row.token_nll[at])) continue;  // not scored: recompute with a limit
          block.sum += static_cast<double>(row.token_nll[at]) -
                       static_cast<double>(reference->token_nll[at]);
          ++block.count;
        }
        if (block.count == 0) continue;
        blocks.push_back(block);
        all.sum += block.sum;
        all.count += block.count;
      }
    }
    if (all.count == 0) continue;
    row.nll_delta = all.sum / static_cast<double>(all.count);
    row.nll_delta_ci95 = block_bootstrap(blocks);
  }
}

Evaluation evaluate(const LoadedModel& model,
                    std::span<const TokenDocument> documents,
                    const EvaluateConfig& config) {
  const ModelConfig& model_config = model.model->config();
  config.validate(model_config);
  for (const TokenDocument& d : documents)
    if (std::ranges::find(config.modes, Mode::kDense) != config.modes.end())
      model_config.require_window(model_config.sink.tokens() + d.tokens.numel() - 1);
  warn_beyond_training(config, documents);
  const std::vector<Plan> plans = plan_rows(config, model_config.sink.tokens());
  const std::vector<int64_t> bytes = scored_bytes(model, documents);
  Evaluation result;
  result.documents = summarize(documents, bytes);
  std::vector<int64_t> sizes;
  int64_t total = 0;
  for (const DocumentSummary& d : result.documents) total += sizes.emplace_back(d.scored);
  for (const Plan& plan : plans) {
    const std::string label =
        plan.mode == Mode::kDense
            ? "score dense"
            : fmt::format(
                  "score {} {}+{}", enum_name(plan.mode), plan.shape.sinks, plan.shape.recent);
    Progress progress(
        label,
        plan.mode == Mode::kRecompute && config.limit > 0 ? std::min(config.limit, total) : total,
        "tokens");
    result.rows.push_back(score_row(*model.model, plan, documents, config.limit, progress));
    summarize(result.rows.back(), bytes);
  }
  const bool caches = std::ranges::any_of(plans, [](const Plan& p) { return p.mode != Mode::kDense; });
  if (!caches) return result;
  result.after_eviction =
      tokens_after_eviction(result.documents, config.cache, model_config.sink.tokens());
  if (result.after_eviction > 0)
    compare_to_four_sinks(result.rows, sizes);
  else
    log_warn(
        "no document is longer than the cache of {} entries: nothing leaves it, so it makes no "
        "difference which tokens are kept: take longer text or a smaller --cache",
        config.cache);
  return result;
}

const EvaluationRow* evicting_row(std::span<const EvaluationRow> rows) {
  const auto found = std::find_if(rows.begin(), rows.end(), [](const EvaluationRow& r) {
    return (r.mode == Mode::kStream || r.mode == Mode::kWindow) && r.sinks == 0;
  });
  return found == rows.end() ? nullptr : &*found;
}

std::string first_token_sentence(std::span<const EvaluationRow> rows) {
  const EvaluationRow* row = evicting_row(rows);
  if (row == nullptr || !row->nll_delta_ci95) return "";
  const std::string numbers = fmt::format(
      "{:+.4f} nats per token ({:+.2f} % perplexity) against keeping four, 95 % interval {:+.4f} "
      "to {:+.4f}",
      *row->nll_delta,
      100 * std::expm1(*row->nll_delta),
      row->nll_delta_ci95->low,
      row->nll_delta_ci95->high);
  if (row->nll_delta_ci95->low > 0)
    return fmt::format("The model uses its first tokens: evicting them costs {}.", numbers);
  if (row->nll_delta_ci95->high < 0)
    return fmt::format("The model does better without its first tokens: evicting them changes {}.",
                       numbers);
  return fmt::format("No use of the first tokens was measured: evicting them changes {}.", numbers);
}

}  // namespace basin
