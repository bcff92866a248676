#include "train/gradient_buckets.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/function_hook.h>
#include <torch/csrc/autograd/variable.h>

#include <cmath>
#include <memory>

#include "model/ops.h"

namespace basin {
namespace {

/// Moves a fresh gradient of another dtype into its place in the fp32 buffer: summing micro-batches
/// in bf16 would lose their small differences.
struct AddToBuffer : torch::autograd::PostAccumulateGradHook {
  explicit AddToBuffer(at::Tensor sum) : sum_(std::move(sum)) {}
  void operator()(const at::Tensor& parameter) override {
    at::NoGradGuard no_grad;
    sum_.add_(parameter.grad());
    parameter.mutable_grad().reset();
  }
  at::Tensor sum_;  // fp32, the parameter's shape
};

}  // namespace

GradientBuckets::GradientBuckets(Transformer& model)
    : model_(model),
      flat_(at::zeros(model.flat().sizes(), model.flat().options().dtype(at::kFloat))) {
  for (const Parameter& p : model.parameters()) {
    at::Tensor view = flat_.narrow(0, p.offset, p.tensor.numel()).view(p.tensor.sizes());
    p.tensor.requires_grad_(true);
    if (model.dtype() == at::kFloat) {
      p.tensor.mutable_grad() = std::move(view);
    } else {
      torch::autograd::impl::set_post_acc_grad_hooks(
          p.tensor, std::make_unique<AddToBuffer>(std::move(view)));
    }
  }
}

GradientBuckets::~GradientBuckets() {
  for (const Parameter& p : model_.parameters()) {
    p.tensor.mutable_grad().reset();
    torch::autograd::impl::set_post_acc_grad_hooks(p.tensor, nullptr);
  }
}

void GradientBuckets::zero() {
  flat_.zero_();
}

double GradientBuckets::norm() const {
  return std::sqrt(ops::sum_of_squares(flat_));
}

}  // namespace basin
