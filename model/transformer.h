// The decoder: one network for all families, put together from a ModelConfig. It owns its parameters as views of one flat buffer, so that
// the optimizer, the gradient reduction and the checkpoint each see one tensor.
// Training, evaluation and decoding run the same code; only how a layer attends differs (`LayerAttention`).
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <string>
#include <vector>

#include "model/config.h"
#include "model/ops.h"
#include "model/recompute.h"

namespace basin {

/// One tensor of the model under its internal name ("layers.3.qkv.weight").
struct Parameter {
  std::string name;
  at::Tensor tensor;     // a view of Transformer::flat()
  int64_t offset = 0;    // of its first element in flat()
  bool decay = true;     // takes weight decay (two or more dimensions)
};

/// How layer `layer` attends: packed, unrotated qkv (B, T, (H + 2G) K) -> (B, T, H K).
using LayerAttention = std::function<at::Tensor(int64_t layer, const at::Tensor& qkv)>;

class Transformer {
 public:
  /// Uninitialised parameters of `dtype` (float, double or bfloat16) on `device`. `config` must have no problems().
  Transformer(const ModelConfig& config, at::ScalarType dtype, at::Device device);

  /// Draws initial weights: a pure function of (seed, tensor name), equal for fp32 and bf16 up to rounding.
  void initialize(uint64_t seed);
  /// Whether backward passes keep each block's inputs only and compute the rest again (model/recompute.h). Changes no number.
  void recompute_activations(bool on) { recompute_activations_ = on; }

  /// ids int64 (B, T), sinks included by the caller -> final-norm hidden states (B, T, D).
  at::Tensor hidden_states(const at::Tensor& ids, const LayerAttention& attend) const;
  /// Hidden states (..., D) -> logits (..., V).
  at::Tensor logits(const at::Tensor& hidden) const;
  /// Ordinary causal attention over positions 0..T-1, for training and dense evaluation. Throws std::invalid_argument beyond the model's own window.
  LayerAttention causal_attention(int64_t positions) const;
  /// Decoding's name for the same thing: ids (B, 1) and a cache's attention -> logits (B, V).
  at::Tensor decode(const at::Tensor& ids, const LayerAttention& attend) const;
  /// Training loss of a batch of samples (B, T + 1): prepends the sinks, predicts x_1..x_T, mean cross-entropy in nats.
  at::Tensor loss(const at::Tensor& samples) const;
  /// ids (B, T) behind the model's own sink tokens: (B, S + T).
  at::Tensor with_sinks(const at::Tensor& ids) const;

  /// fp32 (H) for kinds zero and logit, undefined otherwise.
  at::Tensor sink_logit(int64_t layer) const;
  ops::HeadShape head_shape() const;

  const ModelConfig& config() const { return config_; }
  const std::vector<Parameter>& parameters() const { return parameters_; }   // decayed ones first, then the rest
  /// The parameter of that internal name, detached; undefined when the model has none.
  at::Tensor parameter(const std::string& name) const;
  const at::Tensor& flat() const { return flat_; }                           // (padded total), all parameters
  int64_t decayed_size() const { return decayed_size_; }                     // flat()[0 .. decayed_size) takes weight decay
  at::Device device() const { return flat_.device(); }
  at::ScalarType dtype() const { return flat_.scalar_type(); }

 private:
  struct Layer {
    ops::Norm attention_norm, mlp_norm;   // the latter without weight where both read the same
    at::Tensor qkv_weight, qkv_bias;   // ((H + 2G) K, D): all q, all k, all v
    at::Tensor out_weight, out_bias;   // (D, H K)
    at::Tensor up_weight, up_bias;     // (2F, D): gate, up; without gate (F, D)
    at::Tensor down_weight, down_bias; // (D, F)
    at::Tensor sink_logit;             // (H), kind logit only
  };
  const Parameter* find(const std::string& name) const;   // null when there is none
  at::Tensor mlp(const Layer& layer, const at::Tensor& x) const;
  Residual block(int64_t layer, const LayerAttention& attend, const Residual& in) const;

  ModelConfig config_;
  bool recompute_activations_ = false;
  at::Tensor flat_;
  int64_t decayed_size_ = 0;
  std::vector<Parameter> parameters_;
  std::vector<Layer> layers_;
  at::Tensor embedding_, head_;   // (V, D); head_ is embedding_ when tied
  ops::Norm final_norm_;
  mutable ops::Rotary rotary_;    // tables of causal_attention, grown on demand
  mutable ops::Alibi alibi_;      // the same
  at::Tensor zero_logit_, sink_ids_;
};

}  // namespace basin
