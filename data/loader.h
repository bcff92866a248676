// Batches as a pure function of (seed, batch number, rank): nothing to save but one integer, and
// the order does not depend on the number of ranks. Documents lie end to end; sample i of a dataset is
// its tokens i T .. i T + T (T + 1 of them, T predictions).
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "data/config.h"
#include "data/indexed_dataset.h"
#include "data/sample_order.h"

namespace basin {

/// How a global batch is shared out.
struct BatchShape {
  int64_t global_batch = 1;  // samples per step over all ranks (B)
  int64_t rank = 0, world = 1;
  uint64_t seed = 0;
};

/// How many times `samples` of the run go over each dataset.
std::vector<double> epochs(const DataConfig& config, double samples);

class DataLoader {
 public:
  /// Opens the datasets. Throws std::invalid_argument when one has too few tokens for a sample, or
  /// fewer samples than its share of a global batch, or `world` does not divide `global_batch`.
  DataLoader(const DataConfig& config, const BatchShape& shape);
  ~DataLoader();

  /// This rank's part of global batch `k`: int64 (B / world, T + 1), places rank*B/world onwards.
  /// Thread-safe. Prefetches batch k + 1.
  at::Tensor batch(int64_t k);
  /// The sample numbers of those rows as (dataset, sample) pairs, for messages about a skipped
  /// step.
  std::vector<std::pair<int64_t, int64_t>> sample_ids(int64_t k) const;

  const std::vector<IndexedDataset>& datasets() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace basin
