#include "train/optimizer.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>

#include "model/ops.h"

namespace basin {

Optimizer::Optimizer(Transformer& model,
                     at::Tensor master,
                     const OptimizerConfig& config,
                     const std::vector<Range>& own)
    : model_(model), config_(config) {
  const int64_t total = model.flat().numel();
  TORCH_CHECK(master.scalar_type() == at::kFloat && master.numel() == total,
              "the master weights must be fp32 in the model's layout");
  if (!master.is_same(model.flat())) {  // all of them here: others publish theirs after a step
    at::NoGradGuard no_grad;
    at::Tensor(model.flat()).copy_(master);
  }
  for (const Range& range : own.empty() ? std::vector<Range>{{0, total}} : own) {
    const int64_t begin = std::min(range.begin, total), n = std::min(range.end, total) - begin;
    at::Tensor part = master.narrow(0, begin, n);
    // A part of a buffer keeps all of it alive.
    if (n < total && !master.is_same(model.flat())) part = part.clone();
    parts_.push_back({begin, part, at::zeros_like(part), at::zeros_like(part)});
  }
}

void Optimizer::step(const at::Tensor& gradient,
                     double scale,
                     double lr,
                     const std::function<void(size_t)>& done) {
  at::NoGradGuard no_grad;
  ++count_;
  const int64_t decayed = model_.decayed_size();
  ops::AdamW settings{.lr = lr,
                      .beta1 = config_.betas[0],
                      .beta2 = config_.betas[1],
                      .eps = config_.eps,
                      .weight_decay = config_.weight_decay,
                      .step = count_,
                      .grad_scale = scale};
  for (size_t i = 0; i < parts_.size(); ++i) {
    const Part& part = parts_[i];
    const int64_t end = part.begin + part.master.numel(),
                  border = std::clamp(decayed, part.begin, end);
    settings.weight_decay = config_.weight_decay;
    update(part, {part.begin, border}, gradient, settings);
    settings.weight_decay = 0;
    update(part, {border, end}, gradient, settings);
    if (done) done(i);
  }
}

void Optimizer::update(const Part& part,
                       Range range,
                       const at::Tensor& gradient,
                       ops::AdamW settings) {
  if (range.size() == 0) return;
  const auto own = [&](const at::Tensor& t) {
    return t.narrow(0, range.begin - part.begin, range.size());
  };
  at::Tensor master = own(part.master), m = own(part.m), v = own(part.v), published;
  if (model_.dtype() != at::kFloat) published = model_.flat().narrow(0, range.begin, range.size());
  ops::adamw(settings, gradient.narrow(0, range.begin, range.size()), master, m, v, published);
}

void Optimizer::publish() {
  if (model_.dtype() == at::kFloat) return;  // the master weights are the model's
  at::NoGradGuard no_grad;
  for (const Part& part : parts_)
    model_.flat().narrow(0, part.begin, part.master.numel()).copy_(part.master);
}

at::Tensor Optimizer::joined(at::Tensor Part::*buffer) const {
  if (parts_.size() == 1) return parts_[0].*buffer;
  std::vector<at::Tensor> all;
  for (const Part& part : parts_) all.push_back(part.*buffer);
  return at::cat(all);
}

}  // namespace basin
