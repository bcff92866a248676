#include "train/optimizer.h"

#include <ATen/ATen.h>

#include "model/ops.h"

namespace basin {

Optimizer::Optimizer(Transformer& model, at::Tensor master, const OptimizerConfig& config)
    : model_(model),
      config_(config),
      master_(std::move(master)),
      m_(at::zeros_like(master_)),
      v_(at::zeros_like(master_)) {
  TORCH_CHECK(master_.scalar_type() == at::kFloat && master_.numel() == model.flat().numel(),
              "the master weights must be fp32 in the model's layout");
  publish();
}

void Optimizer::step(const at::Tensor& gradient, double scale, double lr) {
  ++count_;
  const int64_t decayed = model_.decayed_size(), total = master_.numel();
  const bool has_copy = model_.dtype() != at::kFloat;
  const auto update = [&](int64_t begin, int64_t end, double weight_decay) {
    if (begin == end) return;
    const auto part = [&](const at::Tensor& t) { return t.narrow(0, begin, end - begin); };
    at::Tensor master = part(master_), m = part(m_), v = part(v_),
               published = has_copy ? part(model_.flat()) : at::Tensor();
    ops::adamw({.lr = lr,
                .beta1 = config_.betas[0],
                .beta2 = config_.betas[1],
                .eps = config_.eps,
                .weight_decay = weight_decay,
                .step = count_,
                .grad_scale = scale},
               part(gradient),
               master,
               m,
               v,
               published);
  };
  at::NoGradGuard no_grad;
  update(0, decayed, config_.weight_decay);
  update(decayed, total, 0);
}

void Optimizer::publish() {
  at::NoGradGuard no_grad;
  if (!master_.is_same(model_.flat())) at::Tensor(model_.flat()).copy_(master_);
}

}  // namespace basin
