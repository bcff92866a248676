#include "train/weight_gather.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>

namespace basin {

WeightGather::WeightGather(Transformer& model, Comm& comm, std::vector<Range> buckets)
    : model_(model), comm_(comm), buckets_(std::move(buckets)) {}

void WeightGather::start(size_t bucket) {
  at::NoGradGuard no_grad;
  const Range range = buckets_.at(bucket);
  const int64_t total = model_.flat().numel();
  at::Tensor whole;
  if (range.end <= total) {
    whole = model_.flat().narrow(0, range.begin, range.size());
  } else {
    if (!beyond_.defined()) beyond_ = at::zeros({range.size()}, model_.flat().options());
    beyond_range_ = {range.begin, total};
    whole = beyond_;
    whole.narrow(0, 0, beyond_range_.size())
        .copy_(model_.flat().narrow(0, range.begin, beyond_range_.size()));
  }
  const Range share = share_of({0, range.size()}, comm_.rank(), comm_.size());
  pending_.push_back(comm_.start_all_gather(whole.narrow(0, share.begin, share.size()), whole));
}

void WeightGather::finish() {
  at::NoGradGuard no_grad;
  for (const auto& pending : pending_) pending->wait();
  pending_.clear();
  if (beyond_range_.size() == 0) return;
  model_.flat()
      .narrow(0, beyond_range_.begin, beyond_range_.size())
      .copy_(beyond_.narrow(0, 0, beyond_range_.size()));
  beyond_range_ = {};
}

}  // namespace basin
