#include "model/recompute.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>

#include <optional>
#include <utility>

namespace basin {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;
using OptionalTensor = std::optional<at::Tensor>;

/// Keeps the block for as long as the graph that needs it.
struct BlockHolder : torch::CustomClassHolder {
  explicit BlockHolder(Block held) : block(std::move(held)) {}
  Block block;
};

/// The same numbers as the beginning of a graph of their own.
at::Tensor as_leaf(const at::Tensor& x) {
  return x.defined() ? x.detach().requires_grad_(true) : x;
}

at::Tensor gradient_of(const at::Tensor& leaf) {
  return leaf.defined() ? leaf.grad() : at::Tensor();
}

struct RecomputedBlock : Function<RecomputedBlock> {
  static variable_list forward(AutogradContext* ctx,
                               const Block& block,
                               const at::Tensor& x,
                               const OptionalTensor& delta_in) {
    const at::Tensor delta = delta_in.value_or(at::Tensor());
    ctx->save_for_backward({x, delta});
    ctx->saved_data["block"] = c10::IValue::make_capsule(c10::make_intrusive<BlockHolder>(block));
    ctx->set_materialize_grads(false);
    const Residual out = block({x, delta});
    return {out.x, out.delta};
  }

  // A backward pass within the backward pass: it adds to the parameters' gradients by itself.
  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const variable_list saved = ctx->get_saved_variables();
    const Residual in{as_leaf(saved[0]), as_leaf(saved[1])};
    variable_list outputs, gradients;
    {
      const at::AutoGradMode with_gradients(true);
      const auto holder = ctx->saved_data["block"].toCapsule();
      const Residual out = static_cast<const BlockHolder&>(*holder).block(in);
      for (const auto& [output, gradient] :
           {std::pair(out.x, grads[0]), std::pair(out.delta, grads[1])}) {
        if (!gradient.defined()) continue;
        outputs.push_back(output);
        gradients.push_back(gradient);
      }
    }
    torch::autograd::backward(outputs, gradients);
    return {at::Tensor(), gradient_of(in.x), gradient_of(in.delta)};
  }
};

}  // namespace

Residual recomputed(const Block& block, const Residual& in) {
  if (!at::GradMode::is_enabled() || !in.x.requires_grad()) return block(in);
  const variable_list out = RecomputedBlock::apply(
      block, in.x, in.delta.defined() ? OptionalTensor(in.delta) : std::nullopt);
  return {out[0], out[1]};
}

}  // namespace basin
