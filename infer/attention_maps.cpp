#include "infer/attention_maps.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>
#include <fmt/core.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <utility>

#include "configs/signals.h"
#include "model/alibi.h"
#include "model/rope.h"

namespace basin {
namespace {

constexpr int64_t kBatch = 20;  // sequences at once

// Causal attention that also adds each layer's weights, summed over the batch, to `sums` (L, H, T,
// T). The plain form: every weight is wanted.
class Recorder {
 public:
  Recorder(const Transformer& model, at::Tensor& sums)
      : model_(model),
        sums_(sums),
        rotary_(rotary_table(
            model.config(),
            at::arange(sums.size(2), at::TensorOptions(at::kLong).device(model.device())))) {
    const int64_t T = sums.size(2);
    model.config().require_window(T);
    if (model.config().uses_alibi()) {
      const at::Tensor table = alibi_table(model.config(), T).to(model.device());
      alibi_ = (table.unsqueeze(1) - table.unsqueeze(2)).to(at::kFloat);
    }
    future_ = at::ones({T, T}, at::TensorOptions(at::kBool).device(model.device())).triu(1);
  }

  at::Tensor attend(int64_t layer, const at::Tensor& qkv) {
    const auto [H, G, K] = model_.head_shape();
    const int64_t B = qkv.size(0), T = qkv.size(1);
    const at::Tensor x = qkv.to(at::kFloat).view({B, T, H + 2 * G, K});
    const auto heads = [&](const at::Tensor& part_BTGK) {
      return part_BTGK.repeat_interleave(H / part_BTGK.size(2), 2).transpose(1, 2);
    };  // (B, H, T, K)
    const at::Tensor q = heads(apply_rotary(x.narrow(2, 0, H), rotary_)),
                     k = heads(apply_rotary(x.narrow(2, H, G), rotary_)),
                     v = heads(x.narrow(2, H + G, G));
    at::Tensor scores = at::matmul(q, k.transpose(2, 3)) / std::sqrt(static_cast<double>(K));
    if (alibi_.defined()) scores.add_(alibi_);
    scores.masked_fill_(future_, -std::numeric_limits<double>::infinity());
    if (const at::Tensor logit = model_.sink_logit(layer); logit.defined())
      scores = at::cat({scores, logit.view({1, H, 1, 1}).expand({B, H, T, 1})}, 3);
    const at::Tensor weights = at::softmax(scores, -1).narrow(3, 0, T);
    sums_.select(0, layer).add_(weights.sum(0));
    return at::matmul(weights, v).transpose(1, 2).reshape({B, T, H * K}).to(qkv.scalar_type());
  }

 private:
  const Transformer& model_;
  at::Tensor& sums_;
  ops::Rotary rotary_;
  at::Tensor future_;  // (T, T)
  at::Tensor alibi_;   // (H, T, T), or undefined
};

double share_above(const at::Tensor& alpha) {
  return alpha.gt(kSinkEpsilon).to(at::kDouble).mean().item<double>();
}

nlohmann::ordered_json rows_of(const at::Tensor& x_LHN) {
  nlohmann::ordered_json layers = nlohmann::ordered_json::array();
  for (int64_t l = 0; l < x_LHN.size(0); ++l) {
    nlohmann::ordered_json heads = nlohmann::ordered_json::array();
    for (int64_t h = 0; h < x_LHN.size(1); ++h) {
      const at::Tensor row = x_LHN[l][h].contiguous();
      if (row.dim() == 0) {
        heads.push_back(row.item<float>());
      } else {
        heads.push_back(std::vector<float>(row.const_data_ptr<float>(),
                                           row.const_data_ptr<float>() + row.numel()));
      }
    }
    layers.push_back(std::move(heads));
  }
  return layers;
}

}  // namespace

SinkMetric measure_sink(const Transformer& model, const at::Tensor& samples) {
  const at::NoGradGuard no_grad;
  const int64_t sinks = model.config().sink.tokens(), T = kSinkPositions, text = T - sinks,
                n = samples.size(0);
  if (n < 1 || samples.size(1) < text)
    throw std::invalid_argument(
        fmt::format("the sink metric needs at least one sample of {} tokens, got {} of {}",
                    text,
                    n,
                    samples.size(1)));
  at::Tensor sums = at::zeros({model.config().num_hidden_layers, model.config().heads(), T, T},
                              at::TensorOptions(at::kFloat).device(model.device()));
  Recorder recorder(model, sums);
  for (int64_t begin = 0; begin < n; begin += kBatch) {
    check_interrupt();
    const at::Tensor ids =
        samples.narrow(0, begin, std::min(kBatch, n - begin)).narrow(1, 0, text).to(model.device());
    model.hidden_states(model.with_sinks(ids), [&](int64_t layer, const at::Tensor& qkv) {
      return recorder.attend(layer, qkv);
    });
  }
  const at::Tensor mean = (sums / static_cast<double>(n)).cpu();
  // Queries before position k see nothing of it (zero weight), so the sum over all queries is the
  // sum over t >= k.
  const auto alpha = [&](int64_t k) {
    return mean.select(3, k).sum(2) / static_cast<double>(T - k);
  };
  SinkMetric metric;
  metric.sequences = n;
  metric.alpha = alpha(0);
  metric.alpha_first_text = alpha(sinks);
  metric.sink_first = share_above(metric.alpha);
  metric.sink_first_text = share_above(metric.alpha_first_text);
  metric.maps = mean.narrow(2, 0, kMapPositions).narrow(3, 0, kMapPositions).contiguous();
  return metric;
}

at::Tensor spread_samples(std::span<const TokenDocument> documents, int64_t tokens, int64_t count) {
  std::vector<at::Tensor> all;
  for (const TokenDocument& d : documents)
    for (int64_t begin = 0; begin + tokens <= d.tokens.numel(); begin += tokens)
      all.push_back(d.tokens.narrow(0, begin, tokens));
  if (all.empty())
    throw std::runtime_error(
        fmt::format("no document has {} tokens, which one sample of the attention metric needs: "
                    "give a longer text",
                    tokens));
  const auto available = static_cast<int64_t>(all.size()), n = std::min(count, available);
  std::vector<at::Tensor> chosen;
  for (int64_t i = 0; i < n; ++i) chosen.push_back(all[static_cast<size_t>(i * available / n)]);
  return at::stack(chosen);
}

nlohmann::ordered_json to_json(const SinkMetric& metric) {
  nlohmann::ordered_json json;
  json["epsilon"] = kSinkEpsilon;
  json["positions"] = kSinkPositions;
  json["sequences"] = metric.sequences;
  json["sink_first"] = metric.sink_first;
  json["sink_first_text"] = metric.sink_first_text;
  json["alpha"] = rows_of(metric.alpha);
  json["alpha_first_text"] = rows_of(metric.alpha_first_text);
  json["maps"] = {{"size", kMapPositions}, {"values", rows_of(metric.maps.flatten(2))}};
  return json;
}

}  // namespace basin
