// Which attention runs where, and the gradient of the fused one on the CPU.
#include <vector>

#include "model/flash_attention.h"
#include "model/op_functions.h"

namespace basin::ops {
namespace {

struct FusedAttention : Function<FusedAttention> {
  static at::Tensor forward(AutogradContext* ctx,
                            const at::Tensor& qkv_in,
                            int64_t H,
                            int64_t G,
                            int64_t K,
                            const OptionalTensor& cos_in,
                            const OptionalTensor& sin_in,
                            const OptionalTensor& sink_logit,
                            const OptionalTensor& slopes_in) {
    const at::Tensor qkv = qkv_in.contiguous(), cos = to_float(tensor(cos_in)),
                     sin = to_float(tensor(sin_in));
    const at::Tensor logit = to_float(tensor(sink_logit)), slopes = tensor(slopes_in);
    const kernels::AttentionShape shape = shape_of(qkv, {H, G, K}, cos);
    at::Tensor y = at::empty({shape.B, shape.T, H * K}, qkv.options());
    at::Tensor lse = at::empty({shape.B, H, shape.T}, qkv.options().dtype(at::kFloat));
    with_element_type(qkv, [&](auto element) {
      using E = decltype(element);
      kernels::attention_forward<E>(shape,
                                    in<E>(qkv),
                                    in<float>(cos),
                                    in<float>(sin),
                                    in<float>(logit),
                                    in<float>(slopes),
                                    out<E>(y),
                                    out<float>(lse));
    });
    ctx->save_for_backward({qkv, cos, sin, logit, y, lse, slopes});
    ctx->saved_data["heads"] = std::vector<int64_t>{H, G, K};
    if (sink_logit)
      ctx->saved_data["logit_dtype"] = static_cast<int64_t>(sink_logit->scalar_type());
    return y;
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const variable_list saved = ctx->get_saved_variables();
    const at::Tensor &qkv = saved[0], &cos = saved[1], &sin = saved[2], &logit = saved[3],
                     &y = saved[4], &lse = saved[5], &slopes = saved[6];
    const std::vector<int64_t> heads = ctx->saved_data["heads"].toIntVector();
    const kernels::AttentionShape shape = shape_of(qkv, {heads[0], heads[1], heads[2]}, cos);
    const at::Tensor dy = grads[0].contiguous();
    at::Tensor dqkv = at::empty_like(qkv),
               dlogit = logit.defined() ? at::empty_like(logit) : at::Tensor();
    with_element_type(qkv, [&](auto element) {
      using E = decltype(element);
      kernels::attention_backward<E>(shape,
                                     in<E>(qkv),
                                     in<float>(cos),
                                     in<float>(sin),
                                     in<float>(logit),
                                     in<float>(slopes),
                                     in<E>(y),
                                     in<float>(lse),
                                     in<E>(dy),
                                     out<E>(dqkv),
                                     out<float>(dlogit));
    });
    if (dlogit.defined())
      dlogit = dlogit.to(static_cast<at::ScalarType>(ctx->saved_data["logit_dtype"].toInt()));
    const at::Tensor none;
    return {dqkv, none, none, none, none, none, dlogit, none};
  }
};

}  // namespace

at::Tensor attention(const at::Tensor& qkv,
                     const HeadShape& shape,
                     const Rotary& rotary,
                     const at::Tensor& sink_logit,
                     const Alibi& alibi) {
  const bool biased = alibi.table.defined();
  if (!biased && takes_flash_attention(qkv, shape.head_size))
    return flash_attention(qkv, shape, rotary, sink_logit);
  if (!takes_cpu_kernel(qkv) || (biased && !alibi.slopes.defined()))  // slow, but right
    return reference::attention(qkv, shape, rotary, sink_logit, alibi);
  return FusedAttention::apply(qkv,
                               shape.heads,
                               shape.kv_heads,
                               shape.head_size,
                               optional(rotary.cos),
                               optional(rotary.sin),
                               optional(sink_logit),
                               optional(alibi.slopes));
}

Attended window_attention(const at::Tensor& q,
                          const at::Tensor& k,
                          const at::Tensor& v,
                          int64_t recent) {
  return takes_flash_attention(q, q.size(2)) ? flash_window_attention(q, k, v, recent)
                                             : reference::window_attention(q, k, v, recent);
}

}  // namespace basin::ops
