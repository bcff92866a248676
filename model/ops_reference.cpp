// The plain LibTorch versions: short enough to be checked by eye, differentiable by autograd, on any device and dtype.
#include <ATen/ATen.h>

#include <cmath>
#include <limits>

#include "model/ops.h"
#include "model/rope.h"

namespace basin::ops::reference {

namespace {

// Statistics, softmax and losses are computed in fp32 at least.
at::Tensor to_math(const at::Tensor& x) { return x.scalar_type() == at::kDouble ? x : x.to(at::kFloat); }

}  // namespace

at::Tensor norm(const at::Tensor& x, const Norm& n) {
  at::Tensor y = to_math(x);
  if (n.kind == NormKind::kLayer) y = y - y.mean(-1, true);
  y = y * (y.square().mean(-1, true) + n.eps).rsqrt() * to_math(n.weight);
  if (n.bias.defined()) y = y + to_math(n.bias);
  return y.to(x.scalar_type());
}

std::pair<at::Tensor, at::Tensor> add_norm(const at::Tensor& x, const at::Tensor& delta, const Norm& n) {
  const at::Tensor h = x + delta;
  return {h, reference::norm(h, n)};
}

at::Tensor attention(const at::Tensor& qkv, const HeadShape& shape, const Rotary& rotary, const at::Tensor& sink_logit, const Alibi& alibi) {
  const int64_t B = qkv.size(0), T = qkv.size(1), H = shape.heads, G = shape.kv_heads, K = shape.head_size;
  const at::Tensor heads_BTHK = qkv.view({B, T, H + 2 * G, K});
  const at::Tensor q_BHTK = to_math(apply_rotary(heads_BTHK.narrow(2, 0, H), rotary)).transpose(1, 2);
  const at::Tensor k_BHTK = to_math(apply_rotary(heads_BTHK.narrow(2, H, G), rotary)).transpose(1, 2).repeat_interleave(H / G, 1);
  const at::Tensor v_BHTK = to_math(heads_BTHK.narrow(2, H + G, G)).transpose(1, 2).repeat_interleave(H / G, 1);
  at::Tensor scores_BHTT = at::matmul(q_BHTK, k_BHTK.transpose(-1, -2)) / std::sqrt(static_cast<double>(K));
  if (alibi.table.defined()) scores_BHTT = scores_BHTT + (alibi.table.unsqueeze(1) - alibi.table.unsqueeze(2)).to(scores_BHTT.scalar_type());
  const at::Tensor future = at::ones({T, T}, scores_BHTT.options().dtype(at::kBool)).triu(1);
  scores_BHTT = scores_BHTT.masked_fill(future, -std::numeric_limits<double>::infinity());
  if (sink_logit.defined()) {   // one more column of value 0, dropped after the softmax
    const at::Tensor column = to_math(sink_logit).to(scores_BHTT.scalar_type()).view({1, H, 1, 1}).expand({B, H, T, 1});
    scores_BHTT = at::cat({scores_BHTT, column}, -1).softmax(-1).narrow(-1, 0, T);
  } else {
    scores_BHTT = scores_BHTT.softmax(-1);
  }
  return at::matmul(scores_BHTT, v_BHTK).transpose(1, 2).reshape({B, T, H * K}).to(qkv.scalar_type());
}

Attended window_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, int64_t recent) {
  const int64_t n = q.size(0), m = k.size(0), H = q.size(1), G = k.size(1);
  const at::Tensor q_HnK = to_math(q).transpose(0, 1), k_HmK = to_math(k).transpose(0, 1).repeat_interleave(H / G, 0),
                   v_HmK = to_math(v).transpose(0, 1).repeat_interleave(H / G, 0);
  const at::TensorOptions options = at::TensorOptions(at::kLong).device(q.device());
  const at::Tensor distance = at::arange(m - n, m, options).unsqueeze(1) - at::arange(m, options).unsqueeze(0);   // (n, m)
  const at::Tensor unseen = distance.lt(0).logical_or(distance.gt(recent));
  const at::Tensor scores_Hnm = at::matmul(q_HnK, k_HmK.transpose(1, 2)).masked_fill(unseen, -std::numeric_limits<double>::infinity());
  return {at::matmul(scores_Hnm.softmax(-1), v_HmK).transpose(0, 1).to(q.scalar_type()), scores_Hnm.logsumexp(-1)};
}

at::Tensor swiglu(const at::Tensor& gate_up) {
  const int64_t F = gate_up.size(-1) / 2;
  const at::Tensor gate = to_math(gate_up.narrow(-1, 0, F)), up = to_math(gate_up.narrow(-1, F, F));
  return (at::silu(gate) * up).to(gate_up.scalar_type());
}

at::Tensor gelu(const at::Tensor& x) { return at::gelu(to_math(x)).to(x.scalar_type()); }

at::Tensor linear_cross_entropy(const at::Tensor& hidden, const at::Tensor& weight, const at::Tensor& targets) {
  return at::cross_entropy_loss(at::matmul(to_math(hidden), to_math(weight).t()), targets);
}

at::Tensor token_cross_entropy(const at::Tensor& logits, const at::Tensor& targets) {
  const at::Tensor wide = logits.scalar_type() == at::kDouble ? logits : logits.to(at::kFloat);
  return wide.logsumexp(1) - wide.gather(1, targets.unsqueeze(1)).squeeze(1);
}

at::Tensor embedding(const at::Tensor& ids, const at::Tensor& weight) { return at::embedding(weight, ids); }

void adamw(const AdamW& a, const at::Tensor& grad, at::Tensor& master, at::Tensor& m, at::Tensor& v, at::Tensor& published) {
  const at::Tensor g = grad * a.grad_scale;
  m.mul_(a.beta1).add_(g, 1 - a.beta1);
  v.mul_(a.beta2).addcmul_(g, g, 1 - a.beta2);
  const double correction1 = 1 - std::pow(a.beta1, static_cast<double>(a.step));
  const double correction2 = 1 - std::pow(a.beta2, static_cast<double>(a.step));
  master.mul_(1 - a.lr * a.weight_decay).addcdiv_(m / correction1, (v / correction2).sqrt().add_(a.eps), -a.lr);
  if (published.defined()) published.copy_(master);
}

double sum_of_squares(const at::Tensor& x) { return x.to(at::kDouble).square().sum().item<double>(); }

}  // namespace basin::ops::reference
