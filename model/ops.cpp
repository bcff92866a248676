// Chooses the fused CPU kernel or the reference for each op, and gives the kernels their gradients.
#include "model/ops.h"

#include <ATen/ATen.h>

#include <cmath>

#include "model/cuda.h"
#include "model/gemm.h"
#include "model/op_functions.h"

namespace basin::ops {

namespace {

thread_local bool t_reference = false;

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

// On a CPU for its product. On a GPU for the bias' gradient: LibTorch's sum over rows takes twice as long as ours.
struct FusedLinear : Function<FusedLinear> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x_in, const at::Tensor& weight, const OptionalTensor& bias) {
    const at::Tensor x = x_in.contiguous();
    ctx->save_for_backward({x, weight});
    ctx->saved_data["bias"] = bias.has_value();
    return apply_linear(x, weight, tensor(bias));
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const variable_list saved = ctx->get_saved_variables();
    const at::Tensor &x = saved[0], &weight = saved[1], dy = grads[0].contiguous().view({-1, weight.size(0)});
    at::Tensor dbias;
    if (ctx->saved_data["bias"].toBool()) dbias = sum_rows(dy);
    return {gemm(dy, weight).view(x.sizes()), gemm(dy.t(), x.view({-1, weight.size(1)})), dbias};
  }

  static at::Tensor apply_linear(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias) {
    if (!takes_gemm(x)) return at::linear(x, weight, optional(bias));
    std::vector<int64_t> sizes = x.sizes().vec();
    sizes.back() = weight.size(0);
    return gemm(x.reshape({-1, weight.size(1)}), weight.t(), bias).view(sizes);
  }

 private:
  static at::Tensor sum_rows(const at::Tensor& dy) {
    if (!dy.is_cuda()) return dy.sum(0);
    const at::Tensor sums = at::empty({dy.size(1)}, dy.options().dtype(at::kFloat));
    cuda_plugin()->sum_rows(dy.size(0), dy.size(1), in<kernels::Bf16>(dy), out<float>(sums));
    return sums.to(dy.scalar_type());
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

bool wants_reference() { return t_reference; }

bool fused(const at::Tensor& x) { return takes_cpu_kernel(x) || takes_cuda_kernel(x); }

const kernels::KernelSet& kernels_for(const at::Tensor& x) {
  static const kernels::KernelSet cpu = kernels::linked_kernels();
  return x.is_cuda() ? cuda_plugin()->kernels : cpu;
}

bool takes_cpu_kernel(const at::Tensor& x) {
  return !t_reference && x.device().is_cpu() && (x.scalar_type() == at::kFloat || x.scalar_type() == at::kBFloat16);
}

bool takes_cuda_kernel(const at::Tensor& x) {
  return !t_reference && x.is_cuda() && (x.scalar_type() == at::kFloat || x.scalar_type() == at::kBFloat16) && cuda_plugin() != nullptr;
}

ReferenceGuard::ReferenceGuard() : before_(t_reference) { t_reference = true; }
ReferenceGuard::~ReferenceGuard() { t_reference = before_; }

at::Tensor swiglu(const at::Tensor& gate_up) { return fused(gate_up) ? FusedSwiglu::apply(gate_up) : reference::swiglu(gate_up); }

at::Tensor gelu(const at::Tensor& x) { return fused(x) ? FusedGelu::apply(x) : reference::gelu(x); }

at::Tensor embedding(const at::Tensor& ids, const at::Tensor& weight) {
  return fused(weight) ? FusedEmbedding::apply(ids, weight) : reference::embedding(ids, weight);
}

at::Tensor linear(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias) {
  const bool trains = at::GradMode::is_enabled() && weight.requires_grad();
  const bool sums_on_gpu = bias.defined() && takes_cuda_kernel(x) && x.scalar_type() == at::kBFloat16;
  if (trains && (takes_gemm(x) || sums_on_gpu)) return FusedLinear::apply(x, weight, optional(bias));
  if (takes_gemm(x) && !at::GradMode::is_enabled()) return FusedLinear::apply_linear(x, weight, bias);
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
  if (!fused(x) || x.scalar_type() != at::kBFloat16 || !x.is_contiguous()) {
    sum.add_(x);
    return;
  }
  kernels_for(x).add_to_sum(x.numel(), in<kernels::Bf16>(x), out<float>(sum));
}

}  // namespace basin::ops
