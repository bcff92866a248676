// Backward attention of one work item. Tiles as in the forward pass (scores transposed, queries
// across the lanes); P is computed again from the log-sum-exp L, so with D = rowsum(dO * O):
// dS = P * (dO.V^T - D), dV += P^T.dO, dK += dS^T.Q, dQ += dS.K (arXiv 2205.14135, algorithm 4).
// A sink logit changes none of this, because L and O contain it; its own gradient is
// -sum exp(sink - L) D.
#if defined(BASIN_ATTENTION_BACKWARD_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef BASIN_ATTENTION_BACKWARD_INL_H_
#undef BASIN_ATTENTION_BACKWARD_INL_H_
#else
#define BASIN_ATTENTION_BACKWARD_INL_H_
#endif

#include "model/kernels/cpu/attention_pack-inl.h"

namespace basin::kernels::HWY_NAMESPACE {
namespace {

template <class Policy, class Float>
class Backward {
 public:
  Backward(const BackwardCall<Float>& call, const WorkItem& item)
      : call_(call),
        item_(item),
        lay_(call.shape),
        key_rows_(key_scratch(lay_, Buffer::kKeyRows)),
        key_pairs_(key_scratch(lay_, Buffer::kKeyPairs)),
        value_rows_(key_scratch(lay_, Buffer::kValueRows)),
        queries_by_word_(scratch(Buffer::kQueryByWord, lay_.blocks * lay_.by_word())),
        queries_by_row_(scratch(Buffer::kQueryByRow, lay_.blocks * lay_.by_row())),
        dout_by_word_(scratch(Buffer::kDoutByWord, lay_.blocks * lay_.by_word())),
        dout_by_row_(scratch(Buffer::kDoutByRow, lay_.blocks * lay_.by_row())),
        minus_lse_(scratch(Buffer::kStatistics, 2 * lay_.blocks * kQueries)),
        minus_delta_(minus_lse_ + lay_.blocks * kQueries),
        p_(scratch(Buffer::kScores, kRows * kQueries)),
        p_rows_(scratch(Buffer::kProbabilityRows, kRows * kQueries)),
        ds_rows_(scratch(Buffer::kGradientRows, kRows * kQueries)),
        ds_pairs_(scratch(Buffer::kPairs, kKeys * kQueries)),
        dquery_(scratch(Buffer::kTile, lay_.blocks * lay_.k_rows * kQueries)),
        dkey_(scratch(Buffer::kKeyGradient, lay_.keys * lay_.k_stride)),
        dvalue_(scratch(Buffer::kValueGradient, lay_.keys * lay_.k_stride)) {}

  void run() {
    const AttentionShape& s = call_.shape;
    const int64_t heads = s.H + 2 * s.G, group = s.H / s.G;
    pack_keys(lay_,
              transform(lay_.half, 1.0f),
              head_of(call_.qkv, item_.b, s.H + item_.g, heads, s),
              key_rows_,
              key_pairs_);
    pack_keys(lay_,
              transform(0, 1.0f),
              head_of(call_.qkv, item_.b, s.H + s.G + item_.g, heads, s),
              value_rows_,
              nullptr);
    std::fill(dkey_, dkey_ + lay_.keys * lay_.k_stride, 0.0f);
    std::fill(dvalue_, dvalue_ + lay_.keys * lay_.k_stride, 0.0f);
    for (int64_t h = item_.g * group; h < (item_.g + 1) * group; ++h) {
      slope_ = call_.slopes ? call_.slopes[h] * kLog2E : 0;
      pack_head(h);
      std::fill(dquery_, dquery_ + lay_.blocks * lay_.k_rows * kQueries, 0.0f);
      for (int64_t key = item_.part * kKeys; key < s.T; key += item_.parts * kKeys)
        for (int64_t block = (key + lay_.pad) / kQueries; block < lay_.blocks; ++block)
          tile(key, block);
      write_dquery(h);
    }
    write_dkeys();
  }

 private:
  const Floats d;

  float scale() const { return 1.0f / std::sqrt(static_cast<float>(lay_.K)); }
  Transform transform(int64_t half, float factor, float sign = 1.0f) const {
    return {call_.cos, call_.sin, half, sign, factor};
  }

  /// Packs queries and output gradients of head h and computes -L (in units of log 2) and -D per
  /// query, 0 before query 0.
  void pack_head(int64_t h) {
    const AttentionShape& s = call_.shape;
    const auto query = head_of(call_.qkv, item_.b, h, s.H + 2 * s.G, s),
               dout = head_of(call_.dout, item_.b, h, s.H, s),
               out = head_of(call_.out, item_.b, h, s.H, s);
    float* rows = scratch(Buffer::kRows, kQueries * lay_.row);
    const float* lse = call_.lse + (item_.b * s.H + h) * s.T;
    double dsink = 0;
    for (int64_t block = 0; block < lay_.blocks; ++block) {
      load_queries(lay_, transform(lay_.half, scale() * kLog2E), query, block, rows);
      pack_by_word(lay_, rows, queries_by_word_ + block * lay_.by_word());
      pack_by_row(lay_, rows, queries_by_row_ + block * lay_.by_row());
      load_queries(lay_, transform(0, 1.0f), dout, block, rows);
      pack_by_word(lay_, rows, dout_by_word_ + block * lay_.by_word());
      pack_by_row(lay_, rows, dout_by_row_ + block * lay_.by_row());
      float *minus_lse = minus_lse_ + block * kQueries,
            *minus_delta = minus_delta_ + block * kQueries;
      const int64_t first = lay_.first_query(block);
      for (int64_t i = 0; i < kQueries; ++i) {
        const int64_t t = first + i;
        minus_lse[i] = t >= 0 ? -kLog2E * lse[t] : 0.0f;
        minus_delta[i] = t >= 0 ? -dot_row(rows + i * lay_.row, out.at(t), lay_.K) : 0.0f;
      }
      if (call_.dsink_parts)
        dsink += sink_gradient(call_.sink_logit[h] * kLog2E, minus_lse, minus_delta);
    }
    if (call_.dsink_parts && item_.part == 0) call_.dsink_parts[item_.b * s.H + h] = dsink;
  }

  /// -sum exp(sink - L) D over a block; zero where D is.
  double sink_gradient(float sink, const float* minus_lse, const float* minus_delta) const {
    V sum = hn::Zero(d);
    for (int64_t i = 0; i < kQueries; i += kLanes)
      sum = hn::MulAdd(exp2<5>(hn::Add(hn::Load(d, minus_lse + i), hn::Set(d, sink))),
                       hn::Load(d, minus_delta + i),
                       sum);
    return static_cast<double>(hn::GetLane(hn::SumOfLanes(d, sum)));
  }

  /// kKeys keys from `key` on against one block of queries.
  void tile(int64_t key, int64_t block) {
    const int64_t count = std::min(kKeys, lay_.visible_keys(block) - key);
    const int64_t half_hidden = lay_.first_query(block) + kLanes -
                                key;  // from this key on the tile's first half of queries sees none
    int64_t r = 0;
    for (; r < count && r < half_hidden; r += kRows)
      row_block<0>(key + r, block, ds_pairs_ + r / Policy::kPair * kQueries);
    for (; r < count; r += kRows)
      row_block<1>(key + r, block, ds_pairs_ + r / Policy::kPair * kQueries);
    float* dquery = dquery_ + block * lay_.k_rows * kQueries;
    for (int64_t k = 0; k < lay_.k_rows; k += kRows)
      multiply_add_to<Policy, Floats, 2>(
          d,
          Left{key_pairs_ + key / Policy::kPair * lay_.k_rows + k, 1, lay_.k_rows},
          ds_pairs_,
          kQueries,
          count / Policy::kPair,
          dquery + k * kQueries,
          kQueries);
  }

  /// P and dS of kRows keys against one block of queries, or its second half (kSkip 1): the rows of
  /// ds_pairs, and what they add to dK and dV.
  template <int kSkip>
  HWY_INLINE void row_block(int64_t key, int64_t block, float* ds_pairs) {
    gradients<kSkip>(key, block, ds_pairs);
    constexpr int64_t row = kQueries / Policy::kPair, skipped = kSkip * row / 2;
    const int64_t right = block * lay_.by_row() + skipped * lay_.k_stride;
    const float* ds_rows = Policy::kPair == 1 ? ds_pairs : ds_rows_;
    const float* p_rows = Policy::kPair == 1 ? p_ : p_rows_;
    multiply_add_columns<Policy>(Left{p_rows + skipped, row, 1},
                                 dout_by_row_ + right,
                                 row - skipped,
                                 dvalue_ + key * lay_.k_stride,
                                 lay_.k_columns,
                                 lay_.k_stride);
    multiply_add_columns<Policy>(Left{ds_rows + skipped, row, 1},
                                 queries_by_row_ + right,
                                 row - skipped,
                                 dkey_ + key * lay_.k_stride,
                                 lay_.k_columns,
                                 lay_.k_stride);
  }

  /// P and dS: p_, p_rows_, ds_rows_ and ds_pairs.
  template <int kSkip>
  HWY_INLINE void gradients(int64_t key, int64_t block, float* ds_pairs) {
    constexpr int kVectors = 2 - kSkip;
    const int64_t first = lay_.first_query(block) + kSkip * kLanes,
                  words = block * lay_.by_word() + kSkip * kLanes;
    const float* minus_lse = minus_lse_ + block * kQueries + kSkip * kLanes;
    const float* minus_delta = minus_delta_ + block * kQueries + kSkip * kLanes;
    V p[kRows][kVectors], full[kRows][2];
#pragma GCC unroll 8
    for (int m = 0; m < kRows; ++m)
      for (int v = 0; v < kVectors; ++v) p[m][v] = hn::Load(d, minus_lse + v * kLanes);
    if (slope_ != 0) add_slopes(slope_, key, first, INT64_MAX / 2, p);
    multiply_add<Policy>(d,
                         Left{key_rows_ + key * lay_.words, lay_.words, 1},
                         queries_by_word_ + words,
                         kQueries,
                         lay_.words,
                         p);
#pragma GCC unroll 8
    for (int m = 0; m < kRows; ++m)
      for (int v = 0; v < kVectors; ++v) p[m][v] = exp2<Policy::kExpDegree>(p[m][v]);
    if (key + kRows - 1 > first) {
#pragma GCC unroll 8
      for (int m = 0; m < kRows; ++m)
        for (int v = 0; v < kVectors; ++v)
          p[m][v] = hn::IfThenElseZero(hn::Ge(hn::Iota(d, static_cast<float>(first + v * kLanes)),
                                              hn::Set(d, static_cast<float>(key + m))),
                                       p[m][v]);
    }
    widen(p, full);
    FloatWords::store_rows(full, p_);
    if constexpr (Policy::kPair > 1) Policy::store_rows(full, p_rows_);
#pragma GCC unroll 8
    for (int m = 0; m < kRows; ++m)
      for (int v = 0; v < kVectors; ++v) p[m][v] = hn::Load(d, minus_delta + v * kLanes);
    multiply_add<Policy>(d,
                         Left{value_rows_ + key * lay_.words, lay_.words, 1},
                         dout_by_word_ + words,
                         kQueries,
                         lay_.words,
                         p);
#pragma GCC unroll 8
    for (int m = 0; m < kRows; ++m)
      for (int v = 0; v < kVectors; ++v)
        p[m][v] = hn::Mul(p[m][v], hn::Load(d, p_ + m * kQueries + (kSkip + v) * kLanes));
    widen(p, full);
    Policy::store_pairs(full, ds_pairs);
    if constexpr (Policy::kPair > 1) Policy::store_rows(full, ds_rows_);
  }

  /// Zeros for a skipped first vector.
  template <int kVectors>
  HWY_INLINE void widen(const V (&x)[kRows][kVectors], V (&full)[kRows][2]) const {
#pragma GCC unroll 8
    for (int m = 0; m < kRows; ++m) {
      full[m][0] = kVectors == 2 ? x[m][0] : hn::Zero(d);
      full[m][1] = x[m][kVectors - 1];
    }
  }

  /// dQ of head h: to dqkv, or in fp32 to this part's share.
  void write_dquery(int64_t h) {
    const AttentionShape& s = call_.shape;
    const Transform undo = transform(lay_.half, scale(), -1.0f);
    float* rows = scratch(Buffer::kRows, kQueries * lay_.row);
    const auto dquery = head_of(call_.dqkv, item_.b, h, s.H + 2 * s.G, s);
    const auto share =
        head_of(call_.dq_parts + item_.part * s.B * s.T * s.H * s.K, item_.b, h, s.H, s);
    for (int64_t block = 0; block < lay_.blocks; ++block) {
      transpose(
          dquery_ + block * lay_.k_rows * kQueries, kQueries, lay_.K, kQueries, rows, lay_.row);
      const int64_t first = lay_.first_query(block);
      for (int64_t i = std::max<int64_t>(0, -first); i < kQueries; ++i) {
        if (item_.parts == 1) {
          transform_row(undo, first + i, rows + i * lay_.row, dquery.at(first + i), lay_.K);
        } else {
          transform_row(undo, first + i, rows + i * lay_.row, share.at(first + i), lay_.K);
        }
      }
    }
  }

  /// dK (the packed queries carried scale * log2(e): what is left of it is log 2) and dV of this
  /// part's keys.
  void write_dkeys() {
    const AttentionShape& s = call_.shape;
    const int64_t heads = s.H + 2 * s.G;
    const auto dkey = head_of(call_.dqkv, item_.b, s.H + item_.g, heads, s),
               dvalue = head_of(call_.dqkv, item_.b, s.H + s.G + item_.g, heads, s);
    for (int64_t key = item_.part * kKeys; key < s.T; key += item_.parts * kKeys) {
      for (int64_t t = key; t < std::min(key + kKeys, s.T); ++t) {
        transform_row(
            transform(lay_.half, kLog2, -1.0f), t, dkey_ + t * lay_.k_stride, dkey.at(t), lay_.K);
        transform_row(transform(0, 1.0f), t, dvalue_ + t * lay_.k_stride, dvalue.at(t), lay_.K);
      }
    }
  }

  const BackwardCall<Float>& call_;
  const WorkItem& item_;
  const Layout<Policy> lay_;
  float *key_rows_, *key_pairs_,
      *value_rows_;  // (keys, words); (keys / kPair, k_rows); (keys, words)
  float *queries_by_word_,
      *queries_by_row_;  // (blocks, words, kQueries); (blocks, kQueries / kPair, k_stride)
  float *dout_by_word_, *dout_by_row_;
  float *minus_lse_, *minus_delta_;            // (blocks * kQueries)
  float *p_, *p_rows_, *ds_rows_, *ds_pairs_;  // (kRows, kQueries) floats; (kRows, kQueries /
                                               // kPair) words twice; (kKeys / kPair, kQueries)
  float slope_ = 0;                            // of ALiBi, in units of log 2
  float* dquery_;                              // (blocks, k_rows, kQueries)
  float *dkey_, *dvalue_;                      // (keys, k_stride)
};

}  // namespace
}  // namespace basin::kernels::HWY_NAMESPACE
#endif
