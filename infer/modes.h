// Scoring one document: the negative log-likelihood of x_1 .. x_{N-1}, in nats, each way that there
// is. A document is a stream of its own: fresh cache, the model's sink tokens in front.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "configs/progress.h"
#include "infer/config.h"
#include "model/transformer.h"

namespace basin {

/// tokens int64 (N) -> fp32 (N - 1), the nll of x_1 .. x_{N-1} under streaming with `shape`: exact,
/// in parallel chunks. Empty for N < 2. `progress` (optional) advances by the tokens scored. Throws
/// Interrupted.
at::Tensor score_stream(const Transformer& model,
                        const CacheShape& shape,
                        const at::Tensor& tokens,
                        Progress* progress = nullptr);

/// The same with everything cached, at true positions.
at::Tensor score_dense(const Transformer& model,
                       const at::Tensor& tokens,
                       Progress* progress = nullptr);

/// For each of `targets` (int64 (n), ascending, 1 <= target < N): one forward from scratch over the
/// model's sinks and the newest tokens before the target, `entries` + 1 positions in all, the first
/// at 0 -> fp32 (n). `entries` exceeds the model's number of sink tokens.
at::Tensor score_recompute(const Transformer& model,
                           int64_t entries,
                           const at::Tensor& tokens,
                           const at::Tensor& targets,
                           Progress* progress = nullptr);

/// hidden (n, D), targets int64 (n) -> fp32 (n): log-sum-exp of the logits minus the target's.
/// Memory does not grow with n * V.
at::Tensor token_nll(const Transformer& model, const at::Tensor& hidden, const at::Tensor& targets);

/// The same, and whether each target is what greedy decoding takes (the first of equal logits).
struct ScoredTokens {
  at::Tensor nll;     // fp32 (n)
  at::Tensor greedy;  // bool (n)
};
ScoredTokens score_tokens(const Transformer& model,
                          const at::Tensor& hidden,
                          const at::Tensor& targets);

}  // namespace basin
