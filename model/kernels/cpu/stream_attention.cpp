// Attention of one token over a streaming cache: rotates and stores the new key, then scores,
// softmax and the weighted sum of values over the slots in use. Keys in the cache are rotated
// already; the query is rotated twice, for the sinks and for the ring.
#include <algorithm>
#include <cmath>

#include "model/kernels/decode.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "model/kernels/cpu/stream_attention.cpp"
#include "hwy/foreach_target.h"
#include "model/kernels/cpu/math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace basin::kernels {
namespace HWY_NAMESPACE {

// x (K) * factor, its first `rotary` elements rotated in pairs (i, i + rotary / 2).
template <class Float>
HWY_INLINE void rotated_copy(int64_t K,
                             int64_t rotary,
                             const float* x,
                             const float* cos,
                             const float* sin,
                             float factor,
                             Float* to) {
  const int64_t half = rotary / 2;
  const Vector scale = constant(factor);
  for_vectors(half, [&](int64_t i, auto lanes) BASIN_INLINE_BODY {
    const Vector a = hn::Mul(load(x + i, lanes), scale),
                 b = hn::Mul(load(x + half + i, lanes), scale), c = load(cos + i, lanes),
                 s = load(sin + i, lanes);
    store(hn::NegMulAdd(b, s, hn::Mul(a, c)), to + i, lanes);
    store(hn::MulAdd(a, s, hn::Mul(b, c)), to + half + i, lanes);
  });
  for_vectors(K - rotary, [&](int64_t i, auto lanes) BASIN_INLINE_BODY {
    store(hn::Mul(load(x + rotary + i, lanes), scale), to + rotary + i, lanes);
  });
}

// scores[j] = q . keys[j] for n consecutive slots. Four slots at once share the loads of q and hide
// the latency of each other's sums.
template <class Float>
HWY_INLINE void score_slots(
    int64_t n, int64_t K, const float* q, const Float* keys, float* scores) {
  int64_t j = 0;
  for (; j + 4 <= n; j += 4) {
    const Float* at = keys + j * K;
    Vector s0 = constant(0), s1 = s0, s2 = s0, s3 = s0;
    for_vectors(K, [&](int64_t i, auto lanes) BASIN_INLINE_BODY {
      const Vector value = load(q + i, lanes);
      s0 = hn::MulAdd(value, load(at + i, lanes), s0);
      s1 = hn::MulAdd(value, load(at + K + i, lanes), s1);
      s2 = hn::MulAdd(value, load(at + 2 * K + i, lanes), s2);
      s3 = hn::MulAdd(value, load(at + 3 * K + i, lanes), s3);
    });
    scores[j] = hn::GetLane(hn::SumOfLanes(Lanes32(), s0));
    scores[j + 1] = hn::GetLane(hn::SumOfLanes(Lanes32(), s1));
    scores[j + 2] = hn::GetLane(hn::SumOfLanes(Lanes32(), s2));
    scores[j + 3] = hn::GetLane(hn::SumOfLanes(Lanes32(), s3));
  }
  for (; j < n; ++j)
    scores[j] = sum_vectors(K, [&](int64_t i, auto lanes) BASIN_INLINE_BODY {
      return hn::Mul(load(q + i, lanes), load(keys + j * K + i, lanes));
    });
}

// scores (n) -> exp(score - max); returns 1 / (their sum, plus exp(logit - max)).
HWY_INLINE float softmax_weights(int64_t n, const float* logit, float* scores) {
  const auto larger = [](Vector a, Vector b) BASIN_INLINE_BODY { return hn::Max(a, b); };
  const Vector least = constant(logit ? *logit : scores[0]);
  const float top =
      hn::GetLane(hn::MaxOfLanes(Lanes32(),
                                 reduce_vectors(
                                     n,
                                     least,
                                     [&](int64_t i, auto lanes) BASIN_INLINE_BODY {
                                       return fill_missing(load(scores + i, lanes), least, lanes);
                                     },
                                     larger)));
  const Vector shift = constant(top);
  const float sum = sum_vectors(n, [&](int64_t i, auto lanes) BASIN_INLINE_BODY {
    const Vector e = exp_vector(hn::Sub(load(scores + i, lanes), shift));
    store(e, scores + i, lanes);
    return fill_missing(e, constant(0), lanes);
  });
  return 1 / (sum + (logit ? std::exp(*logit - top) : 0));
}

// out (K) = factor * sum_j weights[j] values[j]. A few columns at a time, in registers.
template <class Float>
HWY_INLINE void weigh_slots(
    int64_t n, int64_t K, float factor, const float* weights, const Float* values, float* out) {
  int64_t i = 0;
  for (; i + 4 * kLanes <= K; i += 4 * kLanes) {
    Vector s0 = constant(0), s1 = s0, s2 = s0, s3 = s0;
    for (int64_t j = 0; j < n; ++j) {
      const Float* at = values + j * K + i;
      const Vector weight = constant(weights[j]);
      s0 = hn::MulAdd(weight, load(at, Whole()), s0);
      s1 = hn::MulAdd(weight, load(at + kLanes, Whole()), s1);
      s2 = hn::MulAdd(weight, load(at + 2 * kLanes, Whole()), s2);
      s3 = hn::MulAdd(weight, load(at + 3 * kLanes, Whole()), s3);
    }
    const Vector scale = constant(factor);
    store(hn::Mul(s0, scale), out + i, Whole());
    store(hn::Mul(s1, scale), out + i + kLanes, Whole());
    store(hn::Mul(s2, scale), out + i + 2 * kLanes, Whole());
    store(hn::Mul(s3, scale), out + i + 3 * kLanes, Whole());
  }
  for_vectors(K - i, [&](int64_t c, auto lanes) BASIN_INLINE_BODY {
    Vector even = constant(0), odd = even;
    int64_t j = 0;
    for (; j + 2 <= n; j += 2) {
      even = hn::MulAdd(constant(weights[j]), load(values + j * K + i + c, lanes), even);
      odd = hn::MulAdd(constant(weights[j + 1]), load(values + (j + 1) * K + i + c, lanes), odd);
    }
    if (j < n) even = hn::MulAdd(constant(weights[j]), load(values + j * K + i + c, lanes), even);
    store(hn::Mul(hn::Add(even, odd), constant(factor)), out + i + c, lanes);
  });
}

template <class Float>
void attend(const StreamStep& s, int64_t g, const StreamMemory<Float>& m) {
  const int64_t K = s.K, used = s.sinks + s.ring;
  const bool is_sink = s.slot < s.sinks;
  Float *group_keys = m.keys + g * s.slots * K, *group_values = m.values + g * s.slots * K;
  rotated_copy(K,
               s.rotary,
               m.qkv + (s.H + g) * K,
               is_sink ? s.cos_sink : s.cos_ring,
               is_sink ? s.sin_sink : s.sin_ring,
               1.0f,
               group_keys + s.slot * K);
  rotated_copy(
      K, 0, m.qkv + (s.H + s.G + g) * K, nullptr, nullptr, 1.0f, group_values + s.slot * K);
  float *q_ring = m.scratch, *q_sink = q_ring + K, *scores = q_sink + K;
  const float scale = 1.0f / std::sqrt(static_cast<float>(K));
  for (int64_t h = g * (s.H / s.G); h < (g + 1) * (s.H / s.G); ++h) {
    if (s.sinks > 0) {
      rotated_copy(K, s.rotary, m.qkv + h * K, s.cos_sink, s.sin_sink, scale, q_sink);
      score_slots(s.sinks, K, q_sink, group_keys, scores);
    }
    if (s.ring > 0) {
      rotated_copy(K, s.rotary, m.qkv + h * K, s.cos_ring, s.sin_ring, scale, q_ring);
      score_slots(s.ring, K, q_ring, group_keys + s.sinks * K, scores + s.sinks);
    }
    if (s.alibi) {
      const float* bias = s.alibi + h * s.slots;
      for_vectors(used, [&](int64_t i, auto lanes) BASIN_INLINE_BODY {
        store(hn::Add(load(scores + i, lanes), load(bias + i, lanes)), scores + i, lanes);
      });
    }
    const float factor = softmax_weights(used, s.sink_logit ? s.sink_logit + h : nullptr, scores);
    weigh_slots(used, K, factor, scores, group_values, m.out + h * K);
  }
}

constexpr auto& attend_f32 = attend<float>;
constexpr auto& attend_bf16 = attend<Bf16>;

}  // namespace HWY_NAMESPACE
}  // namespace basin::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
#include "model/kernels/cpu/parallel.h"

namespace basin::kernels {

namespace {

HWY_EXPORT(attend_f32);
HWY_EXPORT(attend_bf16);

}  // namespace

template <class Float>
void stream_attention(const StreamStep& s, int64_t g, const StreamMemory<Float>& memory) {
  BASIN_PICK(Float, attend)(s, g, memory);
}

int64_t stream_scratch(const StreamStep& s) {
  return 2 * s.K + s.slots;
}

template decltype(stream_attention<float>) stream_attention<float>;
template decltype(stream_attention<Bf16>) stream_attention<Bf16>;

}  // namespace basin::kernels
#endif  // HWY_ONCE
