// With a sharded optimizer each rank has updated its shares of the weights: gathers the rest from
// the other ranks, bucket by bucket, while the next one is still updated.
#pragma once

#include <ATen/core/Tensor.h>

#include <memory>
#include <vector>

#include "model/transformer.h"
#include "train/comm.h"
#include "train/partition.h"

namespace basin {

class WeightGather {
 public:
  /// `buckets`: of GradientBuckets. `model` and `comm` must outlive this.
  WeightGather(Transformer& model, Comm& comm, std::vector<Range> buckets);

  /// The own share of this bucket is up to date.
  void start(size_t bucket);
  /// All that was started is there.
  void finish();

 private:
  Transformer& model_;
  Comm& comm_;
  std::vector<Range> buckets_;
  std::vector<std::unique_ptr<Comm::Pending>> pending_;  // in the order of their start
  at::Tensor beyond_;  // the bucket that ends beyond the model's buffer, as a whole
  Range beyond_range_;
};

}  // namespace basin
