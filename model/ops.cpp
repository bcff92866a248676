// Chooses the fused CPU kernel or the reference for each op, and gives the kernels their gradients.
#include "model/ops.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <cmath>

#include "model/cuda.h"
#include "model/flash_attention.h"
#include "model/kernels/kernel_set.h"

namespace basin::ops {

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;
using OptionalTensor = std::optional<at::Tensor>;

thread_local bool t_reference = false;

bool fused(const at::Tensor& x) { return takes_cpu_kernel(x) || takes_cuda_kernel(x); }

// The kernels of the device that x is on.
const kernels::KernelSet& kernels_for(const at::Tensor& x) {
  static const kernels::KernelSet cpu = kernels::linked_kernels();
  return x.is_cuda() ? cuda_plugin()->kernels : cpu;
}

OptionalTensor optional(const at::Tensor& x) { return x.defined() ? OptionalTensor(x) : std::nullopt; }
at::Tensor tensor(const OptionalTensor& x) { return x.value_or(at::Tensor()); }
at::Tensor to_float(const at::Tensor& x) { return x.defined() ? x.to(at::kFloat).contiguous() : x; }

// Calls `body` with a value of the kernels' element type that matches the tensor.
template <class Body>
void with_element_type(const at::Tensor& x, Body&& body) {
  if (x.scalar_type() == at::kFloat) {
    body(float{});
  } else {
    body(kernels::Bf16{});
  }
}

template <class Element>
const Element* in(const at::Tensor& x) {
  return x.defined() ? static_cast<const Element*>(x.const_data_ptr()) : nullptr;
}
template <class Element>
Element* out(const at::Tensor& x) {
  return x.defined() ? static_cast<Element*>(x.mutable_data_ptr()) : nullptr;
}

// Norm, with the residual add when `delta` is there. Returns {h, y}; h is x itself without delta.
struct FusedNorm : Function<FusedNorm> {
  static variable_list forward(AutogradContext* ctx, const at::Tensor& x_in, const OptionalTensor& delta_in, const at::Tensor& weight,
                               const OptionalTensor& bias, bool is_rms, double eps) {
    const at::Tensor x = x_in.contiguous(), delta = delta_in ? delta_in->contiguous() : at::Tensor();
    const int64_t D = x.size(-1), rows = x.numel() / D;
    at::Tensor h = delta.defined() ? at::empty_like(x) : x, y = at::empty_like(x);
    at::Tensor stats = at::empty({rows, 2}, x.options().dtype(at::kFloat));
    with_element_type(x, [&](auto element) {
      using E = decltype(element);
      kernels_for(x).of<E>().norm_forward(rows, D, is_rms, static_cast<float>(eps), in<E>(x), in<E>(delta), in<E>(weight), in<E>(tensor(bias)),
                               delta.defined() ? out<E>(h) : nullptr, out<E>(y), out<float>(stats));
    });
    ctx->save_for_backward({h, weight, stats});
    ctx->saved_data["is_rms"] = is_rms;
    ctx->saved_data["has_delta"] = delta.defined();
    ctx->saved_data["has_bias"] = bias.has_value();
    ctx->set_materialize_grads(false);
    if (delta.defined()) return {h, y};
    return {y};
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const variable_list saved = ctx->get_saved_variables();
    const at::Tensor &h = saved[0], &weight = saved[1], &stats = saved[2];
    const bool has_delta = ctx->saved_data["has_delta"].toBool(), has_bias = ctx->saved_data["has_bias"].toBool();
    const at::Tensor dh = has_delta && grads[0].defined() ? grads[0].contiguous() : at::Tensor();
    if (!grads.back().defined()) return {dh, dh, at::Tensor(), at::Tensor(), at::Tensor(), at::Tensor()};
    const at::Tensor dy = grads.back().contiguous();
    const int64_t D = h.size(-1), rows = h.numel() / D;
    at::Tensor dx = at::empty_like(h);
    at::Tensor dweight = at::empty({D}, stats.options()), dbias = has_bias ? at::empty({D}, stats.options()) : at::Tensor();
    with_element_type(h, [&](auto element) {
      using E = decltype(element);
      kernels_for(h).of<E>().norm_backward(rows, D, ctx->saved_data["is_rms"].toBool(), in<E>(h), in<E>(weight), in<float>(stats), in<E>(dy), in<E>(dh),
                                out<E>(dx), out<float>(dweight), out<float>(dbias));
    });
    return {dx, has_delta ? dx : at::Tensor(), dweight.to(weight.scalar_type()), has_bias ? dbias.to(weight.scalar_type()) : dbias,
            at::Tensor(), at::Tensor()};
  }
};

// On a GPU, for a parallel residual: one pass over the stream for both of its norms.
struct FusedNormPair : Function<FusedNormPair> {
  using Bf16 = kernels::Bf16;
  static kernels::NormPair<Bf16> pair_of(const at::Tensor (&weights)[2], const at::Tensor (&biases)[2]) {
    return {{in<Bf16>(weights[0]), in<Bf16>(weights[1])}, {in<Bf16>(biases[0]), in<Bf16>(biases[1])}};
  }

  static variable_list forward(AutogradContext* ctx, const at::Tensor& x_in, const OptionalTensor& delta_in, const at::Tensor& weight, const OptionalTensor& bias,
                               const at::Tensor& second_weight, const OptionalTensor& second_bias, bool is_rms, double eps) {
    const at::Tensor x = x_in.contiguous(), delta = delta_in ? delta_in->contiguous() : at::Tensor();
    const int64_t D = x.size(-1), rows = x.numel() / D;
    const at::Tensor h = delta.defined() ? at::empty_like(x) : x, y = at::empty_like(x), second_y = at::empty_like(x);
    const at::Tensor stats = at::empty({rows, 2}, x.options().dtype(at::kFloat));
    const at::Tensor weights[] = {weight, second_weight}, biases[] = {tensor(bias), tensor(second_bias)};
    cuda_plugin()->norm_pair_forward(rows, D, is_rms, static_cast<float>(eps), in<Bf16>(x), in<Bf16>(delta), pair_of(weights, biases),
                                     delta.defined() ? out<Bf16>(h) : nullptr, {out<Bf16>(y), out<Bf16>(second_y)}, out<float>(stats));
    ctx->save_for_backward({h, weight, tensor(bias), second_weight, tensor(second_bias), stats});
    ctx->saved_data["is_rms"] = is_rms;
    ctx->saved_data["has_delta"] = delta.defined();
    if (delta.defined()) return {h, y, second_y};
    return {y, second_y};
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const variable_list saved = ctx->get_saved_variables();
    const at::Tensor &h = saved[0], &stats = saved[5], weights[] = {saved[1], saved[3]}, biases[] = {saved[2], saved[4]};
    const bool has_delta = ctx->saved_data["has_delta"].toBool();
    const size_t first = has_delta ? 1 : 0;
    const at::Tensor dh = has_delta ? grads[0].contiguous() : at::Tensor(), dy = grads[first].contiguous(), second_dy = grads[first + 1].contiguous();
    const int64_t D = h.size(-1), rows = h.numel() / D;
    const at::Tensor dx = at::empty_like(h), dweight = at::empty({2, D}, stats.options()), dbias = biases[0].defined() ? at::empty({2, D}, stats.options()) : at::Tensor();
    cuda_plugin()->norm_pair_backward(rows, D, ctx->saved_data["is_rms"].toBool(), in<Bf16>(h), pair_of(weights, biases), in<float>(stats),
                                      {in<Bf16>(dy), in<Bf16>(second_dy)}, in<Bf16>(dh), out<Bf16>(dx), out<float>(dweight), out<float>(dbias));
    const at::Tensor narrow = dweight.to(at::kBFloat16), narrow_bias = dbias.defined() ? dbias.to(at::kBFloat16) : dbias;
    const auto row = [](const at::Tensor& both, int64_t n) { return both.defined() ? both[n] : both; };
    return {dx, has_delta ? dx : at::Tensor(), row(narrow, 0), row(narrow_bias, 0), row(narrow, 1), row(narrow_bias, 1), at::Tensor(), at::Tensor()};
  }
};

struct FusedAttention : Function<FusedAttention> {
  static kernels::AttentionShape shape_of(const at::Tensor& qkv, const HeadShape& s, const at::Tensor& cos) {
    return {qkv.size(0), qkv.size(1), s.heads, s.kv_heads, s.head_size, cos.defined() ? 2 * cos.size(-1) : 0};
  }

  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& qkv_in, int64_t H, int64_t G, int64_t K, const OptionalTensor& cos_in,
                            const OptionalTensor& sin_in, const OptionalTensor& sink_logit) {
    const at::Tensor qkv = qkv_in.contiguous(), cos = to_float(tensor(cos_in)), sin = to_float(tensor(sin_in));
    const at::Tensor logit = to_float(tensor(sink_logit));
    const kernels::AttentionShape shape = shape_of(qkv, {H, G, K}, cos);
    at::Tensor y = at::empty({shape.B, shape.T, H * K}, qkv.options());
    at::Tensor lse = at::empty({shape.B, H, shape.T}, qkv.options().dtype(at::kFloat));
    with_element_type(qkv, [&](auto element) {
      using E = decltype(element);
      kernels::attention_forward<E>(shape, in<E>(qkv), in<float>(cos), in<float>(sin), in<float>(logit), out<E>(y), out<float>(lse));
    });
    ctx->save_for_backward({qkv, cos, sin, logit, y, lse});
    ctx->saved_data["heads"] = std::vector<int64_t>{H, G, K};
    if (sink_logit) ctx->saved_data["logit_dtype"] = static_cast<int64_t>(sink_logit->scalar_type());
    return y;
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const variable_list saved = ctx->get_saved_variables();
    const at::Tensor &qkv = saved[0], &cos = saved[1], &sin = saved[2], &logit = saved[3], &y = saved[4], &lse = saved[5];
    const std::vector<int64_t> heads = ctx->saved_data["heads"].toIntVector();
    const kernels::AttentionShape shape = shape_of(qkv, {heads[0], heads[1], heads[2]}, cos);
    const at::Tensor dy = grads[0].contiguous();
    at::Tensor dqkv = at::empty_like(qkv), dlogit = logit.defined() ? at::empty_like(logit) : at::Tensor();
    with_element_type(qkv, [&](auto element) {
      using E = decltype(element);
      kernels::attention_backward<E>(shape, in<E>(qkv), in<float>(cos), in<float>(sin), in<float>(logit), in<E>(y), in<float>(lse), in<E>(dy),
                                     out<E>(dqkv), out<float>(dlogit));
    });
    if (dlogit.defined()) dlogit = dlogit.to(static_cast<at::ScalarType>(ctx->saved_data["logit_dtype"].toInt()));
    return {dqkv, at::Tensor(), at::Tensor(), at::Tensor(), at::Tensor(), at::Tensor(), dlogit};
  }
};

struct FusedSwiglu : Function<FusedSwiglu> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& gate_up_in) {
    const at::Tensor gate_up = gate_up_in.contiguous();
    std::vector<int64_t> sizes = gate_up.sizes().vec();
    const int64_t F = sizes.back() /= 2;
    at::Tensor y = at::empty(sizes, gate_up.options());
    with_element_type(y, [&](auto element) {
      using E = decltype(element);
      kernels_for(y).of<E>().swiglu_forward(y.numel() / F, F, in<E>(gate_up), out<E>(y));
    });
    ctx->save_for_backward({gate_up});
    return y;
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const at::Tensor gate_up = ctx->get_saved_variables()[0], dy = grads[0].contiguous();
    at::Tensor dgate_up = at::empty_like(gate_up);
    const int64_t F = dy.size(-1);
    with_element_type(dy, [&](auto element) {
      using E = decltype(element);
      kernels_for(dy).of<E>().swiglu_backward(dy.numel() / F, F, in<E>(gate_up), in<E>(dy), out<E>(dgate_up));
    });
    return {dgate_up};
  }
};

struct FusedGelu : Function<FusedGelu> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x_in) {
    const at::Tensor x = x_in.contiguous();
    at::Tensor y = at::empty_like(x);
    with_element_type(x, [&](auto element) {
      using E = decltype(element);
      kernels_for(x).of<E>().gelu_forward(x.numel(), in<E>(x), out<E>(y));
    });
    ctx->save_for_backward({x});
    return y;
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const at::Tensor x = ctx->get_saved_variables()[0], dy = grads[0].contiguous();
    at::Tensor dx = at::empty_like(x);
    with_element_type(x, [&](auto element) {
      using E = decltype(element);
      kernels_for(x).of<E>().gelu_backward(x.numel(), in<E>(x), in<E>(dy), out<E>(dx));
    });
    return {dx};
  }
};

// On a GPU, for the bias' gradient: LibTorch's sum over rows takes twice as long as ours.
struct FusedLinear : Function<FusedLinear> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias) {
    ctx->save_for_backward({x, weight});
    return at::linear(x, weight, bias);
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const variable_list saved = ctx->get_saved_variables();
    const at::Tensor &x = saved[0], &weight = saved[1], dy = grads[0].contiguous().view({-1, weight.size(0)});
    const at::Tensor dbias = at::empty({weight.size(0)}, dy.options().dtype(at::kFloat));
    cuda_plugin()->sum_rows(dy.size(0), dy.size(1), in<kernels::Bf16>(dy), out<float>(dbias));
    return {at::mm(dy, weight).view(x.sizes()), at::mm(dy.t(), x.reshape({-1, weight.size(1)})), dbias.to(weight.scalar_type())};
  }
};

at::ScalarType sums_in(const at::Tensor& x) { return x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat; }

// logits (rows, V) in place -> (softmax - onehot(target)) * scale; nll (rows). Where there is no kernel, LibTorch's own ops.
void cross_entropy_in_place(at::Tensor& logits, const at::Tensor& targets, double scale, at::Tensor& nll) {
  if (fused(logits)) {
    with_element_type(logits, [&](auto element) {
      using E = decltype(element);
      kernels_for(logits).of<E>().cross_entropy_in_place(logits.size(0), logits.size(1), out<E>(logits), in<int64_t>(targets), static_cast<float>(scale), out<float>(nll));
    });
    return;
  }
  const at::Tensor log_p = at::log_softmax(logits, 1, sums_in(logits)), column = targets.unsqueeze(1);
  nll.copy_(log_p.gather(1, column).squeeze(1).neg());
  logits.copy_(log_p.exp().scatter_add_(1, column, at::full_like(column, -1, log_p.options())).mul_(scale));
}

// The gradients are computed in the forward pass, while the logits of a chunk exist; backward only scales them. For every device and dtype:
// the logits of a whole batch never exist.
struct FusedLinearCrossEntropy : Function<FusedLinearCrossEntropy> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& hidden_in, const at::Tensor& weight, const at::Tensor& targets_in, bool with_gradient) {
    const at::Tensor hidden = hidden_in.contiguous(), targets = targets_in.contiguous();
    const int64_t N = hidden.size(0), V = weight.size(0), chunk = loss_chunk_rows(N, V, hidden.is_cuda());
    at::Tensor nll = at::empty({N}, hidden.options().dtype(sums_in(hidden)));
    at::Tensor dhidden, dweight;
    if (with_gradient) dhidden = at::empty_like(hidden);
    at::Tensor buffer = at::empty({chunk, V}, hidden.options());
    for (int64_t begin = 0; begin < N; begin += chunk) {
      const int64_t rows = std::min(chunk, N - begin);
      const at::Tensor x = hidden.narrow(0, begin, rows);
      at::Tensor logits = buffer.narrow(0, 0, rows), nll_of_rows = nll.narrow(0, begin, rows);
      at::mm_out(logits, x, weight.t());
      if (!with_gradient) {
        nll_of_rows.copy_(token_cross_entropy(logits, targets.narrow(0, begin, rows)));
        continue;
      }
      cross_entropy_in_place(logits, targets.narrow(0, begin, rows), 1.0 / static_cast<double>(N), nll_of_rows);
      at::Tensor dx = dhidden.narrow(0, begin, rows);
      at::mm_out(dx, logits, weight);
      const at::Tensor dw = at::mm(logits.t(), x);
      if (rows == N) {
        dweight = dw;
      } else if (begin == 0) {
        dweight = dw.to(sums_in(hidden));
      } else {
        add_to_sum(dw, dweight);
      }
    }
    if (with_gradient) ctx->save_for_backward({dhidden, dweight.to(weight.scalar_type())});
    return nll.mean();
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const variable_list saved = ctx->get_saved_variables();
    if (grads[0].is_cuda()) return {saved[0] * grads[0], saved[1] * grads[0], at::Tensor(), at::Tensor()};   // nobody waits for the number
    const double scale = grads[0].item<double>();
    if (scale == 1) return {saved[0], saved[1], at::Tensor(), at::Tensor()};
    return {saved[0] * scale, saved[1] * scale, at::Tensor(), at::Tensor()};
  }
};

struct FusedEmbedding : Function<FusedEmbedding> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& ids, const at::Tensor& weight) {
    ctx->save_for_backward({ids.contiguous(), weight});
    return at::embedding(weight, ids);
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const variable_list saved = ctx->get_saved_variables();
    const at::Tensor &ids = saved[0], &weight = saved[1], dy = grads[0].contiguous();
    at::Tensor dweight = at::zeros(weight.sizes(), weight.options().dtype(at::kFloat));
    with_element_type(dy, [&](auto element) {
      using E = decltype(element);
      kernels_for(dy).of<E>().embedding_backward(ids.numel(), weight.size(1), in<int64_t>(ids), in<E>(dy), out<float>(dweight));
    });
    return {at::Tensor(), dweight.to(weight.scalar_type())};
  }
};

}  // namespace

bool takes_cpu_kernel(const at::Tensor& x) {
  return !t_reference && x.device().is_cpu() && (x.scalar_type() == at::kFloat || x.scalar_type() == at::kBFloat16);
}

bool takes_cuda_kernel(const at::Tensor& x) {
  return !t_reference && x.is_cuda() && (x.scalar_type() == at::kFloat || x.scalar_type() == at::kBFloat16) && cuda_plugin() != nullptr;
}

ReferenceGuard::ReferenceGuard() : before_(t_reference) { t_reference = true; }
ReferenceGuard::~ReferenceGuard() { t_reference = before_; }

at::Tensor norm(const at::Tensor& x, const Norm& n) {
  if (!fused(x)) return reference::norm(x, n);
  return FusedNorm::apply(x, OptionalTensor(), n.weight, optional(n.bias), n.kind == NormKind::kRms, n.eps)[0];
}

std::pair<at::Tensor, at::Tensor> add_norm(const at::Tensor& x, const at::Tensor& delta, const Norm& n) {
  if (!fused(x)) return reference::add_norm(x, delta, n);
  const variable_list both = FusedNorm::apply(x, OptionalTensor(delta), n.weight, optional(n.bias), n.kind == NormKind::kRms, n.eps);
  return {both[0], both[1]};
}

std::array<at::Tensor, 3> add_norms(const at::Tensor& x, const at::Tensor& delta, const Norm& first, const Norm& second) {
  if (takes_cuda_kernel(x) && x.scalar_type() == at::kBFloat16 && cuda_plugin()->takes_norm_pair(x.size(-1))) {
    const variable_list y = FusedNormPair::apply(x, optional(delta), first.weight, optional(first.bias), second.weight, optional(second.bias),
                                                 first.kind == NormKind::kRms, first.eps);
    return y.size() == 3 ? std::array{y[0], y[1], y[2]} : std::array{x, y[0], y[1]};
  }
  const auto [h, y] = delta.defined() ? add_norm(x, delta, first) : std::pair(x, norm(x, first));
  return {h, y, norm(h, second)};
}

at::Tensor attention(const at::Tensor& qkv, const HeadShape& shape, const Rotary& rotary, const at::Tensor& sink_logit, const at::Tensor& alibi) {
  if (alibi.defined()) return reference::attention(qkv, shape, rotary, sink_logit, alibi);   // no fused kernel knows it: slow, but right
  if (takes_flash_attention(qkv, shape.head_size)) return flash_attention(qkv, shape, rotary, sink_logit);
  if (!takes_cpu_kernel(qkv)) return reference::attention(qkv, shape, rotary, sink_logit);
  return FusedAttention::apply(qkv, shape.heads, shape.kv_heads, shape.head_size, optional(rotary.cos), optional(rotary.sin), optional(sink_logit));
}

Attended window_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, int64_t recent) {
  return takes_flash_attention(q, q.size(2)) ? flash_window_attention(q, k, v, recent) : reference::window_attention(q, k, v, recent);
}

at::Tensor swiglu(const at::Tensor& gate_up) { return fused(gate_up) ? FusedSwiglu::apply(gate_up) : reference::swiglu(gate_up); }

at::Tensor gelu(const at::Tensor& x) { return fused(x) ? FusedGelu::apply(x) : reference::gelu(x); }

at::Tensor linear_cross_entropy(const at::Tensor& hidden, const at::Tensor& weight, const at::Tensor& targets) {
  if (t_reference) return reference::linear_cross_entropy(hidden, weight, targets);
  const bool with_gradient = at::GradMode::is_enabled() && (hidden.requires_grad() || weight.requires_grad());
  return FusedLinearCrossEntropy::apply(hidden, weight, targets, with_gradient);
}

// About 4 M logits, so that they stay in the outer cache, but at least 1024 rows, since each chunk adds its gradient to all of the head's.
int64_t loss_chunk_rows(int64_t N, int64_t V, bool on_gpu) {
  constexpr int64_t kOnGpu = 16384;   // its caches are too small to matter, its matrix products like many rows
  return std::min(N, on_gpu ? kOnGpu : std::clamp<int64_t>((4 << 20) / V, 1024, 4096));
}

at::Tensor token_cross_entropy(const at::Tensor& logits_in, const at::Tensor& targets_in) {
  if (!fused(logits_in)) return reference::token_cross_entropy(logits_in, targets_in);
  const at::Tensor logits = logits_in.contiguous(), targets = targets_in.contiguous();
  at::Tensor nll = at::empty({logits.size(0)}, logits.options().dtype(at::kFloat));
  with_element_type(logits, [&](auto element) {
    using E = decltype(element);
    kernels_for(logits).of<E>().cross_entropy(logits.size(0), logits.size(1), in<E>(logits), in<int64_t>(targets), out<float>(nll));
  });
  return nll;
}

at::Tensor embedding(const at::Tensor& ids, const at::Tensor& weight) {
  return fused(weight) ? FusedEmbedding::apply(ids, weight) : reference::embedding(ids, weight);
}

at::Tensor linear(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias) {
  const bool trains = at::GradMode::is_enabled() && weight.requires_grad();
  if (trains && bias.defined() && takes_cuda_kernel(x) && x.scalar_type() == at::kBFloat16) return FusedLinear::apply(x, weight, bias);
  return at::linear(x, weight, optional(bias));
}

void adamw(const AdamW& a, const at::Tensor& grad, at::Tensor& master, at::Tensor& m, at::Tensor& v, at::Tensor& published) {
  const bool bf16_copy = !published.defined() || published.scalar_type() == at::kBFloat16;
  if (!fused(master) || !bf16_copy) return reference::adamw(a, grad, master, m, v, published);
  const double steps = static_cast<double>(a.step);
  const kernels::AdamWStep step{
      static_cast<float>(a.lr),         static_cast<float>(a.beta1),        static_cast<float>(a.beta2),
      static_cast<float>(a.eps),        static_cast<float>(a.weight_decay), static_cast<float>(a.grad_scale),
      static_cast<float>(1 - std::pow(a.beta1, steps)), static_cast<float>(1 - std::pow(a.beta2, steps))};
  kernels_for(master).adamw(step, master.numel(), in<float>(grad), out<float>(master), out<float>(m), out<float>(v), out<kernels::Bf16>(published));
}

double sum_of_squares(const at::Tensor& x) {
  TORCH_CHECK(x.scalar_type() == at::kFloat && x.is_contiguous(), "the sum of squares is of contiguous fp32");
  return fused(x) ? kernels_for(x).sum_of_squares(x.numel(), in<float>(x)) : reference::sum_of_squares(x);
}

void add_to_sum(const at::Tensor& x, at::Tensor& sum) {
  if (!takes_cuda_kernel(x) || x.scalar_type() != at::kBFloat16 || !x.is_contiguous()) {
    sum.add_(x);
    return;
  }
  cuda_plugin()->add_to_sum(x.numel(), in<kernels::Bf16>(x), out<float>(sum));
}

}  // namespace basin::ops
