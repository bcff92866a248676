// Mixtures: sample number g of the run belongs to the dataset in whose share of [0, 2^32) the Weyl
// sequence x_g = u + g*A (mod 2^32) falls, A odd and near 2^32 times the golden ratio, u from the
// seed. The shares of any stretch of samples are as even as such a sequence can make them, and how
// many of the first g samples fell to a dataset (its own counter, which orders its samples) is a
// sum of floors with a closed form in O(log): nothing is stored and nothing grows with g. With one
// dataset the counter is g itself.
#include "data/loader.h"

#include <ATen/ops/empty.h>
#include <fmt/format.h>

#include <future>
#include <mutex>
#include <stdexcept>

namespace basin {
namespace {

constexpr uint64_t kModulus = uint64_t{1} << 32;
constexpr uint64_t kStep = 0x9E3779B9;  // odd, 2^32 / golden ratio
constexpr uint64_t kMixtureStream =
    0x6d697874757265;  // keeps the draw of datasets apart from the order inside one

/// sum over i < n of floor((a*i + b) / m), by Euclid's algorithm ("floor sum").
unsigned __int128 floor_sum(uint64_t n, uint64_t m, uint64_t a, uint64_t b) {
  using Wide = unsigned __int128;
  Wide sum = 0;
  while (true) {
    sum += n == 0 ? 0 : Wide{n} * (n - 1) / 2 * (a / m) + Wide{n} * (b / m);
    a %= m;
    b %= m;
    const Wide top = Wide{a} * n + b;
    if (top < m) {
      return sum;
    }
    n = static_cast<uint64_t>(top / m);
    b = static_cast<uint64_t>(top % m);
    std::swap(m, a);
  }
}

/// Who gets which sample number, and how many of the earlier ones were his.
class Mixture {
 public:
  Mixture(const std::vector<DatasetConfig>& datasets, uint64_t seed)
      : start_(keyed_hash(seed, kMixtureStream, 0) % kModulus) {
    double total = 0, sum = 0;
    for (const DatasetConfig& dataset : datasets) {
      total += dataset.weight;
    }
    for (const DatasetConfig& dataset : datasets) {
      sum += dataset.weight;
      bounds_.push_back(static_cast<uint64_t>(sum / total * kModulus + 0.5));
    }
  }

  /// (dataset, number of earlier samples of that dataset)
  std::pair<int64_t, uint64_t> draw(uint64_t g) const {
    if (bounds_.size() == 2) {
      return {0, g};
    }
    const uint64_t x = (start_ + g % kModulus * kStep) % kModulus;
    size_t d = 0;
    while (x >= bounds_[d + 1]) {
      ++d;
    }
    return {static_cast<int64_t>(d), below(g, bounds_[d + 1]) - below(g, bounds_[d])};
  }

 private:
  /// How many of x_0 .. x_{g-1} are below `bound`.
  uint64_t below(uint64_t g, uint64_t bound) const {
    return static_cast<uint64_t>(floor_sum(g, kModulus, kStep, start_ + kModulus) -
                                 floor_sum(g, kModulus, kStep, start_ + kModulus - bound));
  }

  uint64_t start_;
  std::vector<uint64_t> bounds_{0};  // share of dataset d: [bounds_[d], bounds_[d + 1])
};

double total_weight(const DataConfig& config) {
  double total = 0;
  for (const DatasetConfig& dataset : config.train) total += dataset.weight;
  return total;
}

/// Whole samples of T + 1 tokens in one epoch.
int64_t count_samples(const IndexedDataset& dataset, const DataConfig& config) {
  const int64_t tokens = dataset.num_tokens();
  return tokens > 0 ? (tokens - 1) / config.sequence_length : 0;
}

/// Throws std::invalid_argument when a step would see samples of the dataset twice, or there is
/// none.
void refuse_too_few(const IndexedDataset& dataset,
                    const DatasetConfig& of,
                    const DataConfig& config,
                    int64_t global_batch) {
  const int64_t samples = count_samples(dataset, config);
  if (samples == 0)
    throw std::invalid_argument(
        fmt::format("{}: {} tokens are too few for one sample of {} (data.sequence_length + "
                    "1): use more text or a shorter "
                    "data.sequence_length",
                    of.path,
                    dataset.num_tokens(),
                    config.sequence_length + 1));
  const double share = static_cast<double>(global_batch) * of.weight / total_weight(config);
  if (static_cast<double>(samples) < share)
    throw std::invalid_argument(fmt::format(
        "{}: {} samples of {} tokens (data.sequence_length + 1) are fewer than the "
        "{:.4g} that each step takes of them (train.global_batch {}): use more text, or "
        "smaller batches or samples",
        of.path,
        samples,
        config.sequence_length + 1,
        share,
        global_batch));
}

}  // namespace

std::vector<double> epochs(const DataConfig& config, double samples) {
  std::vector<double> out;
  for (const DatasetConfig& dataset : config.train)
    out.push_back(samples * dataset.weight / total_weight(config) /
                  static_cast<double>(count_samples(IndexedDataset(dataset.path), config)));
  return out;
}

struct DataLoader::Impl {
  BatchShape shape;
  int64_t sequence_length;
  Mixture mixture;
  std::vector<IndexedDataset> datasets;
  std::vector<int64_t> samples;  // in one epoch of each dataset

  std::mutex mutex;
  int64_t prefetched = -1;  // number of the batch in `next`
  std::future<at::Tensor> next;

  Impl(const DataConfig& config, const BatchShape& batch_shape)
      : shape(batch_shape),
        sequence_length(config.sequence_length),
        mixture(config.train, batch_shape.seed) {
    for (const DatasetConfig& dataset : config.train) {
      datasets.emplace_back(dataset.path);
      refuse_too_few(datasets.back(), dataset, config, shape.global_batch);
      samples.push_back(count_samples(datasets.back(), config));
    }
  }

  /// (dataset, sample of it) of the run's sample number g.
  std::pair<int64_t, int64_t> sample(uint64_t g) const {
    const auto [d, count] = mixture.draw(g);
    const auto n = static_cast<uint64_t>(samples[d]);
    const uint64_t key = d == 0 ? shape.seed : keyed_hash(shape.seed, kMixtureStream, d);
    return {d, static_cast<int64_t>(permute(key, count / n, n, count % n))};
  }

  /// (dataset, sample of it) of this rank's rows of batch k.
  std::vector<std::pair<int64_t, int64_t>> rows_of(int64_t k) const {
    const int64_t rows = shape.global_batch / shape.world;
    std::vector<std::pair<int64_t, int64_t>> ids;
    for (int64_t row = 0; row < rows; ++row)
      ids.push_back(sample(k * shape.global_batch + shape.rank * rows + row));
    return ids;
  }

  at::Tensor build(int64_t k) const {
    const std::vector<std::pair<int64_t, int64_t>> rows = rows_of(k);
    const int64_t columns = sequence_length + 1;
    // All at once, so that a slow disk's waits overlap; and exactly these, where the system would read a
    // megabyte behind each.
    for (const auto& [d, i] : rows)
      datasets[d].begin_to_fetch(i * sequence_length, i * sequence_length + columns);
    at::Tensor batch = at::empty({std::ssize(rows), columns}, at::kLong);  // (B / world, T + 1)
    int64_t* to = batch.data_ptr<int64_t>();
    for (const auto& [d, i] : rows) {
      datasets[d].read(i * sequence_length, {to, static_cast<size_t>(columns)});
      to += columns;
    }
    return batch;
  }
};

DataLoader::DataLoader(const DataConfig& config, const BatchShape& shape) {
  if (config.train.empty()) {
    throw std::invalid_argument("data.train names no dataset");
  }
  if (shape.global_batch < 1 || shape.world < 1 || shape.global_batch % shape.world != 0) {
    throw std::invalid_argument(
        fmt::format("a global batch of {} samples cannot be shared by {} ranks: train.global_batch "
                    "must be a multiple of the ranks",
                    shape.global_batch,
                    shape.world));
  }
  if (shape.rank < 0 || shape.rank >= shape.world) {
    throw std::invalid_argument(fmt::format("rank {} of {}", shape.rank, shape.world));
  }
  impl_ = std::make_unique<Impl>(config, shape);
}

DataLoader::~DataLoader() = default;

at::Tensor DataLoader::batch(int64_t k) {
  const std::lock_guard lock(impl_->mutex);
  at::Tensor result;  // (B / world, T + 1)
  if (impl_->next.valid() && impl_->prefetched == k) {
    result = impl_->next.get();
  } else {
    result = impl_->build(k);
  }
  impl_->prefetched = k + 1;
  impl_->next =
      std::async(std::launch::async, [impl = impl_.get(), k] { return impl->build(k + 1); });
  return result;
}

std::vector<std::pair<int64_t, int64_t>> DataLoader::sample_ids(int64_t k) const {
  return impl_->rows_of(k);
}

const std::vector<IndexedDataset>& DataLoader::datasets() const {
  return impl_->datasets;
}

}  // namespace basin
