// RMSNorm and LayerNorm, with the residual add before them.
#include <vector>

#include "model/cuda.h"
#include "model/op_functions.h"

namespace basin::ops {
namespace {

// Norm, with the residual add when `delta` is there. Returns {h, y}; h is x itself without delta.
struct FusedNorm : Function<FusedNorm> {
  static variable_list forward(AutogradContext* ctx,
                               const at::Tensor& x_in,
                               const OptionalTensor& delta_in,
                               const at::Tensor& weight,
                               const OptionalTensor& bias,
                               bool is_rms,
                               double eps) {
    const at::Tensor x = x_in.contiguous(),
                     delta = delta_in ? delta_in->contiguous() : at::Tensor();
    const int64_t D = x.size(-1), rows = x.numel() / D;
    at::Tensor h = delta.defined() ? at::empty_like(x) : x, y = at::empty_like(x);
    at::Tensor stats = at::empty({rows, 2}, x.options().dtype(at::kFloat));
    with_element_type(x, [&](auto element) {
      using E = decltype(element);
      kernels_for(x).of<E>().norm_forward(rows,
                                          D,
                                          is_rms,
                                          static_cast<float>(eps),
                                          in<E>(x),
                                          in<E>(delta),
                                          in<E>(weight),
                                          in<E>(tensor(bias)),
                                          delta.defined() ? out<E>(h) : nullptr,
                                          out<E>(y),
                                          out<float>(stats));
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
    const bool has_delta = ctx->saved_data["has_delta"].toBool(),
               has_bias = ctx->saved_data["has_bias"].toBool();
    const at::Tensor dh = has_delta && grads[0].defined() ? grads[0].contiguous() : at::Tensor();
    if (!grads.back().defined())
      return {dh, dh, at::Tensor(), at::Tensor(), at::Tensor(), at::Tensor()};
    const at::Tensor dy = grads.back().contiguous();
    const int64_t D = h.size(-1), rows = h.numel() / D;
    at::Tensor dx = at::empty_like(h);
    at::Tensor dweight = at::empty({D}, stats.options()),
               dbias = has_bias ? at::empty({D}, stats.options()) : at::Tensor();
    with_element_type(h, [&](auto element) {
      using E = decltype(element);
      kernels_for(h).of<E>().norm_backward(rows,
                                           D,
                                           ctx->saved_data["is_rms"].toBool(),
                                           in<E>(h),
                                           in<E>(weight),
                                           in<float>(stats),
                                           in<E>(dy),
                                           in<E>(dh),
                                           out<E>(dx),
                                           out<float>(dweight),
                                           out<float>(dbias));
    });
    return {dx,
            has_delta ? dx : at::Tensor(),
            dweight.to(weight.scalar_type()),
            has_bias ? dbias.to(weight.scalar_type()) : dbias,
            at::Tensor(),
            at::Tensor()};
  }
};

// On a GPU, for a parallel residual: one pass over the stream for both of its norms.
struct FusedNormPair : Function<FusedNormPair> {
  using Bf16 = kernels::Bf16;
  static kernels::NormPair<Bf16> pair_of(const at::Tensor (&weights)[2],
                                         const at::Tensor (&biases)[2]) {
    return {{in<Bf16>(weights[0]), in<Bf16>(weights[1])},
            {in<Bf16>(biases[0]), in<Bf16>(biases[1])}};
  }

  static variable_list forward(AutogradContext* ctx,
                               const at::Tensor& x_in,
                               const OptionalTensor& delta_in,
                               const at::Tensor& weight,
                               const OptionalTensor& bias,
                               const at::Tensor& second_weight,
                               const OptionalTensor& second_bias,
                               bool is_rms,
                               double eps) {
    const at::Tensor x = x_in.contiguous(),
                     delta = delta_in ? delta_in->contiguous() : at::Tensor();
    const int64_t D = x.size(-1), rows = x.numel() / D;
    const at::Tensor h = delta.defined() ? at::empty_like(x) : x, y = at::empty_like(x),
                     second_y = at::empty_like(x);
    const at::Tensor stats = at::empty({rows, 2}, x.options().dtype(at::kFloat));
    const at::Tensor weights[] = {weight, second_weight},
                     biases[] = {tensor(bias), tensor(second_bias)};
    cuda_plugin()->norm_pair_forward(rows,
                                     D,
                                     is_rms,
                                     static_cast<float>(eps),
                                     in<Bf16>(x),
                                     in<Bf16>(delta),
                                     pair_of(weights, biases),
                                     delta.defined() ? out<Bf16>(h) : nullptr,
                                     {out<Bf16>(y), out<Bf16>(second_y)},
                                     out<float>(stats));
    ctx->save_for_backward({h, weight, tensor(bias), second_weight, tensor(second_bias), stats});
    ctx->saved_data["is_rms"] = is_rms;
    ctx->saved_data["has_delta"] = delta.defined();
    if (delta.defined()) return {h, y, second_y};
    return {y, second_y};
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const variable_list saved = ctx->get_saved_variables();
    const at::Tensor &h = saved[0], &stats = saved[5], weights[] = {saved[1], saved[3]},
                     biases[] = {saved[2], saved[4]};
    const bool has_delta = ctx->saved_data["has_delta"].toBool();
    const size_t first = has_delta ? 1 : 0;
    const at::Tensor dh = has_delta ? grads[0].contiguous() : at::Tensor(),
                     dy = grads[first].contiguous(), second_dy = grads[first + 1].contiguous();
    const int64_t D = h.size(-1), rows = h.numel() / D;
    const at::Tensor dx = at::empty_like(h), dweight = at::empty({2, D}, stats.options()),
                     dbias =
                         biases[0].defined() ? at::empty({2, D}, stats.options()) : at::Tensor();
    cuda_plugin()->norm_pair_backward(rows,
                                      D,
                                      ctx->saved_data["is_rms"].toBool(),
                                      in<Bf16>(h),
                                      pair_of(weights, biases),
                                      in<float>(stats),
                                      {in<Bf16>(dy), in<Bf16>(second_dy)},
                                      in<Bf16>(dh),
                                      out<Bf16>(dx),
                                      out<float>(dweight),
                                      out<float>(dbias));
    const at::Tensor narrow = dweight.to(at::kBFloat16),
                     narrow_bias = dbias.defined() ? dbias.to(at::kBFloat16) : dbias;
    const auto row = [](const at::Tensor& both, int64_t n) {
      return both.defined() ? both[n] : both;
    };
    return {dx,
            has_delta ? dx : at::Tensor(),
            row(narrow, 0),
            row(narrow_bias, 0),
            row(narrow, 1),
            row(narrow_bias, 1),
            at::Tensor(),
            at::Tensor()};
  }
};

}  // namespace

at::Tensor norm(const at::Tensor& x, const Norm& n) {
  if (!fused(x)) return reference::norm(x, n);
  return FusedNorm::apply(
      x, OptionalTensor(), n.weight, optional(n.bias), n.kind == NormKind::kRms, n.eps)[0];
}

std::pair<at::Tensor, at::Tensor> add_norm(const at::Tensor& x,
                                           const at::Tensor& delta,
                                           const Norm& n) {
  if (!fused(x)) return reference::add_norm(x, delta, n);
  const variable_list both = FusedNorm::apply(
      x, OptionalTensor(delta), n.weight, optional(n.bias), n.kind == NormKind::kRms, n.eps);
  return {both[0], both[1]};
}

std::array<at::Tensor, 3> add_norms(const at::Tensor& x,
                                    const at::Tensor& delta,
                                    const Norm& first,
                                    const Norm& second) {
  if (takes_cuda_kernel(x) && x.scalar_type() == at::kBFloat16 &&
      cuda_plugin()->takes_norm_pair(x.size(-1))) {
    const variable_list y = FusedNormPair::apply(x,
                                                 optional(delta),
                                                 first.weight,
                                                 optional(first.bias),
                                                 second.weight,
                                                 optional(second.bias),
                                                 first.kind == NormKind::kRms,
                                                 first.eps);
    return y.size() == 3 ? std::array{y[0], y[1], y[2]} : std::array{x, y[0], y[1]};
  }
  const auto [h, y] = delta.defined() ? add_norm(x, delta, first) : std::pair(x, norm(x, first));
  return {h, y, norm(h, second)};
}

}  // namespace basin::ops
