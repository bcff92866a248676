// Packing of attention's operands into words (attention_micro-inl.h), per key/value head and per
// query head. Queries are cut into blocks of kQueries whose LAST one ends at T: what is missing to
// a multiple lies in front of query 0, as zeros, where the causal mask makes it nearly free (T =
// 257 would otherwise cost a whole extra block against all keys).
#if defined(BASIN_ATTENTION_PACK_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef BASIN_ATTENTION_PACK_INL_H_
#undef BASIN_ATTENTION_PACK_INL_H_
#else
#define BASIN_ATTENTION_PACK_INL_H_
#endif

#include "model/kernels/cpu/attention_rows-inl.h"

namespace basin::kernels::HWY_NAMESPACE {
namespace {

constexpr int64_t kKeys = 64;  // keys of a tile, a multiple of kRows

/// Sizes of the packed operands.
template <class Policy>
struct Layout {
  int64_t T, H, G, K, half;
  int64_t words;        // of a head's row, contraction over K
  int64_t k_rows;       // K rounded up to register blocks, K as rows of an output
  int64_t k_columns;    // K rounded up to half vectors, K as columns of an output
  int64_t k_stride;     // K rounded up to vectors
  int64_t row;          // floats of an unpacked row
  int64_t blocks, pad;  // query blocks; queries missing in front of the first
  int64_t keys;         // T rounded up to kKeys

  explicit Layout(const AttentionShape& s)
      : T(s.T),
        H(s.H),
        G(s.G),
        K(s.K),
        half(s.rotary / 2),
        words((s.K + Policy::kPair - 1) / Policy::kPair),
        k_rows(round_up(s.K, kRows)),
        k_columns(round_up(s.K, kLanes / 2)),
        k_stride(round_up(s.K, kLanes)),
        row(round_up(s.K, 2 * kLanes)),
        blocks((s.T + kQueries - 1) / kQueries),
        pad(blocks * kQueries - s.T),
        keys(round_up(s.T, kKeys)) {}

  int64_t first_query(int64_t block) const { return block * kQueries - pad; }
  /// Keys that a block of queries sees, rounded up to register blocks.
  int64_t visible_keys(int64_t block) const {
    return round_up(first_query(block) + kQueries, kRows);
  }
  int64_t by_word() const {
    return round_up(words, 4) * kQueries;
  }  // floats of a query block, laid out by word
  int64_t by_row() const {
    return kQueries / Policy::kPair * k_stride;
  }  // floats of a query block, laid out by query
};

/// A head in a packed tensor (B, T, heads K): element (t, k) of sample b.
template <class Float>
struct Head {
  Float* base;
  int64_t stride;
  Float* at(int64_t t) const { return base + t * stride; }
};
template <class Float>
Head<Float> head_of(Float* tensor, int64_t b, int64_t h, int64_t heads, const AttentionShape& s) {
  return {tensor + (b * s.T * heads + h) * s.K, heads * s.K};
}

/// Rotation and factor that a row gets on its way; without tables no rotation.
struct Transform {
  const float *cos, *sin;
  int64_t half;
  float sign, scale;
};
template <class From, class To>
HWY_INLINE void transform_row(const Transform& f, int64_t t, const From* src, To* dst, int64_t K) {
  copy_row(
      RowCopy<From, To>{src, dst, f.cos + t * f.half, f.sin + t * f.half, f.half, f.sign, f.scale},
      K);
}

/// `count` rows, each written by copy(t, to), -> by_key (padded, words) and by_pair (padded /
/// kPair, k_rows), either may be null; zeros from `count` on.
template <class Policy, class Copy>
HWY_INLINE void pack_rows(const Layout<Policy>& lay,
                          int64_t count,
                          int64_t padded,
                          const Copy& copy,
                          float* by_key,
                          float* by_pair) {
  float* rows = scratch(Buffer::kRows, kQueries * lay.row);
  std::fill(rows, rows + 2 * lay.row, 0.0f);
  for (int64_t t = 0; t < count; t += Policy::kPair) {
    for (int64_t i = 0; i < Policy::kPair; ++i) {
      if (t + i < count) {
        copy(t + i, rows + i * lay.row);
      } else {
        std::fill(rows + i * lay.row, rows + (i + 1) * lay.row, 0.0f);
      }
      if (by_key) Policy::pack_row(rows + i * lay.row, lay.words, by_key + (t + i) * lay.words);
    }
    if (by_pair)
      Policy::pack_pair(rows, rows + lay.row, lay.k_rows, by_pair + t / Policy::kPair * lay.k_rows);
  }
  const int64_t packed = round_up(
      count,
      Policy::kPair);  // whole vectors were written: clear what they left behind the last row
  if (by_key) std::fill(by_key + packed * lay.words, by_key + padded * lay.words, 0.0f);
  if (by_pair)
    std::fill(by_pair + packed / Policy::kPair * lay.k_rows,
              by_pair + padded / Policy::kPair * lay.k_rows,
              0.0f);
}

/// The keys or values of a head, packed as above.
template <class Policy, class Float>
void pack_keys(const Layout<Policy>& lay,
               const Transform& f,
               const Head<const Float>& x,
               float* by_key,
               float* by_pair) {
  const auto copy = [&](int64_t t, float* to) HWY_ATTR { transform_row(f, t, x.at(t), to, lay.K); };
  pack_rows(lay, lay.T, lay.keys, copy, by_key, by_pair);
}

/// Scratch for `padded` packed keys: vectors are written whole, past the last row.
template <class Policy>
float* key_scratch(const Layout<Policy>& lay, int64_t padded, Buffer which) {
  return scratch(which, padded * std::max(lay.words, lay.k_rows) + 2 * kLanes);
}
template <class Policy>
float* key_scratch(const Layout<Policy>& lay, Buffer which) {
  return key_scratch(lay, lay.keys, which);
}

/// Loads one block of a head's queries (or of their output's gradient): rows (kQueries, row), zeros
/// before query 0 and beyond K.
template <class Policy, class Float>
void load_queries(const Layout<Policy>& lay,
                  const Transform& f,
                  const Head<const Float>& x,
                  int64_t block,
                  float* rows) {
  const int64_t first = lay.first_query(block);
  if (first < 0 || lay.row > lay.K) std::fill(rows, rows + kQueries * lay.row, 0.0f);
  for (int64_t i = std::max<int64_t>(0, -first); i < kQueries; ++i)
    transform_row(f, first + i, x.at(first + i), rows + i * lay.row, lay.K);
}

/// rows (kQueries, row) -> by_word (words, kQueries).
template <class Policy>
void pack_by_word(const Layout<Policy>& lay, const float* rows, float* by_word) {
  if constexpr (Policy::kPair == 1) {
    transpose(rows, lay.row, kQueries, lay.words, by_word, kQueries);
  } else {
    const int64_t stride = round_up(lay.words, kLanes);
    float* packed = scratch(Buffer::kWords, kQueries * stride);
    for (int64_t i = 0; i < kQueries; ++i)
      Policy::pack_row(rows + i * lay.row, lay.words, packed + i * stride);
    transpose(packed, stride, kQueries, lay.words, by_word, kQueries);
  }
}

/// rows (kQueries, row) -> by_row (kQueries / kPair, k_stride).
template <class Policy>
void pack_by_row(const Layout<Policy>& lay, const float* rows, float* by_row) {
  for (int64_t i = 0; i < kQueries; i += Policy::kPair)
    Policy::pack_pair(rows + i * lay.row,
                      rows + (i + 1) * lay.row,
                      lay.k_stride,
                      by_row + i / Policy::kPair * lay.k_stride);
}

/// ALiBi: c[m][v] += slope * (key + m - query), a query in each lane from `first` on, none of which
/// stands behind `last`.
template <int kVectors>
HWY_INLINE void add_slopes(
    float slope, int64_t key, int64_t first, int64_t last, V (&c)[kRows][kVectors]) {
  const Floats d;
#pragma GCC unroll 2
  for (int v = 0; v < kVectors; ++v) {
    const V query = hn::Min(hn::Iota(d, static_cast<float>(first + v * kLanes)),
                            hn::Set(d, static_cast<float>(last)));
#pragma GCC unroll 8
    for (int m = 0; m < kRows; ++m)
      c[m][v] = hn::MulAdd(
          hn::Set(d, slope), hn::Sub(hn::Set(d, static_cast<float>(key + m)), query), c[m][v]);
  }
}

}  // namespace
}  // namespace basin::kernels::HWY_NAMESPACE
#endif
