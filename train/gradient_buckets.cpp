#include "train/gradient_buckets.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/function_hook.h>
#include <torch/csrc/autograd/variable.h>

#include <algorithm>
#include <memory>

#include "model/ops.h"

namespace basin {

/// Moves a fresh gradient of another dtype into its place in the fp32 buffer (summing micro-batches
/// in bf16 would lose their small differences), and tells when a parameter is complete.
struct GradientBuckets::Hook : torch::autograd::PostAccumulateGradHook {
  Hook(GradientBuckets& buckets, size_t parameter, at::Tensor sum)
      : buckets_(buckets), parameter_(parameter), sum_(std::move(sum)) {}
  void operator()(const at::Tensor& parameter) override {
    if (parameter.scalar_type() != at::kFloat) {
      at::NoGradGuard no_grad;
      ops::add_to_sum(parameter.grad(), sum_);
      parameter.mutable_grad().reset();
    }
    buckets_.completed(parameter_);
  }
  GradientBuckets& buckets_;
  size_t parameter_;
  at::Tensor sum_;  // fp32, the parameter's shape
};

GradientBuckets::GradientBuckets(Transformer& model, Comm& comm, const BucketOptions& options)
    : model_(model),
      comm_(comm),
      options_(options),
      buckets_(cut_buckets(model, {comm.size(), options.elements})),
      flat_(at::zeros({padded_size(buckets_)}, model.flat().options().dtype(at::kFloat))),
      buckets_of_(model.parameters().size()),
      parameters_in_(buckets_.size()),
      missing_(buckets_.size()),
      pending_(buckets_.size()),
      wire_(buckets_.size()) {
  if (options.scatter) {
    for (const Range& bucket : buckets_) own_.push_back(share_of(bucket, comm.rank(), comm.size()));
  } else {
    own_.push_back({0, flat_.numel()});
  }
  for (size_t i = 0; i < model.parameters().size(); ++i) {
    const Parameter& p = model.parameters()[i];
    const int64_t end = p.offset + p.tensor.numel();
    for (size_t b = 0; b < buckets_.size(); ++b) {
      if (p.offset >= buckets_[b].end || end <= buckets_[b].begin) continue;
      buckets_of_[i].push_back(b);
      ++parameters_in_[b];
    }
    at::Tensor view = flat_.narrow(0, p.offset, p.tensor.numel()).view(p.tensor.sizes());
    p.tensor.requires_grad_(true);
    if (model.dtype() == at::kFloat) p.tensor.mutable_grad() = view;
    torch::autograd::impl::set_post_acc_grad_hooks(
        p.tensor, std::make_unique<Hook>(*this, i, std::move(view)));
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

void GradientBuckets::begin_reduction() {
  missing_ = parameters_in_;
  next_ = 0;
  reducing_ = true;
}

void GradientBuckets::completed(size_t parameter) {
  if (!reducing_) return;
  for (const size_t bucket : buckets_of_[parameter]) --missing_[bucket];
  while (next_ < buckets_.size() && missing_[next_] <= 0) start(next_++);
}

void GradientBuckets::start(size_t bucket) {
  at::NoGradGuard no_grad;
  const Range& range = buckets_[bucket];
  at::Tensor sent = flat_.narrow(0, range.begin, range.size());
  if (options_.dtype != at::kFloat && comm_.size() > 1) {
    if (!wire_[bucket].defined()) wire_[bucket] = at::empty_like(sent, options_.dtype);
    sent = wire_[bucket].copy_(sent);
  }
  if (options_.scatter) {
    const Range share = share_of({0, range.size()}, comm_.rank(), comm_.size());
    pending_[bucket] =
        comm_.start_reduce_scatter_sum(sent, sent.narrow(0, share.begin, share.size()));
  } else {
    pending_[bucket] = comm_.start_all_reduce_sum(sent);
  }
}

void GradientBuckets::finish_reduction() {
  if (!reducing_) return;
  reducing_ = false;
  while (next_ < buckets_.size()) start(next_++);  // parameters that took no part have no gradient
  for (size_t b = 0; b < buckets_.size(); ++b) {
    pending_[b]->wait();
    pending_[b].reset();
    if (!wire_[b].defined()) continue;
    const Range part = options_.scatter
                           ? share_of({0, buckets_[b].size()}, comm_.rank(), comm_.size())
                           : Range{0, buckets_[b].size()};
    flat_.narrow(0, buckets_[b].begin + part.begin, part.size())
        .copy_(wire_[b].narrow(0, part.begin, part.size()));
  }
}

double GradientBuckets::sum_of_squares() const {
  if (flat_.is_cuda() && own_.size() > 1) {  // added up there: one wait, not one for each range
    std::vector<at::Tensor> norms;
    for (const Range& range : own_)
      norms.push_back(at::linalg_vector_norm(flat_.narrow(0, range.begin, range.size()),
                                             2,
                                             at::OptionalIntArrayRef(),
                                             false,
                                             at::kDouble));
    return at::stack(norms).square().sum().item<double>();
  }
  double sum = 0;
  for (const Range& range : own_)
    sum += ops::sum_of_squares(flat_.narrow(0, range.begin, range.size()));
  return sum;
}

}  // namespace basin
