// Backward attention of one work item. Tiles as in the forward pass (scores transposed, queries across the lanes); P is computed again from the
// log-sum-exp L, so with D = rowsum(dO * O): dS = P * (dO.V^T - D), dV += P^T.dO, dK += dS^T.Q, dQ += dS.K (arXiv 2205.14135, algorithm 4).
// A sink logit changes none of this, because L and O contain it; its own gradient is -sum exp(sink - L) D.
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
      : call_(call), item_(item), lay_(call.shape), key_rows_(key_scratch(lay_, Buffer::kKeyRows)), key_pairs_(key_scratch(lay_, Buffer::kKeyPairs)),
        value_rows_(key_scratch(lay_, Buffer::kValueRows)), queries_by_word_(scratch(Buffer::kQueryByWord, lay_.blocks * lay_.by_word())),
        queries_by_row_(scratch(Buffer::kQueryByRow, lay_.blocks * lay_.by_row())), dout_by_word_(scratch(Buffer::kDoutByWord, lay_.blocks * lay_.by_word())),
        dout_by_row_(scratch(Buffer::kDoutByRow, lay_.blocks * lay_.by_row())), minus_lse_(scratch(Buffer::kStatistics, 2 * lay_.blocks * kQueries)),
        minus_delta_(minus_lse_ + lay_.blocks * kQueries), p_(scratch(Buffer::kScores, std::max(kRows * kQueries, lay_.row))), p_rows_(scratch(Buffer::kProbabilityRows, kRows * kQueries)),
        ds_rows_(scratch(Buffer::kGradientRows, kRows * kQueries)), ds_pairs_(scratch(Buffer::kPairs, kKeys * kQueries)),
        dquery_(scratch(Buffer::kTile, lay_.blocks * lay_.k_rows * kQueries)), dkey_(scratch(Buffer::kKeyGradient, lay_.keys * lay_.k_stride)),
        dvalue_(scratch(Buffer::kValueGradient, lay_.keys * lay_.k_stride)) {}

  void run() {
    const AttentionShape& s = call_.shape;
    const int64_t heads = s.H + 2 * s.G, group = s.H / s.G;
    pack_keys(lay_, transform(lay_.half, 1.0f), head_of(call_.qkv, item_.b, s.H + item_.g, heads, s), key_rows_, key_pairs_);
    pack_keys(lay_, transform(0, 1.0f), head_of(call_.qkv, item_.b, s.H + s.G + item_.g, heads, s), value_rows_, nullptr);
    std::fill(dkey_, dkey_ + lay_.keys * lay_.k_stride, 0.0f);
    std::fill(dvalue_, dvalue_ + lay_.keys * lay_.k_stride, 0.0f);
    for (int64_t h = item_.g * group; h < (item_.g + 1) * group; ++h) {
      pack_head(h);
      std::fill(dquery_, dquery_ + lay_.blocks * lay_.k_rows * kQueries, 0.0f);
      for (int64_t key = item_.part * kKeys; key < s.T; key += item_.parts * kKeys)
        for (int64_t block = (key + lay_.pad) / kQueries; block < lay_.blocks; ++block) tile(key, block);
      write_dquery(h);
    }
    write_dkeys();
  }

 private:
  const Floats d;

  float scale() const { return 1.0f / std::sqrt(static_cast<float>(lay_.K)); }
  Transform transform(int64_t half, float factor, float sign = 1.0f) const { return {call_.cos, call_.sin, half, sign, factor}; }

  /// Packs queries and output gradients of head h and computes -L (in units of log 2) and -D per query, 0 before query 0.
  void pack_head(int64_t h) {
    const AttentionShape& s = call_.shape;
    const auto query = head_of(call_.qkv, item_.b, h, s.H + 2 * s.G, s), dout = head_of(call_.dout, item_.b, h, s.H, s), out = head_of(call_.out, item_.b, h, s.H, s);
    float* rows = scratch(Buffer::kRows, kQueries * lay_.row);
    float* out_row = p_;
    const float* lse = call_.lse + (item_.b * s.H + h) * s.T;
    double dsink = 0;
    for (int64_t block = 0; block < lay_.blocks; ++block) {
      load_queries(lay_, transform(lay_.half, scale() * 1.4426950408889634f), query, block, rows);
      pack_by_word(lay_, rows, queries_by_word_ + block * lay_.by_word());
      pack_by_row(lay_, rows, queries_by_row_ + block * lay_.by_row());
      load_queries(lay_, transform(0, 1.0f), dout, block, rows);
      pack_by_word(lay_, rows, dout_by_word_ + block * lay_.by_word());
      pack_by_row(lay_, rows, dout_by_row_ + block * lay_.by_row());
      for (int64_t i = 0; i < kQueries; ++i) {
        const int64_t t = lay_.first_query(block) + i;
        float delta = 0;
        if (t >= 0) {
          std::fill(out_row, out_row + lay_.row, 0.0f);
          transform_row(transform(0, 1.0f), t, out.at(t), out_row, lay_.K);
          delta = dot(rows + i * lay_.row, out_row);
          if (call_.sink_logit) dsink -= static_cast<double>(std::exp(call_.sink_logit[h] - lse[t])) * delta;
        }
        minus_lse_[block * kQueries + i] = t >= 0 ? -1.4426950408889634f * lse[t] : 0.0f;
        minus_delta_[block * kQueries + i] = -delta;
      }
    }
    if (call_.dsink_parts && item_.part == 0) call_.dsink_parts[item_.b * s.H + h] = dsink;
  }

  float dot(const float* x, const float* y) const {
    V sum = hn::Zero(d);
    for (int64_t k = 0; k < lay_.row; k += kLanes) sum = hn::MulAdd(hn::Load(d, x + k), hn::Load(d, y + k), sum);
    return hn::GetLane(hn::SumOfLanes(d, sum));
  }

  /// kKeys keys from `key` on against one block of queries.
  void tile(int64_t key, int64_t block) {
    const int64_t count = std::min(kKeys, lay_.visible_keys(block) - key);
    for (int64_t r = 0; r < count; r += kRows) {
      row_block(key + r, block, ds_pairs_ + r / Policy::kPair * kQueries);
      const float* ds_rows = Policy::kPair == 1 ? ds_pairs_ + r * kQueries : ds_rows_;
      const float* p_rows = Policy::kPair == 1 ? p_ : p_rows_;
      constexpr int64_t row = kQueries / Policy::kPair;
      float* dvalue = dvalue_ + (key + r) * lay_.k_stride;
      float* dkey = dkey_ + (key + r) * lay_.k_stride;
      multiply_add_columns<Policy>(Left{p_rows, row, 1}, dout_by_row_ + block * lay_.by_row(), row, dvalue, lay_.k_columns, lay_.k_stride);
      multiply_add_columns<Policy>(Left{ds_rows, row, 1}, queries_by_row_ + block * lay_.by_row(), row, dkey, lay_.k_columns, lay_.k_stride);
    }
    float* dquery = dquery_ + block * lay_.k_rows * kQueries;
    for (int64_t k = 0; k < lay_.k_rows; k += kRows)
      multiply_add_to<Policy, Floats, 2>(d, Left{key_pairs_ + key / Policy::kPair * lay_.k_rows + k, 1, lay_.k_rows}, ds_pairs_, kQueries, count / Policy::kPair,
                                         dquery + k * kQueries, kQueries);
  }

  /// P and dS of kRows keys: p_, p_rows_, ds_rows_ and the given rows of ds_pairs_.
  HWY_INLINE void row_block(int64_t key, int64_t block, float* ds_pairs) {
    const int64_t first = lay_.first_query(block);
    V p[kRows][2];
    const float* minus_lse = minus_lse_ + block * kQueries;
    const float* minus_delta = minus_delta_ + block * kQueries;
#pragma GCC unroll 8
    for (int m = 0; m < kRows; ++m) {
      p[m][0] = hn::Load(d, minus_lse);
      p[m][1] = hn::Load(d, minus_lse + kLanes);
    }
    multiply_add<Policy>(d, Left{key_rows_ + key * lay_.words, lay_.words, 1}, queries_by_word_ + block * lay_.by_word(), kQueries, lay_.words, p);
#pragma GCC unroll 8
    for (int m = 0; m < kRows; ++m) {
      p[m][0] = exp2<Policy::kExpDegree>(p[m][0]);
      p[m][1] = exp2<Policy::kExpDegree>(p[m][1]);
    }
    if (key + kRows - 1 > first) {
      const V query0 = hn::Iota(d, static_cast<float>(first)), query1 = hn::Iota(d, static_cast<float>(first + kLanes));
#pragma GCC unroll 8
      for (int m = 0; m < kRows; ++m) {
        const V at = hn::Set(d, static_cast<float>(key + m));
        p[m][0] = hn::IfThenElseZero(hn::Ge(query0, at), p[m][0]);
        p[m][1] = hn::IfThenElseZero(hn::Ge(query1, at), p[m][1]);
      }
    }
    FloatWords::store_rows(p, p_);
    if constexpr (Policy::kPair > 1) Policy::store_rows(p, p_rows_);
    V ds[kRows][2];
#pragma GCC unroll 8
    for (int m = 0; m < kRows; ++m) {
      ds[m][0] = hn::Load(d, minus_delta);
      ds[m][1] = hn::Load(d, minus_delta + kLanes);
    }
    multiply_add<Policy>(d, Left{value_rows_ + key * lay_.words, lay_.words, 1}, dout_by_word_ + block * lay_.by_word(), kQueries, lay_.words, ds);
#pragma GCC unroll 8
    for (int m = 0; m < kRows; ++m) {
      ds[m][0] = hn::Mul(ds[m][0], hn::Load(d, p_ + m * kQueries));
      ds[m][1] = hn::Mul(ds[m][1], hn::Load(d, p_ + m * kQueries + kLanes));
    }
    Policy::store_pairs(ds, ds_pairs);
    if constexpr (Policy::kPair > 1) Policy::store_rows(ds, ds_rows_);
  }

  /// dQ of head h: to dqkv, or in fp32 to this part's share.
  void write_dquery(int64_t h) {
    const AttentionShape& s = call_.shape;
    const Transform undo = transform(lay_.half, scale(), -1.0f);
    float* rows = scratch(Buffer::kRows, kQueries * lay_.row);
    const auto dquery = head_of(call_.dqkv, item_.b, h, s.H + 2 * s.G, s);
    const auto share = head_of(call_.dq_parts + item_.part * s.B * s.T * s.H * s.K, item_.b, h, s.H, s);
    for (int64_t block = 0; block < lay_.blocks; ++block) {
      transpose(dquery_ + block * lay_.k_rows * kQueries, kQueries, lay_.K, kQueries, rows, lay_.row);
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

  /// dK (the packed queries carried scale * log2(e): what is left of it is log 2) and dV of this part's keys.
  void write_dkeys() {
    const AttentionShape& s = call_.shape;
    const int64_t heads = s.H + 2 * s.G;
    const auto dkey = head_of(call_.dqkv, item_.b, s.H + item_.g, heads, s), dvalue = head_of(call_.dqkv, item_.b, s.H + s.G + item_.g, heads, s);
    for (int64_t key = item_.part * kKeys; key < s.T; key += item_.parts * kKeys) {
      for (int64_t t = key; t < std::min(key + kKeys, s.T); ++t) {
        transform_row(transform(lay_.half, 0.6931471805599453f, -1.0f), t, dkey_ + t * lay_.k_stride, dkey.at(t), lay_.K);
        transform_row(transform(0, 1.0f), t, dvalue_ + t * lay_.k_stride, dvalue.at(t), lay_.K);
      }
    }
  }

  const BackwardCall<Float>& call_;
  const WorkItem& item_;
  const Layout<Policy> lay_;
  float *key_rows_, *key_pairs_, *value_rows_;   // (keys, words); (keys / kPair, k_rows); (keys, words)
  float *queries_by_word_, *queries_by_row_;     // (blocks, words, kQueries); (blocks, kQueries / kPair, k_stride)
  float *dout_by_word_, *dout_by_row_;
  float *minus_lse_, *minus_delta_;              // (blocks * kQueries)
  float *p_, *p_rows_, *ds_rows_, *ds_pairs_;    // (kRows, kQueries) floats; (kRows, kQueries / kPair) words twice; (kKeys / kPair, kQueries)
  float* dquery_;                                // (blocks, k_rows, kQueries)
  float *dkey_, *dvalue_;                        // (keys, k_stride)
};

}  // namespace
}  // namespace basin::kernels::HWY_NAMESPACE
#endif
