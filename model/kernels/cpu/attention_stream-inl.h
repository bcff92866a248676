// Streaming attention of a chunk of tokens, one work item: as attention_forward-inl.h, with a
// window in place of the causal triangle, keys that come from the ring and from the chunk, and the
// sinks' keys in front, which meet queries rotated for them.
#if defined(BASIN_ATTENTION_STREAM_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef BASIN_ATTENTION_STREAM_INL_H_
#undef BASIN_ATTENTION_STREAM_INL_H_
#else
#define BASIN_ATTENTION_STREAM_INL_H_
#endif

#include "model/kernels/cpu/attention_forward-inl.h"

namespace basin::kernels::HWY_NAMESPACE {
namespace {

/// Where a chunk's tokens and the band of keys that they see lie. Keys of the band are counted from
/// token `begin`, the oldest that the first query sees.
template <class Float>
struct Band {
  explicit Band(const StreamChunk<Float>& c)
      : begin(std::max(c.sinks, c.position - c.recent)),
        old(std::max<int64_t>(0, c.position - begin)),
        skip(std::clamp<int64_t>(c.sinks - c.position, 0, c.T)),
        keys(old + c.T - skip),
        slots(c.sinks + c.recent + 1) {}

  int64_t slot(const StreamChunk<Float>& c, int64_t token) const {
    return token < c.sinks ? token : c.sinks + (token - c.sinks) % (c.recent + 1);
  }

  int64_t begin;
  int64_t old;    // keys in the ring
  int64_t skip;   // tokens of the chunk that are sinks
  int64_t keys;   // of the ring and of the chunk
  int64_t slots;  // of the cache
};

template <class Policy, class Float>
class StreamForward {
 public:
  StreamForward(const StreamChunk<Float>& chunk, const WorkItem& item)
      : c_(chunk),
        item_(item),
        shape_{1, chunk.T, chunk.H, chunk.G, chunk.K, chunk.rotary},
        band_(chunk),
        lay_(shape_),
        sinks_(std::min(chunk.sinks, chunk.position + chunk.T)),
        keys_(key_scratch(lay_, padded(band_.keys), Buffer::kKeyRows)),
        values_(key_scratch(lay_, padded(band_.keys), Buffer::kValuePairs)),
        sink_keys_(key_scratch(lay_, padded(sinks_), Buffer::kSinkKeyRows)),
        sink_values_(key_scratch(lay_, padded(sinks_), Buffer::kSinkValuePairs)),
        tile_(lay_) {}

  void run() {
    const int64_t group = c_.H / c_.G, g = item_.g;
    const auto cached = [&](const Float* memory, int64_t token) HWY_ATTR {
      return memory + (g * band_.slots + band_.slot(c_, token)) * c_.K;
    };
    const auto pack =
        [&](const Float* memory, int64_t head, int64_t half, float* by_key, float* by_pair)
            HWY_ATTR {
              const Head<const Float> fresh = head_of(c_.qkv, 0, head, c_.H + 2 * c_.G, shape_);
              const Transform stored{c_.cos_ring, c_.sin_ring, 0, 1.0f, 1.0f},
                  rotate{c_.cos_ring, c_.sin_ring, half, 1.0f, 1.0f};
              const auto copy = [&](int64_t key, float* to) HWY_ATTR {
                const int64_t t = key - band_.old + band_.skip;  // in the chunk
                if (key < band_.old) {
                  transform_row(stored, 0, cached(memory, band_.begin + key), to, c_.K);
                } else {
                  transform_row(rotate, t, fresh.at(t), to, c_.K);
                }
              };
              pack_rows(lay_, band_.keys, padded(band_.keys), copy, by_key, by_pair);
            };
    const auto pack_sinks = [&](const Float* memory, float* by_key, float* by_pair) HWY_ATTR {
      const Transform stored{c_.cos_ring, c_.sin_ring, 0, 1.0f, 1.0f};
      const auto copy = [&](int64_t key, float* to)
                            HWY_ATTR { transform_row(stored, 0, cached(memory, key), to, c_.K); };
      pack_rows(lay_, sinks_, padded(sinks_), copy, by_key, by_pair);
    };
    pack(c_.keys, c_.H + g, lay_.half, keys_, nullptr);
    pack(c_.values, c_.H + c_.G + g, 0, nullptr, values_);
    if (sinks_ > 0) {
      pack_sinks(c_.keys, sink_keys_, nullptr);
      pack_sinks(c_.values, nullptr, sink_values_);
    }
    for (int64_t h = g * group; h < (g + 1) * group; ++h)
      for (int64_t block = item_.part; block < lay_.blocks; block += item_.parts) attend(h, block);
  }

 private:
  static int64_t padded(int64_t keys) { return round_up(keys, kKeys); }

  void attend(int64_t h, int64_t block) {
    const float scale = kLog2E / std::sqrt(static_cast<float>(c_.K));
    const Head<const Float> queries = head_of(c_.qkv, 0, h, c_.H + 2 * c_.G, shape_);
    float* rows = scratch(Buffer::kRows, kQueries * lay_.row);
    const int64_t first = lay_.first_query(block), newest = c_.position + first - band_.begin;
    tile_.begin(c_.sink_logit ? c_.sink_logit + h : nullptr, c_.slopes ? c_.slopes[h] : 0);
    if (sinks_ > 0) {
      load_queries(
          lay_, Transform{c_.cos_sink, c_.sin_sink, lay_.half, 1.0f, scale}, queries, block, rows);
      tile_.load(rows);
      visit(sink_keys_,
            sink_values_,
            0,
            round_up(sinks_, kRows),
            {.newest = c_.position + first, .end = sinks_, .last = c_.sinks + c_.recent});
    }
    load_queries(
        lay_, Transform{c_.cos_ring, c_.sin_ring, lay_.half, 1.0f, scale}, queries, block, rows);
    tile_.load(rows);
    visit(keys_,
          values_,
          std::max<int64_t>(0, newest - c_.recent) / kRows * kRows,
          round_up(newest + kQueries, kRows),
          {.newest = newest, .oldest = newest - c_.recent});
    alignas(64) float lse[kQueries];
    tile_.finish(rows, lse);
    const Head<Float> out = head_of(c_.out, 0, h, c_.H, shape_);
    for (int64_t i = std::max<int64_t>(0, -first); i < kQueries; ++i)
      transform_row(Transform{c_.cos_ring, c_.sin_ring, 0, 1.0f, 1.0f},
                    first + i,
                    rows + i * lay_.row,
                    out.at(first + i),
                    lay_.K);
  }

  void visit(
      const float* keys, const float* values, int64_t from, int64_t to, const Visible& visible) {
    for (int64_t key = from; key < to; key += kKeys)
      tile_.visit(keys, values, key, std::min(kKeys, to - key), visible);
  }

  const StreamChunk<Float>& c_;
  const WorkItem& item_;
  const AttentionShape shape_;
  const Band<Float> band_;
  const Layout<Policy> lay_;
  const int64_t sinks_;    // that have come by the end of the chunk
  float *keys_, *values_;  // of the band: (keys, words); (keys / kPair, k_rows)
  float *sink_keys_, *sink_values_;
  ForwardTile<Policy> tile_;
};

/// Keys and values of tokens [begin, end) of the chunk to their slots, head g.
template <class Float>
void store_tokens(const StreamChunk<Float>& c, int64_t g, int64_t begin, int64_t end) {
  const Band<Float> band(c);
  const AttentionShape shape{1, c.T, c.H, c.G, c.K, c.rotary};
  const Head<const Float> k = head_of(c.qkv, 0, c.H + g, c.H + 2 * c.G, shape),
                          v = head_of(c.qkv, 0, c.H + c.G + g, c.H + 2 * c.G, shape);
  for (int64_t t = begin; t < end; ++t) {
    const int64_t token = c.position + t, at = (g * band.slots + band.slot(c, token)) * c.K;
    const bool sink = token < c.sinks;
    transform_row(Transform{sink ? c.cos_sink : c.cos_ring,
                            sink ? c.sin_sink : c.sin_ring,
                            c.rotary / 2,
                            1.0f,
                            1.0f},
                  t,
                  k.at(t),
                  c.keys + at,
                  c.K);
    transform_row(Transform{c.cos_ring, c.sin_ring, 0, 1.0f, 1.0f}, t, v.at(t), c.values + at, c.K);
  }
}

}  // namespace
}  // namespace basin::kernels::HWY_NAMESPACE
#endif
