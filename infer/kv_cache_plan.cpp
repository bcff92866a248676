// What all layers of a step share: rotary tables, blocks of queries with their masks, and biases of
// ALiBi. All of it depends on positions alone, never on keys or values.
#include <ATen/ATen.h>

#include <algorithm>
#include <limits>
#include <utility>
#include <vector>

#include "infer/kv_cache.h"
#include "model/rope.h"

namespace basin {
namespace {

// Queries of a chunk are taken in blocks of this many against their band only: wide enough for good
// matrix products, narrow enough that few of the R + kBlock keys of a band are masked.
constexpr int64_t kBlock = 128;

}  // namespace

const KvCache::Plan& KvCache::plan(int64_t tokens) {
  if (plan_.position == position_ && plan_.tokens == tokens) return plan_;
  Plan next;
  next.position = position_;
  next.tokens = tokens;
  next.visible_sinks = std::min(shape_.sinks, position_ + tokens);
  next.band_begin = std::max(shape_.sinks, position_ - shape_.recent);
  const at::Tensor t = at::arange(
      position_, position_ + tokens, at::TensorOptions(at::kLong).device(model_.device()));
  next.rotations = shape_.sinks > 0 ? 2 : 1;
  next.rotary = rotary_table(
      model_.config(),
      next.rotations == 2 ? at::cat({t + origin_, t.clamp_max(shape_.entries())}) : t + origin_);
  if (next.rotary.cos.defined())
    next.rotary = {next.rotary.cos.view({next.rotations, tokens, -1}),
                   next.rotary.sin.view({next.rotations, tokens, -1})};
  if (alibi_.defined() && tokens == 1) next.alibi = slot_alibi();
  plan_ = std::move(next);
  return plan_;
}

// A mask depends on where a block lies relative to its band, to the sinks and to the start of the
// stream: the same for all blocks once the cache is full, so that it is made once.
void KvCache::plan_blocks(Plan& p) {
  const auto is_full = [&](const Block& b) {
    return b.begin + p.position >= shape_.sinks + shape_.recent && b.end - b.begin == kBlock;
  };
  for (int64_t begin = 0; begin < p.tokens; begin += kBlock) {
    Block b{begin, std::min(begin + kBlock, p.tokens), 0, 0, {}};
    const int64_t from = std::max(p.band_begin, p.position + begin - shape_.recent);
    b.first = from - p.band_begin;
    b.keys = std::max<int64_t>(0, p.position + b.end - from);
    // Masks of heads are large: only the one that blocks share is kept.
    if (is_full(b) && full_mask_.defined())
      b.mask = full_mask_;
    else if (is_full(b) || !alibi_.defined())
      b.mask = block_mask(p, b);
    if (is_full(b)) full_mask_ = b.mask;
    p.blocks.push_back(std::move(b));
  }
}

at::Tensor KvCache::block_mask(const Plan& p, const Block& b) const {
  const at::TensorOptions options = at::TensorOptions(at::kLong).device(model_.device());
  const at::Tensor t = at::arange(p.position + b.begin, p.position + b.end, options).unsqueeze(1);
  const at::Tensor sink = at::arange(p.visible_sinks, options).unsqueeze(0);
  const at::Tensor recent = at::arange(b.keys, options).add(p.band_begin + b.first).unsqueeze(0);
  const at::Tensor seen =
      at::cat({sink <= t, (recent <= t).logical_and(recent >= t - shape_.recent)}, 1);
  at::Tensor mask = at::zeros({b.end - b.begin, extra_ + seen.size(1)}, options.dtype(compute_));
  mask.narrow(1, extra_, seen.size(1))
      .masked_fill_(seen.logical_not(), -std::numeric_limits<double>::infinity());
  return alibi_.defined() ? mask + block_alibi(p, b) : mask;
}

// Biases of a block's scores, (H, T, E + S + keys), by positions in the cache: a query stands at
// min(t, S + R), a sink at its own place, a recent entry as far before the query as in the text.
at::Tensor KvCache::block_alibi(const Plan& p, const Block& b) const {
  const at::TensorOptions options = at::TensorOptions(at::kLong).device(model_.device());
  const int64_t T = b.end - b.begin, H = alibi_.size(0);
  const at::Tensor t = at::arange(p.position + b.begin, p.position + b.end, options),
                   query = t.clamp_max(shape_.entries());
  const at::Tensor sink = at::arange(p.visible_sinks, options).expand({T, p.visible_sinks}),
                   recent = at::arange(b.keys, options).add(p.band_begin + b.first).unsqueeze(0) +
                            (query - t).unsqueeze(1);
  const at::Tensor key = at::cat({sink, recent}, 1).clamp(0, shape_.entries());  // unseen: masked
  const at::Tensor bias = alibi_.index_select(1, key.flatten()).view({H, T, -1}) -
                          alibi_.index_select(1, query).unsqueeze(2);
  return at::constant_pad_nd(bias.to(compute_), {extra_, 0});
}

// The same for one token, over the slots in use.
at::Tensor KvCache::slot_alibi() const {
  const auto [sinks, ring, slot] = next_slots();
  std::vector<int64_t> key;
  for (int64_t s = 0; s < sinks + ring; ++s) key.push_back(cache_position(s));
  const at::Tensor bias = alibi_.index_select(1, at::tensor(key, at::kLong).to(alibi_.device())) -
                          alibi_.select(1, query_position()).unsqueeze(1);
  const int64_t G = keys_.size(1);
  return bias.to(compute_).view({G, alibi_.size(0) / G, -1});
}

}  // namespace basin
