#include "train/forward_backward.h"

#include <ATen/ATen.h>

namespace basin {

ForwardBackward::ForwardBackward(const Transformer& model)
    : model_(model),
      loss_sum_(at::zeros({}, at::TensorOptions().dtype(at::kDouble).device(model.device()))) {}

void ForwardBackward::prepare(const at::Tensor& samples) {
  if (graph_ || !model_.device().is_cuda() || cuda_plugin() == nullptr) return;
  samples_ = samples.clone();
  rotary_table_ = model_.causal_attention(model_.config().sink.tokens() + samples.size(1) - 1);
  graph_.emplace([this] { add_loss(samples_); });
}

void ForwardBackward::run(const at::Tensor& samples, bool with_hooks) {
  if (graph_ && !with_hooks) {
    samples_.copy_(samples);
    graph_->replay();
  } else {
    add_loss(samples);
  }
}

void ForwardBackward::add_loss(const at::Tensor& samples) {
  const at::Tensor loss = model_.loss(samples);
  loss.backward();  // hooks collect what it produces
  loss_sum_ += loss.detach();
}

}  // namespace basin
