// The arithmetic that matters for speed. Each op has one signature; `ops::reference` holds the plain LibTorch version of the same name,
// which the tests compare against and which runs wherever no fused kernel applies (fp64, a build without CUDA kernels, odd layouts). All ops are differentiable.
// Legend: B batch, T positions, D hidden size, H query heads, G key/value heads, K head size, F MLP width, V vocabulary.
#pragma once

#include <ATen/core/Tensor.h>

#include <array>
#include <cstdint>
#include <optional>
#include <utility>

namespace basin::ops {

enum class NormKind { kRms, kLayer };

/// RMSNorm (arXiv 1910.07467) or LayerNorm (arXiv 1607.06450). Statistics in fp32.
struct Norm {
  NormKind kind = NormKind::kRms;
  at::Tensor weight;   // (D)
  at::Tensor bias;     // (D), undefined for RMSNorm
  double eps = 1e-5;
};

/// Rotary tables (arXiv 2104.09864), rotate_half convention: pairs (i, i + rotary/2). cos and sin are fp32 (T, rotary/2); undefined: no rotation.
struct Rotary {
  at::Tensor cos, sin;
};

/// How a packed qkv splits: heads in the order all q, all k, all v.
struct HeadShape {
  int64_t heads = 1, kv_heads = 1, head_size = 1;   // H, G, K
};

/// Positions as biases of the scores (model/alibi.h); undefined where there are none.
struct Alibi {
  at::Tensor table;    // fp64 (H, positions): table[h][key] - table[h][query] is added
  at::Tensor slopes;   // fp32 (H), on the CPU: that this is slopes[h] * (key - query), as fused kernels want it; undefined: it is not
};

/// x (..., D) -> norm(x) (..., D).
at::Tensor norm(const at::Tensor& x, const Norm& n);

/// Residual add, then norm: h = x + delta, returns (h, norm(h)). All (..., D).
std::pair<at::Tensor, at::Tensor> add_norm(const at::Tensor& x, const at::Tensor& delta, const Norm& n);

/// The same with two norms of one kind and eps: {h, first(h), second(h)}. Without delta (undefined) h is x.
std::array<at::Tensor, 3> add_norms(const at::Tensor& x, const at::Tensor& delta, const Norm& first, const Norm& second);

/// Causal self-attention over packed qkv (B, T, (H + 2G) K) with rotary inside -> (B, T, H K). Scale 1/sqrt(K).
/// `sink_logit` (H) adds exp(sink_logit) to each softmax's denominator (zero sink: zeros without gradient); undefined: plain softmax.
/// Query head h reads key/value head h / (H/G).
at::Tensor attention(const at::Tensor& qkv, const HeadShape& shape, const Rotary& rotary, const at::Tensor& sink_logit, const Alibi& alibi = {});

/// What a softmax over some of the keys came to: results over disjoint sets of keys can be merged.
struct Attended {
  at::Tensor out;   // (n, H, K)
  at::Tensor lse;   // fp32 (H, n), natural log of the softmax's denominator
};
/// The newest n tokens of a stream against a band of it: q (n, H, K), rotated and scaled, k and v (m, G, K) with m >= n. Query i is token
/// m - n + i of the band and sees itself and the `recent` tokens before it. No gradient.
Attended window_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, int64_t recent);

/// gate_up (..., 2F), gate first -> silu(gate) * up (..., F).
at::Tensor swiglu(const at::Tensor& gate_up);

/// GELU, erf form.
at::Tensor gelu(const at::Tensor& x);

/// Mean cross-entropy, fp32 scalar, of hidden (N, D) against weight (V, D) and int64 targets (N); the (N, V) logits never exist as a whole.
at::Tensor linear_cross_entropy(const at::Tensor& hidden, const at::Tensor& weight, const at::Tensor& targets);
/// Rows of logits that linear_cross_entropy holds at once, of N.
int64_t loss_chunk_rows(int64_t N, int64_t V, bool on_gpu);

/// logits (N, V), int64 targets (N) -> each row's negative log-likelihood, fp32 (fp64 of fp64) (N). No gradient.
at::Tensor token_cross_entropy(const at::Tensor& logits, const at::Tensor& targets);

/// ids int64 (B, T), weight (V, D) -> (B, T, D).
at::Tensor embedding(const at::Tensor& ids, const at::Tensor& weight);

/// x (..., in) -> (..., out), weight (out, in), bias (out) or undefined.
at::Tensor linear(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias);

/// One AdamW step (arXiv 1711.05101) over flat fp32 buffers of equal length, in place, and the compute copy in the same pass.
struct AdamW {
  double lr = 1e-3, beta1 = 0.9, beta2 = 0.95, eps = 1e-8, weight_decay = 0;
  int64_t step = 1;            // counts from 1, for the bias correction
  double grad_scale = 1;       // the gradient is multiplied by it first (clipping, mean over micro-batches and ranks)
};
/// `published` is the compute copy, bf16 or undefined (fp32 training uses `master` itself).
void adamw(const AdamW& a, const at::Tensor& grad, at::Tensor& master, at::Tensor& m, at::Tensor& v, at::Tensor& published);

/// Of contiguous fp32, summed in fp64; non-finite when any element is. Waits for the device.
double sum_of_squares(const at::Tensor& x);

/// sum += x; the sum is fp32 and contiguous.
void add_to_sum(const at::Tensor& x, at::Tensor& sum);

namespace reference {
at::Tensor norm(const at::Tensor& x, const Norm& n);
std::pair<at::Tensor, at::Tensor> add_norm(const at::Tensor& x, const at::Tensor& delta, const Norm& n);
at::Tensor attention(const at::Tensor& qkv, const HeadShape& shape, const Rotary& rotary, const at::Tensor& sink_logit, const Alibi& alibi = {});
Attended window_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, int64_t recent);
at::Tensor swiglu(const at::Tensor& gate_up);
at::Tensor gelu(const at::Tensor& x);
at::Tensor linear_cross_entropy(const at::Tensor& hidden, const at::Tensor& weight, const at::Tensor& targets);
at::Tensor token_cross_entropy(const at::Tensor& logits, const at::Tensor& targets);
at::Tensor embedding(const at::Tensor& ids, const at::Tensor& weight);
void adamw(const AdamW& a, const at::Tensor& grad, at::Tensor& master, at::Tensor& m, at::Tensor& v, at::Tensor& published);
double sum_of_squares(const at::Tensor& x);
}  // namespace reference

/// Whether ops on x take a fused CPU kernel here: fp32 or bf16 on the CPU, and no ReferenceGuard alive.
bool takes_cpu_kernel(const at::Tensor& x);

/// The same for GPUs: fp32 or bf16 there, and Basin's kernels loaded.
bool takes_cuda_kernel(const at::Tensor& x);

/// While alive, every op of this thread takes its reference path (tests, debugging).
class ReferenceGuard {
 public:
  ReferenceGuard();
  ~ReferenceGuard();

 private:
  bool before_;
};

}  // namespace basin::ops
