#include "train/validation.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <fmt/format.h>

#include <algorithm>
#include <span>
#include <stdexcept>

namespace basin {

Validation::Validation(const DataConfig& data, int64_t tokens)
    : dataset_(data.heldout),
      sequence_length_(data.sequence_length),
      available_((dataset_.num_tokens() - 1) / data.sequence_length) {
  if (available_ < 1) {
    throw std::invalid_argument(fmt::format(
        "data.heldout {} has {} tokens, too few for one sample of data.sequence_length {} + 1",
        data.heldout,
        dataset_.num_tokens(),
        sequence_length_));
  }
  num_samples_ = std::clamp<int64_t>(tokens / sequence_length_, 1, available_);
}

at::Tensor Validation::samples(int64_t begin, int64_t end) const {
  at::Tensor out = at::empty({end - begin, sequence_length_ + 1}, at::kLong);
  for (int64_t i = begin; i < end; ++i) {
    const int64_t sample = i * available_ / num_samples_;
    int64_t* row = out.mutable_data_ptr<int64_t>() + (i - begin) * (sequence_length_ + 1);
    dataset_.read(sample * sequence_length_,
                  std::span(row, static_cast<size_t>(sequence_length_ + 1)));
  }
  return out;
}

double Validation::loss(const Transformer& model, Comm& comm, int64_t rows) const {
  at::NoGradGuard no_grad;
  double sum = 0;
  for (int64_t begin = comm.rank() * rows; begin < num_samples_; begin += comm.size() * rows) {
    const int64_t end = std::min(begin + rows, num_samples_);
    sum += model.loss(samples(begin, end).to(model.device())).item<double>() *
           static_cast<double>(end - begin);
  }
  at::Tensor total = at::scalar_tensor(sum, at::kDouble);
  comm.all_reduce_sum(total);
  return total.item<double>() / static_cast<double>(num_samples_);
}

}  // namespace basin
