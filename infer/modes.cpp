#include "infer/modes.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>

#include <algorithm>
#include <vector>

#include "configs/signals.h"
#include "infer/kv_cache.h"

namespace basin {
namespace {

constexpr int64_t kRecomputePositions = 8192;  // of the windows that are recomputed in one batch

// Rows of logits that are alive at once: on a CPU 4 M logits, which stay in its caches.
int64_t logit_rows(const Transformer& model) {
  const int64_t logits = int64_t{1} << (model.device().is_cuda() ? 28 : 22);
  return std::max<int64_t>(1, logits / model.config().vocab_size);
}

}  // namespace

at::Tensor token_nll(const Transformer& model,
                     const at::Tensor& hidden,
                     const at::Tensor& targets) {
  const int64_t n = hidden.size(0), rows = logit_rows(model);
  at::Tensor nll = at::empty({n}, hidden.options().dtype(at::kFloat));
  for (int64_t begin = 0; begin < n; begin += rows) {
    const int64_t count = std::min(rows, n - begin);
    nll.narrow(0, begin, count)
        .copy_(ops::token_cross_entropy(model.logits(hidden.narrow(0, begin, count)),
                                        targets.narrow(0, begin, count)));
  }
  return nll;
}

ScoredTokens score_tokens(const Transformer& model,
                          const at::Tensor& hidden,
                          const at::Tensor& targets) {
  const int64_t n = hidden.size(0), rows = logit_rows(model);
  ScoredTokens scored{at::empty({n}, hidden.options().dtype(at::kFloat)),
                      at::empty({n}, hidden.options().dtype(at::kBool))};
  for (int64_t begin = 0; begin < n; begin += rows) {
    const int64_t count = std::min(rows, n - begin);
    const at::Tensor logits = model.logits(hidden.narrow(0, begin, count)),
                     wanted = targets.narrow(0, begin, count);
    scored.greedy.narrow(0, begin, count).copy_(logits.argmax(1) == wanted);
    scored.nll.narrow(0, begin, count).copy_(ops::token_cross_entropy(logits, wanted));
  }
  return scored;
}

at::Tensor score_stream(const Transformer& model,
                        const CacheShape& shape,
                        const at::Tensor& tokens,
                        Progress* progress) {
  const at::NoGradGuard no_grad;
  const int64_t N = tokens.size(0), sinks = model.config().sink.tokens(),
                chunk = chunk_tokens(model.device());
  at::Tensor nll = at::empty({std::max<int64_t>(0, N - 1)}, at::kFloat);
  if (N < 2) return nll;
  const at::Tensor stream =
      model.with_sinks(tokens.to(model.device()).unsqueeze(0));  // (1, sinks + N)
  KvCache cache(model, shape);
  const int64_t inputs = sinks + N - 1;  // the last token predicts nothing that is scored
  for (int64_t begin = 0; begin < inputs; begin += chunk) {
    check_interrupt();
    const int64_t end = std::min(begin + chunk, inputs);
    const at::Tensor hidden =
        model.hidden_states(stream.narrow(1, begin, end - begin), cache.attention());
    cache.advance(end - begin);
    // Position p predicts the stream's p + 1, which is x_{p + 1 - sinks}; the sinks' own
    // predictions are nobody's targets.
    const int64_t first = std::max(begin, sinks);
    if (first >= end) continue;
    const at::Tensor targets = stream[0].narrow(0, first + 1, end - first);
    nll.narrow(0, first - sinks, end - first)
        .copy_(token_nll(model, hidden[0].narrow(0, first - begin, end - first), targets));
    if (progress != nullptr) progress->advance(end - first);
  }
  return nll;
}

// The last query, too, sees what the cache holds and itself.
at::Tensor score_dense(const Transformer& model, const at::Tensor& tokens, Progress* progress) {
  const int64_t inputs = model.config().sink.tokens() + tokens.size(0) - 1;
  return score_stream(model, {0, std::max<int64_t>(1, inputs - 1)}, tokens, progress);
}

at::Tensor score_recompute(const Transformer& model,
                           int64_t entries,
                           const at::Tensor& tokens,
                           const at::Tensor& targets,
                           Progress* progress) {
  const at::NoGradGuard no_grad;
  const int64_t n = targets.size(0), sinks = model.config().sink.tokens(),
                full = entries + 1 - sinks;
  TORCH_CHECK(full >= 1, "recompute needs room for a token besides the sinks");
  const at::Tensor target_at = targets.to(at::kCPU).contiguous();
  const int64_t* target = target_at.const_data_ptr<int64_t>();
  const at::Tensor text = tokens.to(model.device());
  at::Tensor nll = at::empty({n}, at::kFloat);
  for (int64_t begin = 0; begin < n;) {
    check_interrupt();
    // As many consecutive targets as have windows of equal length and fit the batch.
    const int64_t window = std::min(target[begin], full),
                  most = std::max<int64_t>(1, kRecomputePositions / (sinks + window));
    int64_t end = begin + 1;
    while (end < n && end - begin < most && std::min(target[end], full) == window) ++end;
    std::vector<at::Tensor> rows;
    for (int64_t i = begin; i < end; ++i)
      rows.push_back(text.narrow(0, target[i] - window, window));
    const at::Tensor hidden = model.hidden_states(model.with_sinks(at::stack(rows)),
                                                  model.causal_attention(sinks + window));
    const at::Tensor wanted =
        text.index_select(0, target_at.narrow(0, begin, end - begin).to(model.device()));
    nll.narrow(0, begin, end - begin).copy_(token_nll(model, hidden.select(1, -1), wanted));
    if (progress != nullptr) progress->advance(end - begin);
    begin = end;
  }
  return nll;
}

}  // namespace basin
