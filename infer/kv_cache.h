// The streaming cache: S sink slots and a ring buffer of the R most recent keys and values per
// layer. One class, one semantics, for one token and for a chunk of any length: a whole document
// streamed through `attend` in chunks is exact streaming in parallel. The non-obvious rule: keys
// are rotated once, at their true position, and never moved; the query is rotated twice, at its
// true position t for the ring, where distances in the cache are true ones, and at min(t, S + R) for
// the sinks.
#pragma once

#include <ATen/core/Tensor.h>

#include <algorithm>
#include <cstdint>
#include <vector>

#include "infer/config.h"
#include "model/transformer.h"

namespace basin {

/// Tokens of a stream that best pass the layers at once: on a GPU enough to fill it.
int64_t chunk_tokens(at::Device device);

/// Batch of one stream. Query t sees key k when k <= t and (k < S or k >= t - R): a full cache and
/// itself. Memory does not grow.
class KvCache {
 public:
  /// `model` must outlive the cache, whose dtype and device are the model's. R >= 1. Throws
  /// std::invalid_argument when a full cache and a query are more than the model's own sliding
  /// window. `origin` is added to every true position before the rotation: results do not depend on it (up to
  /// rounding), which is what lets a test stand beyond position 2^22 at once.
  KvCache(const Transformer& model, const CacheShape& shape, int64_t origin = 0);

  /// The next T >= 1 tokens of the stream, as layer `layer` sees them: qkv (1, T, (H + 2G) K),
  /// unrotated -> (1, T, H K). Call it once per layer, then `advance(T)`. Softmax in fp32 (fp64 for
  /// a double model); no gradients.
  at::Tensor attend(int64_t layer, const at::Tensor& qkv);
  /// The same by way of ops::window_attention, which is how chunks go on a GPU; anywhere for tests.
  at::Tensor attend_windowed(int64_t layer, const at::Tensor& qkv);
  /// attend, to be given to Transformer::hidden_states or decode.
  LayerAttention attention();
  /// T tokens have passed all layers.
  void advance(int64_t tokens) { position_ += tokens; }
  /// Forgets the stream; memory is kept.
  void clear() { position_ = 0; }

  /// Where the next token's key and value go, and how many slots its query then reads: [0, sinks)
  /// hold sinks, [sinks, sinks + ring) the ring's entries in the order of the ring.
  struct Slots {
    int64_t sinks, ring, slot;
  };
  Slots next_slots() const;
  /// Memory of one layer, (G, slots(), K) in the model's dtype, for kernels.
  void* keys(int64_t layer) const { return layer_memory(keys_, layer); }
  void* values(int64_t layer) const { return layer_memory(values_, layer); }
  int64_t slots() const { return shape_.sinks + ring_size_; }
  /// What the rotation of the next token's query and key takes as its position in the ring.
  int64_t rotary_position() const { return position_ + origin_; }

  int64_t position() const { return position_; }  // tokens of the stream so far
  const CacheShape& shape() const { return shape_; }
  int64_t bytes() const;  // of keys and values, constant
  /// Where what `slot` holds stands in the cache, for the next token's query, which stands at
  /// query_position(): sinks first, then the recent ones in the order of the text. What ALiBi goes
  /// by.
  int64_t cache_position(int64_t slot) const;
  int64_t query_position() const { return std::min(position_, shape_.entries()); }
  /// fp64 (H, S + R + 1), biases by position in the cache; undefined without ALiBi.
  const at::Tensor& alibi() const { return alibi_; }

  /// Stream positions that the next token will see besides itself: sinks, then recent ones, oldest
  /// first.
  std::vector<int64_t> contents() const;

 private:
  // Without a view of the layer, which would be allocated.
  static void* layer_memory(const at::Tensor& all, int64_t layer) {
    return static_cast<char*>(all.mutable_data_ptr()) +
           layer * all.stride(0) * static_cast<int64_t>(all.element_size());
  }
  // Queries [begin, end) of a chunk against `keys` band entries from `first` on; both count from
  // the start of the chunk and of the band.
  struct Block {
    int64_t begin, end, first, keys;
    at::Tensor mask;  // (end - begin, E + visible sinks + keys), 0 or -inf; with ALiBi (H, ..), its
                      // biases added, and undefined where no other block shares it
  };
  // What all layers of a step share: rotary tables and, for T > 1, blocks with their masks.
  struct Plan {
    int64_t position = -1, tokens = 0, visible_sinks = 0, band_begin = 0;
    int64_t rotations =
        1;               // rows of the table: positions t (+ origin), and with sinks min(t, S + R)
    ops::Rotary rotary;  // (rotations, T, rotary / 2)
    std::vector<Block> blocks;
    at::Tensor alibi;  // (G, H / G, slots in use), for T = 1
  };
  struct Rotated {
    at::Tensor q_ring, q_sink, k,
        v;  // q (T, H, K), scaled, in the dtype of the computation; k, v (T, G, K) in the cache's
  };
  const Plan& plan(int64_t tokens);
  void plan_blocks(Plan& plan);
  at::Tensor block_mask(const Plan& plan, const Block& block) const;
  at::Tensor block_alibi(const Plan& plan, const Block& block) const;
  at::Tensor slot_alibi() const;
  at::Tensor attend_fused(int64_t layer, const at::Tensor& qkv);
  Rotated rotate(const Plan& plan, const at::Tensor& qkv) const;
  at::Tensor attend_one(int64_t layer, const Rotated& x);
  at::Tensor attend_chunk(int64_t layer, const Plan& plan, const Rotated& x);
  ops::Attended attend_sinks(int64_t layer, const Plan& plan, const at::Tensor& q_sink) const;
  at::Tensor band(const Plan& plan, const at::Tensor& slots, const at::Tensor& chunk) const;
  void store(const Plan& plan, at::Tensor slots, const at::Tensor& chunk) const;
  at::Tensor widened(int64_t which, const at::Tensor& slots, int64_t used);
  int64_t ring_slot(int64_t position) const;

  const Transformer& model_;
  CacheShape shape_;
  int64_t origin_ = 0, position_ = 0;
  int64_t ring_size_ = 0;  // R + 1: the newest key is written before its query attends
  int64_t extra_ =
      0;  // E: 1 when the softmax has a sink in its denominator, as column 0 of the scores
  at::ScalarType compute_;
  at::Tensor keys_, values_;  // (L, G, S + R + 1, K)
  at::Tensor scores_;         // (G, H / G, E + S + R + 1), for one token
  at::Tensor wide_;  // (2, G, S + R + 1, K), keys and values of one layer as fp32 when the cache is
                     // narrower
  at::Tensor full_mask_;  // of every block once the cache is full
  at::Tensor alibi_, slopes_;  // ops::Alibi
  Plan plan_;
};

}  // namespace basin
