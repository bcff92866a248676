// The gradient of a whole model as one flat fp32 buffer, laid out like Transformer::flat(). Hooks
// add each parameter's gradient as backward produces it, over all micro-batches of a step: fp32
// models accumulate in place through views, others add into the buffer and drop the gradient at
// once. During the last micro-batch of a step a bucket goes to the other ranks as soon as its
// gradients are complete, while backward goes on.
#pragma once

#include <ATen/core/Tensor.h>

#include <memory>
#include <vector>

#include "model/transformer.h"
#include "train/comm.h"
#include "train/partition.h"

namespace basin {

struct BucketOptions {
  int64_t elements = BucketShape().elements;  // of a bucket, about
  bool scatter = false;                       // each rank gets the sum of its shares only (ZeRO-1)
  at::ScalarType dtype = at::kFloat;          // in which gradients travel and are added up
};

class GradientBuckets {
 public:
  /// Makes the model's parameters require gradients and hooks into them. `model` and `comm` must
  /// outlive this.
  GradientBuckets(Transformer& model, Comm& comm, const BucketOptions& options = {});
  ~GradientBuckets();
  GradientBuckets(const GradientBuckets&) = delete;
  GradientBuckets& operator=(const GradientBuckets&) = delete;

  /// Before the first micro-batch of a step.
  void zero();
  /// Before the last one: its gradients are final, and buckets may leave as they fill.
  void begin_reduction();
  /// After the last one: the sum over ranks is there; with `scatter`, in the own shares.
  void finish_reduction();
  /// Of the own shares; non-finite when any element is.
  double sum_of_squares() const;

  const at::Tensor& flat() const { return flat_; }  // fp32 (padded_size)
  /// What of flat() this rank holds the sum of: one share a bucket, or all in one.
  const std::vector<Range>& own() const { return own_; }
  const std::vector<Range>& buckets() const { return buckets_; }

 private:
  struct Hook;
  void completed(size_t parameter);
  void start(size_t bucket);

  Transformer& model_;
  Comm& comm_;
  BucketOptions options_;
  std::vector<Range> buckets_, own_;
  at::Tensor flat_;
  std::vector<std::vector<size_t>> buckets_of_;  // of each parameter
  std::vector<int64_t> parameters_in_;           // each bucket
  std::vector<int64_t> missing_;                 // parameters of each bucket, in this reduction
  std::vector<std::unique_ptr<Comm::Pending>> pending_;
  std::vector<at::Tensor> wire_;  // buckets in the dtype in which they travel
  bool reducing_ = false;
  size_t next_ = 0;  // buckets start in their order, on all ranks
};

}  // namespace basin
