// Where attention goes: the attention-sink metric of Gu et al. (arXiv 2410.10781) and mean
// attention maps, per layer and head.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <span>
#include <vector>

#include "infer/documents.h"
#include "model/transformer.h"

namespace basin {

inline constexpr double kSinkEpsilon = 0.3;  // a head has a sink when its alpha exceeds this
inline constexpr int64_t kSinkPositions =
    64;  // T of the metric, sinks included; it falls with T, so comparisons keep it
inline constexpr int64_t kSinkSequences = 100;
inline constexpr int64_t kMapPositions = 32;  // rows and columns of a mean attention map

/// alpha of position k is the mean of A[t, k] over t = k .. T-1. Tensors are fp32 on the CPU.
struct SinkMetric {
  int64_t sequences = 0;
  double sink_first = 0;  // share of (layer, head) pairs with alpha(position 0) > epsilon; position
                          // 0 is the first sink, or x_0 without one
  double sink_first_text = 0;   // the same of the first real token
  at::Tensor alpha;             // (L, H), of position 0
  at::Tensor alpha_first_text;  // (L, H)
  at::Tensor maps;  // (L, H, kMapPositions, kMapPositions), mean attention, rows are queries
};

/// `samples` int64 (N, >= kSinkPositions - sinks) tokens of text without sinks; the model's sinks
/// are put in front and the first kSinkPositions positions count. Throws std::invalid_argument for
/// shorter samples. No gradients.
SinkMetric measure_sink(const Transformer& model, const at::Tensor& samples);

/// Up to `count` samples (n, tokens) that do not overlap or cross documents, spread evenly over
/// them. Throws std::runtime_error when no document has `tokens` tokens.
at::Tensor spread_samples(std::span<const TokenDocument> documents, int64_t tokens, int64_t count);

/// {epsilon, positions, sequences, sink_first, sink_first_text, alpha: [L][H], alpha_first_text:
/// [L][H],
///  maps: {size, values: [L][H][size * size], row by row, rows are queries}}; shares and alphas
///  between 0 and 1.
nlohmann::ordered_json to_json(const SinkMetric& metric);

}  // namespace basin
