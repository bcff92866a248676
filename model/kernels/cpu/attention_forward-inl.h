// Forward attention of one work item, in the manner of FlashAttention (arXiv 2205.14135): tiles of
// kKeys keys by kQueries queries, running maximum and sum per query. Scores are computed
// transposed, S[key][query], queries across the vector lanes: maxima, sums and rescaling then need
// no horizontal step, and P^T is the next product's right operand as it stands. Scores are in units
// of log 2, so that exp2 serves.
#if defined(BASIN_ATTENTION_FORWARD_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef BASIN_ATTENTION_FORWARD_INL_H_
#undef BASIN_ATTENTION_FORWARD_INL_H_
#else
#define BASIN_ATTENTION_FORWARD_INL_H_
#endif

#include "model/kernels/cpu/attention_pack-inl.h"

namespace basin::kernels::HWY_NAMESPACE {
namespace {

constexpr float kHidden = -1e30f;  // the score of a masked key: exp2(kHidden - m) is 0 and, unlike
                                   // infinity, kHidden - kHidden is a number

/// Which of the keys that `visit` is shown a block of queries sees: query i those from oldest + i
/// to newest + i, below `end`. For ALiBi it stands at newest + i, but not behind `last`.
struct Visible {
  int64_t newest;
  int64_t oldest = INT64_MIN / 2;
  int64_t end = INT64_MAX / 2;
  int64_t last = INT64_MAX / 2;
};

/// One block of queries on its way over the keys.
template <class Policy>
class ForwardTile {
 public:
  explicit ForwardTile(const Layout<Policy>& lay)
      : lay_(lay),
        queries_(scratch(Buffer::kQueryByWord, lay_.by_word())),
        scores_(scratch(Buffer::kScores, kKeys * kQueries)),
        pairs_(scratch(Buffer::kPairs, kKeys * kQueries)),
        out_(scratch(Buffer::kTile, lay_.k_rows * kQueries)) {}

  /// Nothing is seen so far but the sink, if there is one: a key in front of all others, with value
  /// 0 and the score *logit. Scores fall by `slope` with each place between query and key.
  void begin(const float* logit, float slope) {
    slope_ = slope * kLog2E;
    for (int v = 0; v < 2; ++v) {
      max_[v] = hn::Set(d, logit ? *logit * kLog2E : kHidden);
      sum_[v] = hn::Set(d, logit ? 1.0f : 0.0f);
    }
    std::fill(out_, out_ + lay_.k_rows * kQueries, 0.0f);
  }

  /// The queries of what is visited next: rows (kQueries, row), scaled to units of log 2.
  void load(const float* rows) { pack_by_word(lay_, rows, queries_); }

  /// Keys [key, key + count) of keys (.., words) with their values (.. / kPair, k_rows); count is a
  /// multiple of kRows, kKeys at most.
  void visit(
      const float* keys, const float* values, int64_t key, int64_t count, const Visible& visible) {
    const V rescale0 = max_[0], rescale1 = max_[1];
    score(keys, key, count, visible);
    exponentiate(count,
                 exp2<Policy::kExpDegree>(hn::Sub(rescale0, max_[0])),
                 exp2<Policy::kExpDegree>(hn::Sub(rescale1, max_[1])));
    for (int64_t k = 0; k < lay_.k_rows; k += kRows)
      multiply_add_to<Policy, Floats, 2>(
          d,
          Left{values + key / Policy::kPair * lay_.k_rows + k, 1, lay_.k_rows},
          pairs_,
          kQueries,
          count / Policy::kPair,
          out_ + k * kQueries,
          kQueries);
  }

  /// Divides by the sums: rows (kQueries, row) and the log-sum-exp of each query.
  void finish(float* rows, float (&lse)[kQueries]) {
    const V inverse0 = hn::Div(hn::Set(d, 1.0f), sum_[0]),
            inverse1 = hn::Div(hn::Set(d, 1.0f), sum_[1]);
    for (float* o = out_; o != out_ + lay_.k_rows * kQueries; o += kQueries) {
      hn::Store(hn::Mul(hn::Load(d, o), inverse0), d, o);
      hn::Store(hn::Mul(hn::Load(d, o + kLanes), inverse1), d, o + kLanes);
    }
    transpose(out_, kQueries, lay_.K, kQueries, rows, lay_.row);
    for (int v = 0; v < 2; ++v)
      hn::Store(hn::MulAdd(max_[v], hn::Set(d, kLog2), hn::Log(d, sum_[v])), d, lse + v * kLanes);
  }

 private:
  const Floats d;

  /// scores_ (count, kQueries) of the keys from `key` on, masked; max_ brought up to date.
  void score(const float* keys, int64_t key, int64_t count, const Visible& visible) {
    const int64_t half_hidden =
        visible.newest + kLanes - key;  // from this key on the first half of the queries sees none
    int64_t r = 0;
    for (; r < count && r < half_hidden; r += kRows)
      score_rows<0>(keys, key + r, visible, scores_ + r * kQueries);
    for (; r < count; r += kRows) score_rows<1>(keys, key + r, visible, scores_ + r * kQueries);
  }

  /// kRows keys against the queries, or their second half (kSkip 1).
  template <int kSkip>
  HWY_INLINE void score_rows(const float* keys,
                             int64_t key,
                             const Visible& visible,
                             float* scores) {
    constexpr int kVectors = 2 - kSkip;
    const V hidden = hn::Set(d, kHidden);
    V s[kRows][kVectors];
#pragma GCC unroll 8
    for (int m = 0; m < kRows; ++m)
      for (int v = 0; v < kVectors; ++v) s[m][v] = hn::Zero(d);
    if (slope_ != 0)
      add_slopes(slope_, key, visible.newest + kSkip * kLanes, visible.last, s);
    multiply_add<Policy>(d,
                         Left{keys + key * lay_.words, lay_.words, 1},
                         queries_ + kSkip * kLanes,
                         kQueries,
                         lay_.words,
                         s);
    const int64_t newest = visible.newest + kSkip * kLanes,
                  oldest = visible.oldest + kSkip * kLanes;
    if (key + kRows - 1 > newest) {
#pragma GCC unroll 8
      for (int m = 0; m < kRows; ++m)
        for (int v = 0; v < kVectors; ++v)
          s[m][v] = hn::IfThenElse(hn::Ge(hn::Iota(d, static_cast<float>(newest + v * kLanes)),
                                          hn::Set(d, static_cast<float>(key + m))),
                                   s[m][v],
                                   hidden);
    }
    if (key < oldest + kVectors * kLanes - 1) {
#pragma GCC unroll 8
      for (int m = 0; m < kRows; ++m)
        for (int v = 0; v < kVectors; ++v)
          s[m][v] = hn::IfThenElse(hn::Le(hn::Iota(d, static_cast<float>(oldest + v * kLanes)),
                                          hn::Set(d, static_cast<float>(key + m))),
                                   s[m][v],
                                   hidden);
    }
    if (key + kRows > visible.end) {
#pragma GCC unroll 8
      for (int m = 0; m < kRows; ++m)
        for (int v = 0; v < kVectors; ++v)
          if (key + m >= visible.end) s[m][v] = hidden;
    }
#pragma GCC unroll 8
    for (int m = 0; m < kRows; ++m) {
      if constexpr (kSkip) hn::Store(hidden, d, scores + m * kQueries);
      for (int v = 0; v < kVectors; ++v) {
        max_[kSkip + v] = hn::Max(max_[kSkip + v], s[m][v]);
        hn::Store(s[m][v], d, scores + m * kQueries + (kSkip + v) * kLanes);
      }
    }
  }

  /// scores_ -> probabilities in pairs_; sums and outputs so far are rescaled to the new maximum.
  void exponentiate(int64_t count, V rescale0, V rescale1) {
    V sum0 = hn::Mul(sum_[0], rescale0), sum1 = hn::Mul(sum_[1], rescale1);
    const V max0 = max_[0], max1 = max_[1];
    for (int64_t r = 0; r < count; r += kRows) {
      V p[kRows][2];
#pragma GCC unroll 8
      for (int m = 0; m < kRows; ++m) {
        p[m][0] =
            exp2<Policy::kExpDegree>(hn::Sub(hn::Load(d, scores_ + (r + m) * kQueries), max0));
        p[m][1] = exp2<Policy::kExpDegree>(
            hn::Sub(hn::Load(d, scores_ + (r + m) * kQueries + kLanes), max1));
        sum0 = hn::Add(sum0, p[m][0]);
        sum1 = hn::Add(sum1, p[m][1]);
      }
      Policy::store_pairs(p, pairs_ + r / Policy::kPair * kQueries);
    }
    sum_[0] = sum0;
    sum_[1] = sum1;
    for (float* o = out_; o != out_ + lay_.k_rows * kQueries; o += kQueries) {
      hn::Store(hn::Mul(hn::Load(d, o), rescale0), d, o);
      hn::Store(hn::Mul(hn::Load(d, o + kLanes), rescale1), d, o + kLanes);
    }
  }

  const Layout<Policy>& lay_;
  float *queries_, *scores_,
      *pairs_;         // (words, kQueries); (kKeys, kQueries); (kKeys / kPair, kQueries)
  float* out_;         // (k_rows, kQueries), O^T of the block
  float slope_ = 0;    // of ALiBi, in units of log 2
  V max_[2], sum_[2];  // per query of the block
};

template <class Policy, class Float>
class Forward {
 public:
  Forward(const ForwardCall<Float>& call, const WorkItem& item)
      : call_(call),
        item_(item),
        lay_(call.shape),
        keys_(key_scratch(lay_, Buffer::kKeyRows)),
        values_(key_scratch(lay_, Buffer::kValuePairs)),
        tile_(lay_) {}

  void run() {
    const AttentionShape& s = call_.shape;
    const int64_t heads = s.H + 2 * s.G, group = s.H / s.G;
    const Transform plain{call_.cos, call_.sin, 0, 1.0f, 1.0f},
        rotate{call_.cos, call_.sin, lay_.half, 1.0f, 1.0f};
    pack_keys(lay_, rotate, head_of(call_.qkv, item_.b, s.H + item_.g, heads, s), keys_, nullptr);
    pack_keys(
        lay_, plain, head_of(call_.qkv, item_.b, s.H + s.G + item_.g, heads, s), nullptr, values_);
    for (int64_t h = item_.g * group; h < (item_.g + 1) * group; ++h)
      for (int64_t block = item_.part; block < lay_.blocks; block += item_.parts) attend(h, block);
  }

 private:
  /// One block of queries of head h against all keys that it sees.
  void attend(int64_t h, int64_t block) {
    const AttentionShape& s = call_.shape;
    const float scale = kLog2E / std::sqrt(static_cast<float>(s.K));
    float* rows = scratch(Buffer::kRows, kQueries * lay_.row);
    load_queries(lay_,
                 Transform{call_.cos, call_.sin, lay_.half, 1.0f, scale},
                 head_of(call_.qkv, item_.b, h, s.H + 2 * s.G, s),
                 block,
                 rows);
    tile_.load(rows);
    tile_.begin(call_.sink_logit ? call_.sink_logit + h : nullptr,
                call_.slopes ? call_.slopes[h] : 0);
    const int64_t visible = lay_.visible_keys(block);
    for (int64_t key = 0; key < visible; key += kKeys)
      tile_.visit(keys_, values_, key, std::min(kKeys, visible - key), {lay_.first_query(block)});
    finish(h, block, rows);
  }

  void finish(int64_t h, int64_t block, float* rows) {
    const AttentionShape& s = call_.shape;
    alignas(64) float lse[kQueries];
    tile_.finish(rows, lse);
    const Head<Float> out = head_of(call_.out, item_.b, h, s.H, s);
    const int64_t first = lay_.first_query(block);
    for (int64_t i = std::max<int64_t>(0, -first); i < kQueries; ++i) {
      transform_row(Transform{call_.cos, call_.sin, 0, 1.0f, 1.0f},
                    first + i,
                    rows + i * lay_.row,
                    out.at(first + i),
                    lay_.K);
      call_.lse[(item_.b * s.H + h) * s.T + first + i] = lse[i];
    }
  }

  const ForwardCall<Float>& call_;
  const WorkItem& item_;
  const Layout<Policy> lay_;
  float *keys_, *values_;  // (keys, words); (keys / kPair, k_rows)
  ForwardTile<Policy> tile_;
};

}  // namespace
}  // namespace basin::kernels::HWY_NAMESPACE
#endif
