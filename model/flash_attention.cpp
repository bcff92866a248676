#include "model/flash_attention.h"

#include <optional>
#include <vector>

#include "model/cuda.h"
#include "model/op_functions.h"

namespace basin::ops {
namespace {

using kernels::Bf16;

thread_local bool t_repeats = false;

// Causal attention without sinks, by cuDNN where it takes about half of the time of flash attention 2, else by that.
// All tensors but lse are (B, T, heads, K).
struct SoftmaxOutput {
  at::Tensor y, lse;            // (B, H, T), cuDNN's with a 1 behind
  at::Tensor seed, offset;      // of a dropout that nobody asked for
};
struct Causal {
  at::Tensor q, k, v;
  bool by_cudnn;
  int64_t positions() const { return q.size(1); }
  SoftmaxOutput attend() const {
    if (!by_cudnn) {
      const auto [y, lse, seed, offset, mask] =
          at::_flash_attention_forward(q, k, v, std::nullopt, std::nullopt, positions(), positions(), 0.0, /*is_causal=*/true, false);
      return {y, lse, seed, offset};
    }
    const auto [y, lse, begins_q, begins_k, most_q, most_k, seed, offset, mask] = at::_scaled_dot_product_cudnn_attention(
        q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), std::nullopt, /*compute_log_sumexp=*/true, 0.0, /*is_causal=*/true, false);
    return {y.transpose(1, 2), lse, seed, offset};
  }
  // Gradients of q, k and v.
  std::tuple<at::Tensor, at::Tensor, at::Tensor> backward(const at::Tensor& dy, const SoftmaxOutput& a) const {
    const at::Tensor none;
    const int64_t T = positions();
    if (!by_cudnn) return at::_flash_attention_backward(dy, q, k, v, a.y, a.lse, none, none, T, T, 0.0, /*is_causal=*/true, a.seed, a.offset);
    const auto [dq, dk, dv] = at::_scaled_dot_product_cudnn_attention_backward(
        dy.transpose(1, 2), q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), a.y.transpose(1, 2), a.lse, a.seed, a.offset, none, none, none, T, T, 0.0,
        /*is_causal=*/true);
    return {dq.transpose(1, 2), dk.transpose(1, 2), dv.transpose(1, 2)};
  }
};

// On the GPUs on which LibTorch prefers it, too (sdp_utils.cpp, check_prefer_cudnn_attention).
bool takes_cudnn(int64_t positions, int64_t head_size) {
  static const int capability = cuda_plugin()->compute_capability();
  return t_repeats && (capability == 90 || capability == 100) && positions > 1 && head_size <= 128 && !at::globalContext().deterministicAlgorithms();
}

// Exact gradients: the backward pass takes the sink with the softmax's denominator, which already counts it.
struct FlashAttention : Function<FlashAttention> {
  static Causal heads_of(const at::Tensor& qkv, const at::Tensor& qk, const kernels::AttentionShape& s, bool by_cudnn) {
    return {qk.narrow(2, 0, s.H), qk.narrow(2, s.H, s.G), qkv.view({s.B, s.T, s.H + 2 * s.G, s.K}).narrow(2, s.H + s.G, s.G), by_cudnn};
  }

  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& qkv_in, int64_t H, int64_t G, int64_t K, const OptionalTensor& cos_in,
                            const OptionalTensor& sin_in, const OptionalTensor& sink_logit) {
    const at::Tensor qkv = qkv_in.contiguous(), cos = to_float(tensor(cos_in)), sin = to_float(tensor(sin_in)), logit = to_float(tensor(sink_logit));
    const kernels::AttentionShape shape = shape_of(qkv, {H, G, K}, cos);
    const at::Tensor qk = at::empty({shape.B, shape.T, H + G, K}, qkv.options());
    cuda_plugin()->rotary_split(shape, in<Bf16>(qkv), in<float>(cos), in<float>(sin), out<Bf16>(qk));
    const bool by_cudnn = takes_cudnn(shape.T, K);
    const auto [y, lse, seed, offset] = heads_of(qkv, qk, shape, by_cudnn).attend();
    TORCH_CHECK(y.is_contiguous() && lse.is_contiguous(), "flash attention has changed the layout of its results");
    if (logit.defined()) cuda_plugin()->fold_sink(shape, in<float>(logit), out<Bf16>(y), out<float>(lse));
    ctx->save_for_backward({qkv, qk, cos, sin, logit, y, lse, seed, offset});
    ctx->saved_data["heads"] = std::vector<int64_t>{H, G, K};
    ctx->saved_data["by_cudnn"] = by_cudnn;
    if (sink_logit) ctx->saved_data["logit_dtype"] = static_cast<int64_t>(sink_logit->scalar_type());
    return y.view({shape.B, shape.T, H * K});
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const variable_list saved = ctx->get_saved_variables();
    const at::Tensor &qkv = saved[0], &qk = saved[1], &cos = saved[2], &sin = saved[3], &logit = saved[4], &y = saved[5], &lse = saved[6];
    const std::vector<int64_t> heads = ctx->saved_data["heads"].toIntVector();
    const kernels::AttentionShape shape = shape_of(qkv, {heads[0], heads[1], heads[2]}, cos);
    const at::Tensor dy = grads[0].contiguous().view_as(y);
    const auto [dq, dk, dv] = heads_of(qkv, qk, shape, ctx->saved_data["by_cudnn"].toBool()).backward(dy, {y, lse, saved[7], saved[8]});
    const at::Tensor dqkv = at::empty_like(qkv), q = dq.contiguous(), k = dk.contiguous(), v = dv.contiguous();
    cuda_plugin()->rotary_merge(shape, {in<Bf16>(q), in<Bf16>(k), in<Bf16>(v)}, in<float>(cos), in<float>(sin), out<Bf16>(dqkv));
    at::Tensor dlogit;
    if (logit.defined()) {
      dlogit = at::empty_like(logit);
      cuda_plugin()->sink_logit_gradient(shape, {in<float>(logit), in<Bf16>(y), in<float>(lse), in<Bf16>(dy)}, out<float>(dlogit));
      dlogit = dlogit.to(static_cast<at::ScalarType>(ctx->saved_data["logit_dtype"].toInt()));
    }
    return {dqkv, at::Tensor(), at::Tensor(), at::Tensor(), at::Tensor(), at::Tensor(), dlogit};
  }
};

}  // namespace

ShapeRepeats::ShapeRepeats(bool repeats) : before_(t_repeats) { t_repeats = repeats; }
ShapeRepeats::~ShapeRepeats() { t_repeats = before_; }

bool takes_flash_attention(const at::Tensor& x, int64_t head_size) {
  return takes_cuda_kernel(x) && x.scalar_type() == at::kBFloat16 && head_size % 8 == 0 && head_size <= 256;
}

at::Tensor flash_attention(const at::Tensor& qkv, const HeadShape& shape, const Rotary& rotary, const at::Tensor& sink_logit) {
  return FlashAttention::apply(qkv, shape.heads, shape.kv_heads, shape.head_size, optional(rotary.cos), optional(rotary.sin), optional(sink_logit));
}

Attended flash_window_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, int64_t recent) {
  const auto [out, lse, rng_state, unused, mask] =
      at::_flash_attention_forward(q.unsqueeze(0), k.unsqueeze(0), v.unsqueeze(0), std::nullopt, std::nullopt, q.size(0), k.size(0), 0.0,
                                   /*is_causal=*/true, false, /*scale=*/1.0, /*window_size_left=*/recent, /*window_size_right=*/0);
  return {out.squeeze(0), lse.squeeze(0)};
}

}  // namespace basin::ops
