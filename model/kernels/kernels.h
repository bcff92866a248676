// Raw-pointer kernels behind model/ops.h. cpu/ has them for the best instruction set of the machine (Highway: SSE4, AVX2, AVX-512), cuda/ for GPUs.
// No LibTorch in here; parallel over OpenMP threads. `Float` is float or bf16 (uint16_t bits, `Bf16`). Contiguous rows.
// All reductions have a fixed order for a given thread count. Tested against ops::reference.
#pragma once

#include <cstdint>

namespace basin::kernels {

/// The bits of a bfloat16, layout-compatible with c10::BFloat16.
struct Bf16 {
  uint16_t bits;
};

struct AttentionShape {
  int64_t B, T, H, G, K;    // batch, positions, query heads, key/value heads, head size (any K <= 256)
  int64_t rotary;           // rotated dimensions of a head, even, 0: none
};

/// qkv (B, T, (H + 2G) K); cos, sin fp32 (T, rotary/2); sink_logit fp32 (H) or null; slopes fp32 (H) or null: ALiBi, adds
/// slopes[h] * (key - query) to the scaled scores; out (B, T, H K); lse fp32 (B, H, T): log of the softmax's whole denominator, sink
/// included, natural log of scaled scores.
template <class Float>
void attention_forward(const AttentionShape& shape, const Float* qkv, const float* cos, const float* sin, const float* sink_logit, const float* slopes, Float* out, float* lse);

/// dout (B, T, H K) -> dqkv (B, T, (H + 2G) K), with the rotation undone; dsink_logit fp32 (H) or null.
template <class Float>
void attention_backward(const AttentionShape& shape, const Float* qkv, const float* cos, const float* sin, const float* sink_logit, const float* slopes, const Float* out,
                        const float* lse, const Float* dout, Float* dqkv, float* dsink_logit);

/// T consecutive tokens of one stream as one layer sees them (infer/kv_cache.h): query t sees the sinks, slots [0, S) of the cache, as far
/// as they have come, and the `recent` tokens before it, which lie in a ring behind the sinks, beside itself.
template <class Float>
struct StreamChunk {
  int64_t T, H, G, K, rotary;        // as in AttentionShape
  int64_t position;                  // of the first token in the stream, sinks included
  int64_t sinks, recent;             // S, R; the ring has R + 1 slots, token t >= S lies in slot S + (t - S) % (R + 1)
  const Float* qkv;                  // (T, (H + 2G) K)
  const float *cos_ring, *sin_ring;  // (T, rotary/2), true positions
  const float *cos_sink, *sin_sink;  // (T, rotary/2), distances to the sinks; unused without sinks
  const float* sink_logit;           // (H) or null
  const float* slopes;               // (H) or null: ALiBi, by places in the cache, where the query stands at min(t, S + R)
  Float *keys, *values;              // (G, S + R + 1, K), keys rotated; the chunk's own are stored
  Float* out;                        // (T, H K)
};
template <class Float>
void attention_stream(const StreamChunk<Float>& chunk);

/// rows x D. delta, bias may be null (no add; RMSNorm has no bias); is_rms picks RMSNorm. h (rows, D) = x + delta, unused without delta.
/// stats fp32 (rows, 2): mean (0 for RMSNorm) and reciprocal deviation.
template <class Float>
void norm_forward(int64_t rows, int64_t D, bool is_rms, float eps, const Float* x, const Float* delta, const Float* weight, const Float* bias, Float* h, Float* y, float* stats);

/// dh_in (rows, D) or null: gradient that reaches h from elsewhere (the residual stream), added to the result. dx (rows, D) is the gradient of h,
/// hence of x and of delta. dweight, dbias fp32 (D), overwritten.
template <class Float>
void norm_backward(int64_t rows, int64_t D, bool is_rms, const Float* h, const Float* weight, const float* stats, const Float* dy, const Float* dh_in, Float* dx, float* dweight,
                   float* dbias);

template <class Float>
void swiglu_forward(int64_t rows, int64_t F, const Float* gate_up, Float* y);
template <class Float>
void swiglu_backward(int64_t rows, int64_t F, const Float* gate_up, const Float* dy, Float* dgate_up);

template <class Float>
void gelu_forward(int64_t n, const Float* x, Float* y);
template <class Float>
void gelu_backward(int64_t n, const Float* x, const Float* dy, Float* dx);

/// logits (rows, V) in place -> (softmax - onehot(target)) * scale. nll fp32 (rows): log-sum-exp minus the target's logit.
template <class Float>
void cross_entropy_in_place(int64_t rows, int64_t V, Float* logits, const int64_t* targets, float scale, float* nll);

/// nll alone; the logits stay.
template <class Float>
void cross_entropy(int64_t rows, int64_t V, const Float* logits, const int64_t* targets, float* nll);

/// dweight fp32 (V, D) += rows of dy (n, D) by id, in order of n within each id.
template <class Float>
void embedding_backward(int64_t n, int64_t D, const int64_t* ids, const Float* dy, float* dweight);

struct AdamWStep {
  float lr, beta1, beta2, eps, weight_decay, grad_scale;
  float correction1, correction2;   // 1 - beta1^t, 1 - beta2^t
};
/// One AdamW step over n elements in place; `published` (n) bf16 copy of the new weights, or null.
void adamw(const AdamWStep& step, int64_t n, const float* grad, float* master, float* m, float* v, Bf16* published);

/// Sum of squares, accumulated in double per block; non-finite when any element is.
double sum_of_squares(int64_t n, const float* x);

/// sum[i] += x[i], n elements.
template <class Float>
void add_to_sum(int64_t n, const Float* x, float* sum);

/// "AVX3" and the like: the instruction set that dispatch picked.
const char* instruction_set();

}  // namespace basin::kernels
