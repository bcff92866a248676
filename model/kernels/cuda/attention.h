// What surrounds another library's attention on a GPU: rotary embedding on the way in and out, and
// the sink column of the softmax, which flash attention does not know, folded into its result
// afterwards. Pointers are to device memory; `Float` is float or Bf16, tables and logits are fp32.
#pragma once

#include "model/kernels/kernels.h"

namespace basin::kernels {

/// qkv (B, T, (H + 2G) K) -> qk (B, T, H + G, K): queries and keys, rotated. Values stay where they
/// are. cos, sin (T, rotary/2), null when nothing rotates.
template <class Float>
void rotary_split(
    const AttentionShape& shape, const Float* qkv, const float* cos, const float* sin, Float* qk);

/// Gradients of rotated queries and keys, and of values.
template <class Float>
struct SplitGradient {
  const Float* dq;  // (B, T, H, K)
  const Float* dk;  // (B, T, G, K)
  const Float* dv;  // (B, T, G, K)
};
/// -> dqkv (B, T, (H + 2G) K), with the rotation undone.
template <class Float>
void rotary_merge(const AttentionShape& shape,
                  const SplitGradient<Float>& gradient,
                  const float* cos,
                  const float* sin,
                  Float* dqkv);

/// Adds a column of score sink_logit (H) and value 0 to a softmax that has been computed without
/// it. out (B, T, H, K) and lse (B, H, T), natural log of the denominator, change in place. G and
/// rotary do not matter.
template <class Float>
void fold_sink(const AttentionShape& shape, const float* sink_logit, Float* out, float* lse);

/// What fold_sink left and the gradient of its out.
template <class Float>
struct FoldedSink {
  const float* sink_logit;  // (H)
  const Float* out;         // (B, T, H, K)
  const float* lse;         // (B, H, T)
  const Float* dout;        // (B, T, H, K)
};
/// -> dsink_logit (H), overwritten.
template <class Float>
void sink_logit_gradient(const AttentionShape& shape,
                         const FoldedSink<Float>& folded,
                         float* dsink_logit);

}  // namespace basin::kernels
