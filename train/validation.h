// Held-out loss during training: the same samples at every measurement and for every run of the
// same data, length and number of tokens.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>

#include "data/indexed_dataset.h"
#include "model/transformer.h"
#include "train/comm.h"
#include "train/config.h"

namespace basin {

class Validation {
 public:
  /// Opens data.heldout. Throws std::invalid_argument when it has no whole sample.
  Validation(const DataConfig& data, int64_t tokens);

  /// Mean loss in nats per token over all samples, `rows` at a time; the ranks share the work.
  double loss(const Transformer& model, Comm& comm, int64_t rows) const;

  /// Samples [begin, end) of num_samples(): int64 (end - begin, T + 1).
  at::Tensor samples(int64_t begin, int64_t end) const;
  int64_t num_samples() const { return num_samples_; }
  /// IndexedDataset::contents of the held-out text.
  std::string contents() const { return dataset_.contents(); }

 private:
  IndexedDataset dataset_;
  int64_t sequence_length_;
  int64_t num_samples_ = 0;  // measured, spread evenly over...
  int64_t available_ = 0;    // the samples that the dataset has
};

}  // namespace basin
