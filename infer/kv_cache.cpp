#include "infer/kv_cache.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>
#include <c10/core/InferenceMode.h>
#include <c10/util/Exception.h>
#include <fmt/core.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>

#include "configs/progress.h"
#include "model/alibi.h"
#include "model/flash_attention.h"
#include "model/kernels/kernels.h"
#include "model/rope.h"

namespace basin {
namespace {

// (heads, K) or (T, heads, K) and so on: the query's heads grouped by the key head that they read.
at::Tensor grouped(const at::Tensor& q_THK, int64_t groups) {
  const int64_t T = q_THK.size(0), H = q_THK.size(1), K = q_THK.size(2);
  return q_THK.view({T, groups, H / groups, K}).permute({1, 2, 0, 3});  // (G, H / G, T, K)
}

}  // namespace

int64_t chunk_tokens(at::Device device) {
  return device.is_cuda() ? 16384 : 1024;
}

KvCache::KvCache(const Transformer& model, const CacheShape& shape, int64_t origin)
    : model_(model), shape_(shape), origin_(origin), ring_size_(shape.recent + 1) {
  TORCH_CHECK(shape.sinks >= 0 && shape.recent >= 1,
              "a cache needs sinks >= 0 and recent >= 1, got ",
              shape.sinks,
              " + ",
              shape.recent);
  model.config().require_window(shape.entries() + 1);
  const c10::InferenceMode ordinary(
      false);  // buffers that may be written in and outside of inference mode
  const ops::HeadShape heads = model.head_shape();
  const int64_t slots = shape.sinks + ring_size_, G = heads.kv_heads;
  extra_ = model.config().sink.in_denominator() ? 1 : 0;
  compute_ = model.dtype() == at::kDouble ? at::kDouble : at::kFloat;
  const at::TensorOptions options = at::TensorOptions().device(model.device()).dtype(model.dtype());
  try {
    keys_ = at::zeros({model.config().num_hidden_layers, G, slots, heads.head_size}, options);
    values_ = at::zeros_like(keys_);
    scores_ = at::empty({G, heads.heads / G, extra_ + slots}, options.dtype(compute_));
    if (model.dtype() != compute_)
      wide_ = at::empty({2, G, slots, heads.head_size}, options.dtype(compute_));
  } catch (const c10::Error&) {
    const double bytes = 2.0 * static_cast<double>(model.config().num_hidden_layers * G * heads.head_size) *
                         static_cast<double>(slots) * static_cast<double>(options.dtype().itemsize());
    throw std::runtime_error(
        fmt::format("--cache {}: the keys and values of so many entries take {}, and there is no room: "
                    "take a smaller cache",
                    shape.entries(),
                    format_bytes(bytes)));
  }
  if (model.config().uses_alibi()) {
    const ops::Alibi alibi = make_alibi(model.config(), shape.entries() + 1, model.device());
    alibi_ = alibi.table;
    slopes_ = alibi.slopes;
  }
}

int64_t KvCache::bytes() const {
  return static_cast<int64_t>(keys_.nbytes() + values_.nbytes());
}

std::vector<int64_t> KvCache::contents() const {
  std::vector<int64_t> held;
  for (int64_t p = 0; p < std::min(shape_.sinks, position_); ++p) held.push_back(p);
  for (int64_t p = std::max(shape_.sinks, position_ - shape_.recent); p < position_; ++p)
    held.push_back(p);
  return held;
}

int64_t KvCache::ring_slot(int64_t position) const {
  return (position - shape_.sinks) % ring_size_;
}

KvCache::Slots KvCache::next_slots() const {
  const int64_t S = shape_.sinks, t = position_;
  if (t < S) return {t + 1, 0, t};
  return {S, std::min(ring_size_, t - S + 1), S + ring_slot(t)};
}

int64_t KvCache::cache_position(int64_t slot) const {
  if (slot < shape_.sinks) return slot;
  const int64_t age = (ring_slot(position_) + ring_size_ - (slot - shape_.sinks)) % ring_size_;
  return query_position() - age;
}

LayerAttention KvCache::attention() {
  return [this](int64_t layer, const at::Tensor& qkv) { return attend(layer, qkv); };
}

at::Tensor KvCache::attend(int64_t layer, const at::Tensor& qkv) {
  TORCH_CHECK(qkv.dim() == 3 && qkv.size(0) == 1 && qkv.size(1) >= 1,
              "a cache streams one sequence: expected qkv (1, T, (H + 2G) K), got ",
              qkv.sizes());
  const at::NoGradGuard no_grad;
  const bool biased = alibi_.defined();  // the plain way where no fused kernel takes that
  if ((!biased || slopes_.defined()) && ops::takes_cpu_kernel(qkv))
    return attend_fused(layer, qkv.contiguous());
  if (!biased && qkv.size(1) > 1 && ops::takes_flash_attention(qkv, model_.head_shape().head_size))
    return attend_windowed(layer, qkv);
  const Plan& p = plan(qkv.size(1));
  if (p.tokens > 1 && p.blocks.empty()) plan_blocks(plan_);
  const Rotated x = rotate(p, qkv);
  const at::Tensor out_THK = p.tokens == 1 ? attend_one(layer, x) : attend_chunk(layer, p, x);
  return out_THK.view({1, p.tokens, -1}).to(qkv.scalar_type());
}

at::Tensor KvCache::attend_fused(int64_t layer, const at::Tensor& qkv) {
  const Plan& p = plan(qkv.size(1));
  const ops::HeadShape heads = model_.head_shape();
  const at::Tensor logit = model_.sink_logit(layer),
                   wide_logit = logit.defined() ? logit.to(at::kFloat).contiguous() : logit;
  at::Tensor out = at::empty({1, p.tokens, heads.heads * heads.head_size}, qkv.options());
  const auto row_of = [&](const at::Tensor& table, int64_t which) {
    return table.defined() ? table.select(0, which).const_data_ptr<float>() : nullptr;
  };
  const auto run = [&](auto element) {
    using Float = decltype(element);
    kernels::attention_stream<Float>(
        {p.tokens,
         heads.heads,
         heads.kv_heads,
         heads.head_size,
         p.rotary.cos.defined() ? 2 * p.rotary.cos.size(-1) : 0,
         position_,
         shape_.sinks,
         shape_.recent,
         static_cast<const Float*>(qkv.const_data_ptr()),
         row_of(p.rotary.cos, 0),
         row_of(p.rotary.sin, 0),
         row_of(p.rotary.cos, p.rotations - 1),
         row_of(p.rotary.sin, p.rotations - 1),
         wide_logit.defined() ? wide_logit.const_data_ptr<float>() : nullptr,
         slopes_.defined() ? slopes_.const_data_ptr<float>() : nullptr,
         static_cast<Float*>(keys(layer)),
         static_cast<Float*>(values(layer)),
         static_cast<Float*>(out.mutable_data_ptr())});
  };
  qkv.scalar_type() == at::kFloat ? run(float{}) : run(kernels::Bf16{});
  return out;
}

KvCache::Rotated KvCache::rotate(const Plan& p, const at::Tensor& qkv) const {
  const ops::HeadShape heads = model_.head_shape();
  const int64_t H = heads.heads, G = heads.kv_heads, K = heads.head_size, T = p.tokens;
  const at::Tensor x_THK = qkv.view({T, H + 2 * G, K});
  // Both rotations in one go: row 0 for the ring, row 1 for the sinks.
  const at::Tensor qk =
      x_THK.narrow(1, 0, H + G).to(compute_).unsqueeze(0).expand({p.rotations, T, H + G, K});
  const at::Tensor rotated = apply_rotary(qk, p.rotary);
  const at::Tensor q = rotated.narrow(2, 0, H) * (1 / std::sqrt(static_cast<double>(K)));
  Rotated r;
  r.q_ring = q[0];
  r.q_sink = q[p.rotations - 1];
  r.k = rotated[0].narrow(1, H, G);
  // A sink's key is rotated at its true position, 0..S-1, whatever the origin of the ring.
  if (const int64_t new_sinks = std::clamp<int64_t>(shape_.sinks - p.position, 0, T); new_sinks > 0)
    r.k = at::cat({rotated[1].narrow(1, H, G).narrow(0, 0, new_sinks),
                   r.k.narrow(0, new_sinks, T - new_sinks)});
  r.k = r.k.to(keys_.scalar_type());
  r.v = x_THK.narrow(1, H + G, G);
  return r;
}

// Keys (which 0) or values (which 1) of one layer in the dtype of the computation.
at::Tensor KvCache::widened(int64_t which, const at::Tensor& slots, int64_t used) {
  if (!wide_.defined()) return slots.narrow(1, 0, used);
  return wide_.select(0, which).narrow(1, 0, used).copy_(slots.narrow(1, 0, used));
}

// O(S + R): the new key goes to its slot, then two products give the scores of sinks and ring side
// by side.
at::Tensor KvCache::attend_one(int64_t layer, const Rotated& x) {
  const int64_t E = extra_, G = keys_.size(1);
  const at::Tensor keys = keys_.select(0, layer), values = values_.select(0, layer);
  const auto [sinks, ring, slot] = next_slots();
  const int64_t used = sinks + ring;
  keys.select(1, slot).copy_(x.k.select(0, 0));
  values.select(1, slot).copy_(x.v.select(0, 0));

  const at::Tensor k = widened(0, keys, used), v = widened(1, values, used);
  const auto score = [&](const at::Tensor& q, int64_t first, int64_t n) {
    if (n == 0) return;
    at::Tensor out = scores_.narrow(2, E + first, n);
    at::bmm_out(out, q.view({G, -1, q.size(2)}), k.narrow(1, first, n).transpose(1, 2));
  };
  score(x.q_sink, 0, sinks);
  score(x.q_ring, sinks, ring);
  if (plan_.alibi.defined()) scores_.narrow(2, E, used).add_(plan_.alibi);
  if (E == 1) scores_.select(2, 0).copy_(model_.sink_logit(layer).view({G, -1}));
  const at::Tensor weights = at::softmax(scores_.narrow(2, 0, E + used), -1);
  return at::bmm(weights.narrow(2, E, used), v);  // (G, H / G, K)
}

// Keys or values of the recent entries that the chunk can see, in the order of the text, then the
// chunk's own: (G, n, K).
at::Tensor KvCache::band(const Plan& p,
                         const at::Tensor& slots,
                         const at::Tensor& chunk_TGK) const {
  std::vector<at::Tensor> parts;
  for (int64_t at = p.band_begin; at < p.position;) {
    const int64_t slot = ring_slot(at), n = std::min(p.position - at, ring_size_ - slot);
    parts.push_back(slots.narrow(1, shape_.sinks + slot, n));
    at += n;
  }
  const int64_t skip =
      std::clamp<int64_t>(shape_.sinks - p.position, 0, p.tokens);  // they are sinks
  parts.push_back(chunk_TGK.narrow(0, skip, p.tokens - skip).transpose(0, 1));
  return at::cat(parts, 1);
}

// Sinks to their slots, the newest R + 1 others to the ring.
void KvCache::store(const Plan& p, at::Tensor slots, const at::Tensor& chunk_TGK) const {
  const at::Tensor chunk = chunk_TGK.transpose(0, 1);
  const int64_t end = p.position + p.tokens, sinks_end = std::min(shape_.sinks, end);
  if (p.position < sinks_end)
    slots.narrow(1, p.position, sinks_end - p.position)
        .copy_(chunk.narrow(1, 0, sinks_end - p.position));
  for (int64_t at = std::max({p.position, shape_.sinks, end - ring_size_}); at < end;) {
    const int64_t slot = ring_slot(at), n = std::min(end - at, ring_size_ - slot);
    slots.narrow(1, shape_.sinks + slot, n).copy_(chunk.narrow(1, at - p.position, n));
    at += n;
  }
}

at::Tensor KvCache::attend_chunk(int64_t layer, const Plan& p, const Rotated& x) {
  const int64_t S = p.visible_sinks, E = extra_, G = keys_.size(1), H = x.q_ring.size(1),
                K = x.q_ring.size(2);
  at::Tensor keys = keys_.select(0, layer), values = values_.select(0, layer);
  const at::Tensor k_band = band(p, keys, x.k).to(compute_),
                   v_band = band(p, values, x.v).to(compute_);
  store(p, keys, x.k);
  store(p, values, x.v);
  const at::Tensor k_sink = keys.narrow(1, 0, S).to(compute_),
                   v_sink = values.narrow(1, 0, S).to(compute_);
  const at::Tensor q_ring = grouped(x.q_ring, G),
                   q_sink = S > 0 ? grouped(x.q_sink, G) : at::Tensor();
  at::Tensor out_THK = at::empty({p.tokens, H, K}, x.q_ring.options());
  for (const Block& b : p.blocks) {
    const int64_t T = b.end - b.begin, rows = H / G * T;
    at::Tensor scores = at::empty({G, rows, E + S + b.keys}, x.q_ring.options());
    const auto score = [&](const at::Tensor& q, const at::Tensor& k, int64_t column) {
      if (k.size(1) == 0) return;
      at::Tensor out = scores.narrow(2, column, k.size(1));
      at::bmm_out(out, q.narrow(2, b.begin, T).reshape({G, rows, K}), k.transpose(1, 2));
    };
    if (S > 0) score(q_sink, k_sink, E);
    score(q_ring, k_band.narrow(1, b.first, b.keys), E + S);
    if (E == 1)
      scores.view({G, H / G, T, -1})
          .select(3, 0)
          .copy_(model_.sink_logit(layer).view({G, H / G, 1}).expand({G, H / G, T}));
    scores.view({H, T, -1}).add_(b.mask.defined() ? b.mask : block_mask(p, b));
    const at::Tensor weights = at::softmax(scores, -1);
    at::Tensor out = at::bmm(weights.narrow(2, E + S, b.keys), v_band.narrow(1, b.first, b.keys));
    if (S > 0) out.baddbmm_(weights.narrow(2, E, S), v_sink);
    out_THK.narrow(0, b.begin, T)
        .view({T, G, H / G, K})
        .copy_(out.view({G, H / G, T, K}).permute({2, 0, 1, 3}));
  }
  return out_THK;
}

// One softmax over the ring's band and one over the sinks, merged: each query's denominators add
// up.
at::Tensor KvCache::attend_windowed(int64_t layer, const at::Tensor& qkv) {
  TORCH_CHECK(!alibi_.defined(), "window attention knows no ALiBi");
  const at::NoGradGuard no_grad;
  const Plan& p = plan(qkv.size(1));
  const Rotated x = rotate(p, qkv);
  const int64_t T = p.tokens, skip = std::clamp<int64_t>(shape_.sinks - p.position, 0, T);
  at::Tensor keys = keys_.select(0, layer), values = values_.select(0, layer);
  const at::Tensor k_band = band(p, keys, x.k), v_band = band(p, values, x.v);
  store(p, keys, x.k);
  store(p, values, x.v);
  at::Tensor out_THK = at::zeros(x.q_ring.sizes(), x.q_ring.options().dtype(compute_));
  at::Tensor lse_HT = at::full({x.q_ring.size(1), T},
                               -std::numeric_limits<double>::infinity(),
                               x.q_ring.options().dtype(compute_));
  if (skip < T) {
    const ops::Attended ring =
        ops::window_attention(x.q_ring.narrow(0, skip, T - skip).to(keys.scalar_type()),
                              k_band.transpose(0, 1),
                              v_band.transpose(0, 1),
                              shape_.recent);
    out_THK.narrow(0, skip, T - skip).copy_(ring.out);
    lse_HT.narrow(1, skip, T - skip).copy_(ring.lse);
  }
  if (p.visible_sinks + extra_ > 0) {
    const ops::Attended sinks = attend_sinks(layer, p, x.q_sink);
    const at::Tensor lse = at::logaddexp(lse_HT, sinks.lse);
    const auto share = [&](const at::Tensor& part) {  // (T, H, 1)
      return (part - lse).exp().t().unsqueeze(-1);
    };
    out_THK = out_THK * share(lse_HT) + sinks.out * share(sinks.lse);
  }
  return out_THK.view({1, T, -1}).to(qkv.scalar_type());
}

// The sinks that have come by each query's time, and the column that only the denominator sees.
ops::Attended KvCache::attend_sinks(int64_t layer, const Plan& p, const at::Tensor& q_sink) const {
  const int64_t S = p.visible_sinks, E = extra_, G = keys_.size(1), T = q_sink.size(0),
                H = q_sink.size(1), K = q_sink.size(2);
  const at::Tensor k = keys_.select(0, layer).narrow(1, 0, S).to(compute_),
                   v = values_.select(0, layer).narrow(1, 0, S).to(compute_);
  at::Tensor scores =
      at::matmul(grouped(q_sink, G), k.unsqueeze(1).transpose(2, 3));  // (G, H / G, T, S)
  const at::TensorOptions options = at::TensorOptions(at::kLong).device(model_.device());
  const at::Tensor t = at::arange(p.position, p.position + T, options).unsqueeze(1),
                   future = at::arange(S, options).unsqueeze(0) > t;
  scores = scores.masked_fill(future, -std::numeric_limits<double>::infinity());
  if (E == 1)
    scores = at::cat(
        {model_.sink_logit(layer).to(compute_).view({G, H / G, 1, 1}).expand({G, H / G, T, 1}),
         scores},
        -1);
  const at::Tensor weights = at::softmax(scores, -1).narrow(3, E, S);
  return {at::matmul(weights, v.unsqueeze(1)).permute({2, 0, 1, 3}).reshape({T, H, K}),
          scores.logsumexp(-1).view({H, T})};
}

}  // namespace basin
