#include "model/transformer.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <map>
#include <memory>
#include <utility>

#include "model/alibi.h"
#include "model/flash_attention.h"
#include "model/parameters.h"
#include "model/rope.h"

namespace basin {

namespace {

ops::Norm make_norm(const ModelConfig& config, const at::Tensor& weight, const at::Tensor& bias) {
  return {config.rms_norm() ? ops::NormKind::kRms : ops::NormKind::kLayer, weight, bias, config.norm_eps};
}

/// The stream with its delta added, and the norm of that.
std::pair<at::Tensor, at::Tensor> add_norm(const Residual& in, const ops::Norm& n) {
  return in.delta.defined() ? ops::add_norm(in.x, in.delta, n) : std::pair(in.x, ops::norm(in.x, n));
}

}  // namespace

Transformer::Transformer(const ModelConfig& config, at::ScalarType dtype, at::Device device) : config_(config) {
  const at::TensorOptions options = at::TensorOptions().dtype(dtype).device(device);
  const std::vector<ParameterShape> shapes = parameter_shapes(config);
  int64_t size = 0;
  for (const bool decay : {true, false}) {
    for (const ParameterShape& p : shapes) {
      if (p.decay != decay) continue;
      parameters_.push_back({p.name, at::Tensor(), size, decay});
      size += aligned_elements(p.elements());
    }
    if (decay) decayed_size_ = size;
  }
  flat_ = at::zeros({size}, options);
  std::map<std::string, std::vector<int64_t>> shape_of;
  for (const ParameterShape& p : shapes) shape_of[p.name] = p.shape;
  for (Parameter& p : parameters_) {
    const std::vector<int64_t>& shape = shape_of[p.name];
    p.tensor = flat_.narrow(0, p.offset, c10::multiply_integers(shape)).view(shape);
  }
  const auto take = [&](const std::string& name) {
    const Parameter* p = find(name);
    return p != nullptr ? p->tensor : at::Tensor();
  };

  embedding_ = take("embedding.weight");
  head_ = config.tie_word_embeddings ? embedding_ : take("head.weight");
  final_norm_ = make_norm(config, take("final_norm.weight"), take("final_norm.bias"));
  for (int64_t l = 0; l < config.num_hidden_layers; ++l) {
    const std::string at_l = "layers." + std::to_string(l) + ".";
    layers_.push_back({make_norm(config, take(at_l + "attention_norm.weight"), take(at_l + "attention_norm.bias")),
                       make_norm(config, take(at_l + "mlp_norm.weight"), take(at_l + "mlp_norm.bias")),
                       take(at_l + "qkv.weight"), take(at_l + "qkv.bias"),
                       take(at_l + "attention_out.weight"), take(at_l + "attention_out.bias"),
                       take(at_l + "up.weight"), take(at_l + "up.bias"),
                       take(at_l + "down.weight"), take(at_l + "down.bias"),
                       take(at_l + "sink_logit")});
  }
  if (config.sink.kind == SinkKind::kZero) zero_logit_ = at::zeros({config.heads()}, options.dtype(at::kFloat));
  if (config.sink.tokens() > 0) sink_ids_ = at::tensor(config.sink.ids(), at::kLong).to(device);
}

const Parameter* Transformer::find(const std::string& name) const {
  const auto found = std::ranges::find(parameters_, name, &Parameter::name);
  return found == parameters_.end() ? nullptr : &*found;
}

at::Tensor Transformer::parameter(const std::string& name) const {
  const Parameter* p = find(name);
  return p != nullptr ? p->tensor.detach() : at::Tensor();
}

at::Tensor Transformer::mlp(const Layer& layer, const at::Tensor& x) const {
  const at::Tensor up = ops::linear(x, layer.up_weight, layer.up_bias);
  return ops::linear(config_.gated_mlp() ? ops::swiglu(up) : ops::gelu(up), layer.down_weight, layer.down_bias);
}

Residual Transformer::block(int64_t l, const LayerAttention& attend, const Residual& in) const {
  const Layer& layer = layers_[l];
  const auto attention = [&](const at::Tensor& x) {   // (B, T, D)
    return ops::linear(attend(l, ops::linear(x, layer.qkv_weight, layer.qkv_bias)), layer.out_weight, layer.out_bias);
  };
  if (config_.parallel_residual() && config_.has_mlp_norm()) {
    const auto [x, for_attention, for_mlp] = ops::add_norms(in.x, in.delta, layer.attention_norm, layer.mlp_norm);
    return {x, attention(for_attention) + mlp(layer, for_mlp)};
  }
  const auto [x, normed] = add_norm(in, layer.attention_norm);
  const at::Tensor attended = attention(normed);
  if (config_.parallel_residual()) return {x, attended + mlp(layer, normed)};
  const auto [h, normed_h] = add_norm({x, attended}, layer.mlp_norm);
  return {h, mlp(layer, normed_h)};
}

at::Tensor Transformer::hidden_states(const at::Tensor& ids, const LayerAttention& attend) const {
  Residual stream{ops::embedding(ids, embedding_), {}};
  const bool recompute = recompute_activations_ && at::GradMode::is_enabled();
  const auto shared = recompute ? std::make_shared<const LayerAttention>(attend) : nullptr;   // the backward pass attends again
  for (int64_t l = 0; l < config_.num_hidden_layers; ++l) {
    stream = recompute ? recomputed([this, l, shared](const Residual& in) { return block(l, *shared, in); }, stream) : block(l, attend, stream);
  }
  return add_norm(stream, final_norm_).second;
}

at::Tensor Transformer::logits(const at::Tensor& hidden) const { return ops::linear(hidden, head_, {}); }

at::Tensor Transformer::decode(const at::Tensor& ids, const LayerAttention& attend) const { return logits(hidden_states(ids, attend).select(1, -1)); }

LayerAttention Transformer::causal_attention(int64_t positions) const {
  config_.require_window(positions);
  if (config_.rotary_size() > 0 && (!rotary_.cos.defined() || rotary_.cos.size(0) < positions)) {
    rotary_ = rotary_table(config_, at::arange(positions, at::TensorOptions(at::kLong).device(device())));
  }
  ops::Rotary rotary = rotary_;
  if (rotary.cos.defined()) rotary = {rotary.cos.narrow(0, 0, positions), rotary.sin.narrow(0, 0, positions)};
  if (config_.uses_alibi() && (!alibi_.table.defined() || alibi_.table.size(1) < positions)) alibi_ = make_alibi(config_, positions, device());
  ops::Alibi alibi = alibi_;
  if (alibi.table.defined()) alibi.table = alibi.table.narrow(1, 0, positions);
  const bool trains = at::GradMode::is_enabled();   // asked here: blocks that will be repeated attend without it at first (model/recompute.h)
  return [this, rotary, alibi, trains](int64_t layer, const at::Tensor& qkv) {
    const ops::ShapeRepeats scope(trains);
    return ops::attention(qkv, head_shape(), rotary, sink_logit(layer), alibi);
  };
}

at::Tensor Transformer::with_sinks(const at::Tensor& ids) const {
  if (!sink_ids_.defined()) return ids;
  return at::cat({sink_ids_.expand({ids.size(0), sink_ids_.size(0)}), ids}, 1);
}

at::Tensor Transformer::loss(const at::Tensor& samples) const {
  const int64_t T = samples.size(1) - 1, S = config_.sink.tokens();
  const at::Tensor hidden = hidden_states(with_sinks(samples.narrow(1, 0, T)), causal_attention(S + T));
  const at::Tensor predicted = hidden.narrow(1, S, T).reshape({-1, config_.hidden_size});   // no loss at the sinks
  return ops::linear_cross_entropy(predicted, head_, samples.narrow(1, 1, T).reshape({-1}));
}

at::Tensor Transformer::sink_logit(int64_t layer) const {
  return config_.sink.kind == SinkKind::kZero ? zero_logit_ : layers_[layer].sink_logit;
}

ops::HeadShape Transformer::head_shape() const { return {config_.heads(), config_.kv_heads(), config_.head_size()}; }

}  // namespace basin
