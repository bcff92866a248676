#include "infer/cuda_decoder.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>
#include <c10/core/InferenceMode.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <fmt/core.h>

#include <algorithm>
#include <stdexcept>
#include <string>

#include "model/rope.h"

namespace basin {
namespace {

constexpr int64_t kOutput = 1024;  // tokens of a stream that the device keeps before they are read
constexpr int64_t kStateWords = sizeof(kernels::DecodeState) / sizeof(int64_t);
static_assert(sizeof(kernels::DecodeState) % sizeof(int64_t) == 0);

void require_finite(const at::Tensor& tokens) {
  const auto begin = tokens.const_data_ptr<int64_t>(), end = begin + tokens.numel();
  if (std::find(begin, end, kernels::kNotFinite) != end)
    throw std::runtime_error(
        "the model's logits are not finite: its weights are damaged or its arithmetic overflows");
}

kernels::WeightType type_of(const at::Tensor& x) {
  return x.scalar_type() == at::kFloat ? kernels::WeightType::kF32 : kernels::WeightType::kBf16;
}

}  // namespace

bool CudaDecoder::supports(const Transformer& model) {
  const ModelConfig& c = model.config();
  return model.device().is_cuda() && cuda_plugin() != nullptr && !c.uses_alibi() &&
         (model.dtype() == at::kFloat || model.dtype() == at::kBFloat16) &&
         c.head_size() <= kernels::kMostDecodeHeadSize &&
         c.hidden_size <= cuda_plugin()->decode.most_norm_columns();
}

CudaDecoder::CudaDecoder(const Transformer& model,
                         std::vector<KvCache*> caches,
                         DecodeWeights weights,
                         const kernels::DecodeKernels* kernels)
    : model_(model),
      caches_(std::move(caches)),
      kernels_(kernels ? *kernels : cuda_plugin()->decode),
      records_(kernels == nullptr),
      parallel_residual_(model.config().parallel_residual()) {
  TORCH_CHECK(!model.config().uses_alibi(), "decoding on a GPU knows no ALiBi");
  const c10::InferenceMode ordinary(false);
  make_room();
  make_products(weights);
  chain_products();
  if (records_) make_one_launch(weights);
}

const float* CudaDecoder::keep(const at::Tensor& x) {
  if (!x.defined()) return nullptr;
  return owned_.emplace_back(x.detach().to(at::kFloat).contiguous()).const_data_ptr<float>();
}

kernels::WeightMatrix CudaDecoder::matrix(const std::string& name, DecodeWeights format) {
  const at::Tensor weight = model_.parameter(name + ".weight"),
                   bias = model_.parameter(name + ".bias");
  kernels::WeightMatrix w{.type = type_of(weight),
                          .rows = weight.size(0),
                          .columns = weight.size(1),
                          .data = weight.const_data_ptr(),
                          .bias = keep(bias)};
  weight_bytes_ += static_cast<int64_t>(weight.nbytes());
  if (format == DecodeWeights::kModel) return w;
  const Q8Weights q8 = quantize_q8(weight.detach(), name);
  weight_bytes_ += static_cast<int64_t>(q8.values.nbytes() + q8.scales.nbytes() - weight.nbytes());
  w.type = kernels::WeightType::kQ8;
  w.data = owned_.emplace_back(q8.values.to(model_.device())).const_data_ptr();
  w.scales = static_cast<const uint16_t*>(
      owned_.emplace_back(q8.scales.to(model_.device())).const_data_ptr());
  return w;
}

kernels::DecodeNorm CudaDecoder::norm(const at::Tensor& weight, const at::Tensor& bias) {
  return {.weight = keep(weight),
          .bias = keep(bias),
          .is_rms = model_.config().rms_norm(),
          .eps = static_cast<float>(model_.config().norm_eps)};
}

void CudaDecoder::make_room() {
  const ModelConfig& c = model_.config();
  const auto N = static_cast<int64_t>(caches_.size());
  const std::vector<double> frequencies = rotary_frequencies(c);
  const auto half = static_cast<int64_t>(frequencies.size());
  const at::TensorOptions on_device = at::TensorOptions().device(model_.device());
  const auto floats = [&](int64_t n) { return at::zeros({N, n}, on_device.dtype(at::kFloat)); };
  h_ = floats(c.hidden_size);
  angles_ = floats(4 * std::max<int64_t>(half, 1));
  qkv_ = floats(c.qkv_size());
  attended_ = floats(c.heads() * c.head_size());
  activated_ = floats(c.intermediate_size);
  logits_ = floats(c.vocab_size);
  states_ = at::zeros({N, kStateWords}, on_device.dtype(at::kLong));
  output_ = at::zeros({N, kOutput}, on_device.dtype(at::kLong));
  host_output_ = at::zeros({N * kOutput}, at::TensorOptions(at::kLong).pinned_memory(records_));
  if (records_) copied_.emplace(at::kCUDA);

  embedding_.half = half;
  if (half > 0)
    embedding_.frequencies =
        owned_.emplace_back(at::tensor(frequencies, at::kDouble).to(model_.device()))
            .const_data_ptr<double>();
  attention_ = {.H = c.heads(),
                .G = model_.head_shape().kv_heads,
                .K = c.head_size(),
                .rotary = 2 * half,
                .cache = model_.dtype() == at::kFloat ? kernels::WeightType::kF32
                                                      : kernels::WeightType::kBf16,
                .qkv = qkv_.const_data_ptr<float>(),
                .angles = angles_.const_data_ptr<float>(),
                .out = attended_.mutable_data_ptr<float>()};
  for (const KvCache* cache : caches_)
    attention_.most_slots = std::max(attention_.most_slots, cache->slots());
  attention_scratch_ =
      at::zeros({kernels_.attention_scratch(N, attention_)}, on_device.dtype(at::kByte));
  attention_.scratch = attention_scratch_.mutable_data_ptr();
  greedy_scratch_ = at::zeros({kernels_.greedy_scratch(N)}, on_device.dtype(at::kByte));
  greedy_ = {.V = c.vocab_size,
             .logits = logits_.const_data_ptr<float>(),
             .capacity = kOutput,
             .output = output_.mutable_data_ptr<int64_t>(),
             .scratch = greedy_scratch_.mutable_data_ptr()};
}

void CudaDecoder::make_products(DecodeWeights weights) {
  using kernels::DecodeEpilogue;
  const ModelConfig& c = model_.config();
  const auto take = [&](const std::string& name) { return model_.parameter(name); };
  const auto product = [&](const std::string& name, const at::Tensor& x, const at::Tensor& y) {
    return kernels::DecodeProduct{
        .w = matrix(name, weights),
        .x = x.const_data_ptr<float>(),
        .y = y.mutable_data_ptr<float>()};
  };
  const auto normed = [&](kernels::DecodeProduct p, const std::string& name) {
    p.norm = norm(take(name + ".weight"), take(name + ".bias"));
    return p;
  };
  for (int64_t l = 0; l < c.num_hidden_layers; ++l) {
    const std::string at = fmt::format("layers.{}.", l);
    Layer layer{.qkv = normed(product(at + "qkv", h_, qkv_), at + "attention_norm"),
                .out = product(at + "attention_out", attended_, h_),
                .up = normed(product(at + "up", h_, activated_),
                             at + (c.has_mlp_norm() ? "mlp_norm" : "attention_norm")),
                .down = product(at + "down", activated_, h_)};
    layer.up.epilogue = c.gated_mlp() ? DecodeEpilogue::kSwiglu : DecodeEpilogue::kGelu;
    layer.out.epilogue = layer.down.epilogue = DecodeEpilogue::kAdd;
    if (parallel_residual_) {  // one sum of both
      layer.down.also = layer.out.w;
      layer.down.also_x = layer.out.x;
    }
    const at::Tensor logit = model_.sink_logit(l);
    if (logit.defined()) layer.sink_logit = logit.detach().to(at::kFloat).contiguous();
    layers_.push_back(std::move(layer));
  }
  const at::Tensor table = take("embedding.weight");
  embedding_.type = type_of(table);
  embedding_.table = table.const_data_ptr();
  embedding_.D = c.hidden_size;
  head_ = {.w = matrix(c.tie_word_embeddings ? "embedding" : "head", weights),
           .x = h_.const_data_ptr<float>(),
           .y = logits_.mutable_data_ptr<float>(),
           .norm = norm(take("final_norm.weight"), take("final_norm.bias"))};
}

// Each product of a layer asks for the weights of the next one, and the last layer's for as much of
// the head as L2 holds beside the rest.
void CudaDecoder::chain_products() {
  static constexpr int64_t kMost = 16 << 20;
  const auto bytes = [](const kernels::WeightMatrix& w) {
    const int64_t elements = w.rows * w.columns;
    const int64_t size = w.type == kernels::WeightType::kF32    ? 4 * elements
                         : w.type == kernels::WeightType::kBf16 ? 2 * elements
                                                                : elements;
    return kernels::DecodeBytes{w.data, std::min<int64_t>(size, kMost)};
  };
  for (size_t l = 0; l < layers_.size(); ++l) {
    Layer& layer = layers_[l];
    layer.qkv.next[0] = bytes(layer.out.w);
    layer.qkv.next[1] = bytes(parallel_residual_ ? layer.down.w : layer.up.w);
    layer.out.next[0] = bytes(layer.down.w);
    if (l + 1 == layers_.size()) {
      layer.down.next[0] = bytes(head_.w);
      continue;
    }
    layer.down.next[0] = bytes(layers_[l + 1].qkv.w);
    if (parallel_residual_) layer.down.next[1] = bytes(layers_[l + 1].up.w);
  }
}

// Where the GPU and the sizes allow it, all layers are one launch.
void CudaDecoder::make_one_launch(DecodeWeights weights) {
  if (caches_.size() != 1 || weights != DecodeWeights::kModel || model_.dtype() != at::kBFloat16) return;
  const ModelConfig& c = model_.config();
  const auto bits = [](const kernels::WeightMatrix& w) { return static_cast<const kernels::Bf16*>(w.data); };
  std::vector<kernels::DecodeLayer> layers;
  for (const Layer& l : layers_)
    layers.push_back({bits(l.qkv.w), bits(l.out.w), bits(l.up.w), bits(l.down.w),
                      l.qkv.w.bias, l.out.w.bias, l.up.w.bias, l.down.w.bias,
                      l.qkv.norm.weight, l.qkv.norm.bias, l.up.norm.weight, l.up.norm.bias,
                      l.sink_logit.defined() ? l.sink_logit.const_data_ptr<float>() : nullptr});
  const auto bytes = static_cast<int64_t>(layers.size() * sizeof(kernels::DecodeLayer));
  kernels::DecodeLayers all{.L = c.num_hidden_layers,
                            .D = c.hidden_size,
                            .F = c.intermediate_size,
                            .H = attention_.H,
                            .G = attention_.G,
                            .K = attention_.K,
                            .rotary = attention_.rotary,
                            .most_slots = attention_.most_slots,
                            .is_rms = c.rms_norm(),
                            .is_swiglu = c.gated_mlp(),
                            .is_parallel = parallel_residual_,
                            .eps = static_cast<float>(c.norm_eps),
                            .state = reinterpret_cast<kernels::DecodeState*>(states_.mutable_data_ptr<int64_t>()),
                            .angles = angles_.const_data_ptr<float>(),
                            .h = h_.mutable_data_ptr<float>()};
  if (!cuda_plugin()->takes_decode_layers(all)) return;
  const at::TensorOptions on_device = at::TensorOptions().device(model_.device()).dtype(at::kByte);
  all.layers = static_cast<const kernels::DecodeLayer*>(owned_.emplace_back(at::from_blob(layers.data(), {bytes}, at::kByte).to(on_device)).const_data_ptr());
  all.scratch = owned_.emplace_back(at::zeros({cuda_plugin()->decode_layers_scratch(all)}, on_device)).mutable_data_ptr();
  one_launch_ = all;
}

void CudaDecoder::launch_layers(const kernels::DecodeBatch& batch) {
  if (one_launch_) return cuda_plugin()->decode_layers(*one_launch_);
  const int64_t N = batch.streams;
  for (size_t l = 0; l < layers_.size(); ++l) {
    const Layer& layer = layers_[l];
    const float* logit =
        layer.sink_logit.defined() ? layer.sink_logit.const_data_ptr<float>() : nullptr;
    if (parallel_residual_) {
      kernels_.products(N, layer.qkv, layer.up);
      kernels_.attention(batch, attention_, static_cast<int64_t>(l), logit);
    } else {
      kernels_.product(N, layer.qkv);
      kernels_.attention(batch, attention_, static_cast<int64_t>(l), logit);
      kernels_.product(N, layer.out);
      kernels_.product(N, layer.up);
    }
    kernels_.product(N, layer.down);
  }
}

void CudaDecoder::launch(End end) {
  const auto N = static_cast<int64_t>(caches_.size());
  const kernels::DecodeBatch batch{
      N, reinterpret_cast<kernels::DecodeState*>(states_.mutable_data_ptr<int64_t>())};
  kernels_.begin(
      batch, embedding_, h_.mutable_data_ptr<float>(), angles_.mutable_data_ptr<float>());
  launch_layers(batch);
  kernels_.product(N, head_);
  if (end == End::kGreedy) {
    kernels_.greedy(batch, greedy_);
  } else {
    kernels_.advance(batch);
  }
}

// Where each stream stands, and its next token.
void CudaDecoder::upload(std::span<const int64_t> ids) {
  TORCH_CHECK(ids.size() == caches_.size(), "a step needs one token for each stream");
  std::vector<kernels::DecodeState> states(caches_.size());
  for (size_t n = 0; n < caches_.size(); ++n) {
    const KvCache& cache = *caches_[n];
    TORCH_CHECK_INDEX(ids[n] >= 0 && ids[n] < model_.config().vocab_size,
                      "token id ",
                      ids[n],
                      " lies outside of the vocabulary of ",
                      model_.config().vocab_size);
    states[n] = {.position = cache.position(),
                 .token = ids[n],
                 .start = cache.position(),
                 .origin = cache.rotary_position() - cache.position(),
                 .sinks = cache.shape().sinks,
                 .recent = cache.shape().recent,
                 .keys = cache.keys(0),
                 .values = cache.values(0)};
  }
  states_.copy_(at::from_blob(states.data(), states_.sizes(), at::kLong));
  output_begin_ = 0;
  is_ahead_ = false;
}

// Whether the device is where the caches are, with these tokens next: nothing to upload.
bool CudaDecoder::stands_at(std::span<const int64_t> ids) const {
  if (ids.size() != on_device_.size()) return false;
  for (size_t n = 0; n < ids.size(); ++n)
    if (on_device_[n] != std::pair(caches_[n]->position(), ids[n])) return false;
  return true;
}

void CudaDecoder::replay(std::optional<CudaGraph>& graph, End end) {
  if (!records_) return launch(end);
  if (!graph) {  // recording runs the step: on a cache that is nobody's
    const at::Tensor states = states_.clone();
    int64_t most = 0;
    for (const KvCache* cache : caches_) most = std::max(most, cache->bytes());
    const at::Tensor nobody = at::zeros({most}, states_.options().dtype(at::kByte));
    const auto address = reinterpret_cast<int64_t>(nobody.mutable_data_ptr());
    const auto fill = [&](size_t offset, int64_t value) {
      states_.select(1, static_cast<int64_t>(offset / sizeof(int64_t))).fill_(value);
    };
    fill(offsetof(kernels::DecodeState, keys), address);
    fill(offsetof(kernels::DecodeState, values), address);
    graph.emplace([this, end] { launch(end); });
    states_.copy_(states);
  }
  graph->replay();
}

const at::Tensor& CudaDecoder::step(std::span<const int64_t> ids) {
  const at::NoGradGuard no_grad;
  upload(ids);
  on_device_.clear();  // what is picked from the logits is not known there
  replay(logits_graph_, End::kLogits);
  for (KvCache* cache : caches_) cache->advance(1);
  return logits_;
}

// The tokens of the last `count` steps. The step after them is launched before anybody waits, so that
// the device need not: it knows the next token. Should the stream go on with another one, nothing
// has happened: the new key lies in a slot that no other token looks into, for a cache of R recent
// tokens has R + 1.
at::Tensor CudaDecoder::take_output(int64_t count) {
  const int64_t until_end = std::min(count, kOutput - output_begin_);
  at::Tensor part = output_.narrow(1, output_begin_, until_end);
  if (until_end < count) part = at::cat({part, output_.narrow(1, 0, count - until_end)}, 1);
  const at::Tensor host = host_output_.narrow(0, 0, part.numel()).view(part.sizes());
  host.copy_(part.contiguous(), /*non_blocking=*/true);
  if (copied_) copied_->record(c10::impl::VirtualGuardImpl(at::kCUDA).getStream(part.device()));
  output_begin_ = (output_begin_ + count) % kOutput;
  replay(greedy_graph_, End::kGreedy);
  is_ahead_ = true;
  if (copied_) copied_->synchronize();
  return host.clone();
}

at::Tensor CudaDecoder::greedy(std::span<const int64_t> ids, int64_t steps) {
  const at::NoGradGuard no_grad;
  std::vector<at::Tensor> parts;
  std::vector<int64_t> next(ids.begin(), ids.end());
  for (int64_t done = 0; done < steps;) {
    const int64_t count = std::min(kOutput, steps - done);
    if (!stands_at(next)) upload(next);
    for (int64_t i = is_ahead_ ? 1 : 0; i < count; ++i) replay(greedy_graph_, End::kGreedy);
    for (KvCache* cache : caches_) cache->advance(count);
    on_device_.clear();
    parts.push_back(take_output(count));
    require_finite(parts.back());
    for (size_t n = 0; n < next.size(); ++n) {
      next[n] = parts.back()[static_cast<int64_t>(n)][count - 1].item<int64_t>();
      on_device_.emplace_back(caches_[n]->position(), next[n]);
    }
    done += count;
  }
  return at::cat(parts, 1);
}

}  // namespace basin
