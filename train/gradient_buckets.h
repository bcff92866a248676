// The gradient of a whole model as one flat fp32 buffer, laid out like Transformer::flat(). Hooks
// add each parameter's gradient as backward produces it, over all micro-batches of a step: fp32
// models accumulate in place through views, others add into the buffer and drop the gradient at
// once.
#pragma once

#include <ATen/core/Tensor.h>

#include "model/transformer.h"
#include "train/comm.h"

namespace basin {

class GradientBuckets {
 public:
  /// Makes the model's parameters require gradients and hooks into them. `model` must outlive this.
  explicit GradientBuckets(Transformer& model);
  ~GradientBuckets();
  GradientBuckets(const GradientBuckets&) = delete;
  GradientBuckets& operator=(const GradientBuckets&) = delete;

  /// Before the first micro-batch of a step.
  void zero();
  /// After the last one: the sum over ranks.
  void reduce(Comm& comm) { comm.all_reduce_sum(flat_); }
  /// Euclidean norm, non-finite when any element is.
  double norm() const;
  const at::Tensor& flat() const { return flat_; }  // fp32 (padded total)

 private:
  Transformer& model_;
  at::Tensor flat_;
};

}  // namespace basin
