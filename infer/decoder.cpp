#include "infer/decoder.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>
#include <fmt/core.h>
#include <omp.h>

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <string>

#include "model/kernels/kernels.h"
#include "model/rope.h"

namespace basin {
namespace {

// Weights below this are read faster than another thread is woken.
constexpr int64_t kParallelBytes = 1 << 20;

at::Tensor to_float(const at::Tensor& x) {
  return x.defined() ? x.detach().to(at::kFloat).contiguous() : x;
}
const float* data(const at::Tensor& x) {
  return x.defined() ? x.const_data_ptr<float>() : nullptr;
}

constexpr int64_t kLine = 16;  // floats in a cache line

// Floats of the whole cache lines that hold n.
int64_t whole_lines(int64_t n) {
  return (n + kLine - 1) / kLine * kLine;
}

// The worker's share of n, in whole cache lines of floats.
std::pair<int64_t, int64_t> share(int64_t index, int64_t count, int64_t n) {
  const int64_t lines = whole_lines(n) / kLine;
  return {std::min(n, lines * index / count * kLine),
          std::min(n, lines * (index + 1) / count * kLine)};
}

// All workers of the step have come this far. Nothing when there is one.
void meet() {
#pragma omp barrier
}

}  // namespace

Q8Weights quantize_q8(const at::Tensor& weight, const std::string& name) {
  const int64_t rows = weight.size(0), columns = weight.size(1);
  if (columns % kernels::kQ8Block != 0)
    throw std::invalid_argument(
        fmt::format("8-bit weights come in blocks of {}, but this model has a matrix with rows of "
                    "{}: use float32 or bfloat16",
                    kernels::kQ8Block,
                    columns));
  constexpr double kMost = 127.0 * 65504;  // fp16's largest
  const at::Tensor wide = to_float(weight.cpu());
  if (const auto largest = wide.abs().max().item<double>(); !(largest <= kMost))
    throw std::runtime_error(
        fmt::format("{}.weight holds a value of {}, which 8-bit weights cannot express ({:.3g} at "
                    "most): if the weights are not damaged, use float32 or bfloat16",
                    name,
                    largest,
                    kMost));
  Q8Weights q8{
      at::empty({rows, columns}, at::kChar),
      at::zeros({rows * columns / kernels::kQ8Block + kernels::kQ8ScalePadding}, at::kShort)};
  kernels::quantize_q8(rows * columns,
                       data(wide),
                       q8.values.mutable_data_ptr<int8_t>(),
                       static_cast<uint16_t*>(q8.scales.mutable_data_ptr()));
  return q8;
}

bool Decoder::supports(const Transformer& model) {
  return model.device().is_cpu() && (model.dtype() == at::kFloat || model.dtype() == at::kBFloat16);
}

void round_to_q8(Transformer& model) {
  const at::NoGradGuard no_grad;
  for (const Parameter& p : model.parameters()) {
    const bool only_looked_up = p.name == "embedding.weight" && !model.config().tie_word_embeddings;
    if (p.tensor.dim() != 2 || only_looked_up) continue;
    const Q8Weights q8 = quantize_q8(p.tensor, p.name.substr(0, p.name.rfind('.')));
    const int64_t blocks = p.tensor.numel() / kernels::kQ8Block;
    at::Tensor in_blocks = p.tensor.view({blocks, kernels::kQ8Block});
    in_blocks.copy_(q8.values.view_as(in_blocks).to(at::kFloat) *
                    q8.scales.narrow(0, 0, blocks).view(at::kHalf).to(at::kFloat).unsqueeze(1));
  }
}

Decoder::Decoder(const Transformer& model, DecodeWeights weights)
    : model_(model), frequencies_(rotary_frequencies(model.config())) {
  TORCH_CHECK(supports(model), "a decoder needs an fp32 or bf16 model on the CPU");
  const auto take = [&](const std::string& name) { return model.parameter(name); };
  const auto norm = [&](const std::string& name) {
    return Norm{to_float(take(name + ".weight")), to_float(take(name + ".bias"))};
  };
  const auto linear = [&](const std::string& name) { return matrix(name, weights); };
  embedding_ = take("embedding.weight");
  for (int64_t l = 0; l < model.config().num_hidden_layers; ++l) {
    const std::string at = fmt::format("layers.{}.", l);
    layers_.push_back({norm(at + "attention_norm"),
                       norm(at + "mlp_norm"),
                       linear(at + "qkv"),
                       linear(at + "attention_out"),
                       linear(at + "up"),
                       linear(at + "down"),
                       to_float(model.sink_logit(l))});
  }
  final_norm_ = norm("final_norm");
  head_ = matrix(model.config().tie_word_embeddings ? "embedding" : "head", weights);
}

kernels::WeightMatrix Decoder::matrix(const std::string& name, DecodeWeights format) {
  const at::Tensor weight = model_.parameter(name + ".weight"),
                   bias = model_.parameter(name + ".bias");
  kernels::WeightMatrix w;
  w.rows = weight.size(0);
  w.columns = weight.size(1);
  const auto own = [&](const at::Tensor& t) {
    owned_.push_back(t);
    return t.mutable_data_ptr();
  };
  if (bias.defined()) w.bias = static_cast<const float*>(own(to_float(bias)));
  if (format == DecodeWeights::kModel) {
    w.type =
        weight.scalar_type() == at::kFloat ? kernels::WeightType::kF32 : kernels::WeightType::kBf16;
    w.data = weight.const_data_ptr();
    return w;
  }
  const Q8Weights q8 = quantize_q8(weight, name);
  w.scales = static_cast<const uint16_t*>(own(q8.scales));
  w.data = own(q8.values);
  w.type = kernels::WeightType::kQ8;
  return w;
}

int64_t Decoder::weight_bytes() const {
  const auto bytes = [](const kernels::WeightMatrix& w) {
    const int64_t n = w.rows * w.columns;
    switch (w.type) {
      case kernels::WeightType::kF32:
        return 4 * n;
      case kernels::WeightType::kBf16:
        return 2 * n;
      case kernels::WeightType::kQ8:
        return n + n / kernels::kQ8Block * 2;
    }
    return int64_t{0};
  };
  int64_t sum = bytes(head_);
  for (const Layer& l : layers_) sum += bytes(l.qkv) + bytes(l.out) + bytes(l.up) + bytes(l.down);
  return sum;
}

void Decoder::make_room(int64_t streams) {
  const ModelConfig& c = model_.config();
  const int64_t threads = omp_get_max_threads(), D = c.hidden_size, HK = c.heads() * c.head_size(),
                half = static_cast<int64_t>(frequencies_.size());
  const int64_t sizes[] = {
      c.qkv_size(), HK, layers_.front().up.rows, c.intermediate_size, D, D, c.vocab_size};
  float** const places[] = {&qkv_, &attended_, &up_, &activated_, &delta_, &mlp_delta_, &logits_};
  int64_t total = 0;
  for (const int64_t n : sizes) total += whole_lines(streams * n);
  shared_ = at::empty({total}, at::kFloat);
  float* next = shared_.mutable_data_ptr<float>();
  for (size_t i = 0; i < std::size(sizes); ++i) {
    *places[i] = next;
    next += whole_lines(streams * sizes[i]);
  }
  private_ = at::empty(
      {threads,
       3 * whole_lines(streams * D) + whole_lines(2 * streams) +
           whole_lines(2 * c.head_size() + room_slots_)},
      at::kFloat);
  angles_ = at::empty({streams, 4, half}, at::kFloat);
  if (c.uses_alibi()) alibi_ = at::empty({streams, c.heads(), room_slots_}, at::kFloat);
  steps_.resize(static_cast<size_t>(streams));
  room_ = streams;
}

std::span<const float> Decoder::step(std::span<const int64_t> ids,
                                     std::span<KvCache* const> caches) {
  const ModelConfig& c = model_.config();
  TORCH_CHECK(!ids.empty() && ids.size() == caches.size(),
              "a step needs one token for each stream");
  for (const int64_t id : ids)
    TORCH_CHECK_INDEX(id >= 0 && id < c.vocab_size,
                      "token id ",
                      id,
                      " lies outside of the vocabulary of ",
                      c.vocab_size);
  streams_ = static_cast<int64_t>(ids.size());
  int64_t most_slots = room_slots_;
  for (const KvCache* cache : caches) most_slots = std::max(most_slots, cache->slots());
  if (streams_ > room_ || most_slots > room_slots_ || private_.size(0) < omp_get_max_threads()) {
    room_slots_ = most_slots;
    make_room(std::max(streams_, room_));
  }
  const ops::HeadShape heads = model_.head_shape();
  const auto half = static_cast<int64_t>(frequencies_.size());
  for (size_t n = 0; n < ids.size(); ++n) {
    const KvCache& cache = *caches[n];
    const auto [sinks, ring, slot] = cache.next_slots();
    float* angles = angles_.mutable_data_ptr<float>() + static_cast<int64_t>(n) * 4 * half;
    rotary_angles(frequencies_, cache.rotary_position(), angles, angles + half);
    rotary_angles(frequencies_,
                  std::min(cache.position(), cache.shape().entries()),
                  angles + 2 * half,
                  angles + 3 * half);
    steps_[n] = {heads.heads,
                 heads.kv_heads,
                 heads.head_size,
                 2 * half,
                 cache.slots(),
                 sinks,
                 ring,
                 slot,
                 angles,
                 angles + half,
                 angles + 2 * half,
                 angles + 3 * half,
                 nullptr,
                 place_alibi(static_cast<int64_t>(n), cache)};
  }
  if (weight_bytes() < kParallelBytes) {
    run({.index = 0, .count = 1}, ids, caches);
  } else {
#pragma omp parallel
    run({.index = omp_get_thread_num(), .count = omp_get_num_threads()}, ids, caches);
  }
  for (KvCache* cache : caches) cache->advance(1);
  return {logits_, static_cast<size_t>(streams_ * c.vocab_size)};
}

// The biases of the slots in use, (H, slots of the cache); null without ALiBi.
const float* Decoder::place_alibi(int64_t stream, const KvCache& cache) {
  if (!cache.alibi().defined()) return nullptr;
  const auto [sinks, ring, slot] = cache.next_slots();
  const int64_t H = cache.alibi().size(0), positions = cache.alibi().size(1);
  const double* table = cache.alibi().const_data_ptr<double>();
  float* to = alibi_.mutable_data_ptr<float>() + stream * H * room_slots_;
  for (int64_t s = 0; s < sinks + ring; ++s) {
    const int64_t key = cache.cache_position(s), query = cache.query_position();
    for (int64_t h = 0; h < H; ++h)
      to[h * cache.slots() + s] =
          static_cast<float>(table[h * positions + key] - table[h * positions + query]);
  }
  return to;
}

// What one of the step's threads does: its rows of every product, its heads of every attention. The
// residual stream and the norms are short, so that each thread has them for itself.
void Decoder::run(const Worker& place,
                  std::span<const int64_t> ids,
                  std::span<KvCache* const> caches) {
  const bool parallel = model_.config().parallel_residual(),
             two_norms = model_.config().has_mlp_norm();
  const int64_t size = whole_lines(room_ * model_.config().hidden_size);
  Worker w = place;
  w.h = private_.mutable_data_ptr<float>() + place.index * private_.size(1);
  w.normed = w.h + size;
  w.mlp_normed = w.normed + size;
  w.stats = w.mlp_normed + size;
  w.scratch = w.stats + whole_lines(2 * room_);

  embed(w, ids);
  const float* delta = nullptr;  // what the block before adds to the residual stream
  for (int64_t l = 0; l < model_.config().num_hidden_layers; ++l) {
    const Layer& layer = layers_[static_cast<size_t>(l)];
    normalize(w, layer.attention_norm, delta, w.normed);
    product(w, layer.qkv, w.normed, qkv_);
    if (parallel) {
      if (two_norms) normalize(w, layer.mlp_norm, nullptr, w.mlp_normed);
      up(w, layer, two_norms ? w.mlp_normed : w.normed);
    }
    meet();
    attend(w, l, caches);
    meet();
    product(w, layer.out, attended_, delta_);
    if (!parallel) {
      meet();
      normalize(w, layer.mlp_norm, delta_, w.normed);
      up(w, layer, w.normed);
      meet();
    }
    product(w, layer.down, activated_, mlp_delta_);
    if (parallel) {
      const int64_t D = model_.config().hidden_size;
      const auto [begin, end] = share(w.index, w.count, D);
      for (int64_t n = 0; n < streams_; ++n)
        for (int64_t i = begin; i < end; ++i) mlp_delta_[n * D + i] += delta_[n * D + i];
    }
    meet();
    delta = mlp_delta_;
  }
  normalize(w, final_norm_, delta, w.normed);
  product(w, head_, w.normed, logits_);
}

void Decoder::embed(const Worker& w, std::span<const int64_t> ids) const {
  const int64_t D = model_.config().hidden_size;
  for (size_t n = 0; n < ids.size(); ++n) {
    float* to = w.h + static_cast<int64_t>(n) * D;
    if (embedding_.scalar_type() == at::kFloat) {
      std::memcpy(to,
                  embedding_.const_data_ptr<float>() + ids[n] * D,
                  static_cast<size_t>(D) * sizeof(float));
    } else {
      const at::BFloat16* from = embedding_.const_data_ptr<at::BFloat16>() + ids[n] * D;
      std::copy(from, from + D, to);
    }
  }
}

// h += delta (N, D), unless null; y = norm(h).
void Decoder::normalize(const Worker& w, const Norm& norm, const float* delta, float* y) const {
  kernels::norm_forward<float>(streams_,
                               model_.config().hidden_size,
                               model_.config().rms_norm(),
                               static_cast<float>(model_.config().norm_eps),
                               w.h,
                               delta,
                               data(norm.weight),
                               data(norm.bias),
                               delta ? w.h : nullptr,
                               y,
                               w.stats);
}

void Decoder::product(const Worker& w,
                      const kernels::WeightMatrix& matrix,
                      const float* x,
                      float* y) const {
  const auto [begin, end] = share(w.index, w.count, matrix.rows);
  kernels::matvec(matrix, begin, end, streams_, x, y);
}

// The MLP's first product and its activation.
void Decoder::up(const Worker& w, const Layer& layer, const float* x) {
  const int64_t F = model_.config().intermediate_size, rows = layer.up.rows;
  const auto [begin, end] = share(w.index, w.count, F);
  kernels::matvec(layer.up, begin, end, streams_, x, up_);
  if (rows == F) {
    for (int64_t n = 0; n < streams_; ++n)
      kernels::gelu_elements(end - begin, up_ + n * F + begin, activated_ + n * F + begin);
    return;
  }
  kernels::matvec(layer.up, F + begin, F + end, streams_, x, up_);
  for (int64_t n = 0; n < streams_; ++n)
    kernels::swiglu_elements(end - begin,
                             up_ + n * rows + begin,
                             up_ + n * rows + F + begin,
                             activated_ + n * F + begin);
}

void Decoder::attend(const Worker& w, int64_t layer, std::span<KvCache* const> caches) {
  const ops::HeadShape heads = model_.head_shape();
  const int64_t G = heads.kv_heads, qkv = model_.config().qkv_size(),
                HK = heads.heads * heads.head_size;
  for (int64_t item = w.index; item < streams_ * G; item += w.count) {
    const int64_t n = item / G;
    const KvCache& cache = *caches[static_cast<size_t>(n)];
    kernels::StreamStep step = steps_[static_cast<size_t>(n)];
    step.sink_logit = data(layers_[static_cast<size_t>(layer)].sink_logit);
    const auto run = [&](auto element) {
      using Float = decltype(element);
      kernels::stream_attention<Float>(step,
                                       item % G,
                                       {qkv_ + n * qkv,
                                        static_cast<Float*>(cache.keys(layer)),
                                        static_cast<Float*>(cache.values(layer)),
                                        w.scratch,
                                        attended_ + n * HK});
    };
    model_.dtype() == at::kFloat ? run(float{}) : run(kernels::Bf16{});
  }
}

}  // namespace basin
