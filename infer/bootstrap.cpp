#include "infer/bootstrap.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <vector>

#include "data/sample_order.h"

namespace basin {
namespace {

// Linear interpolation between order statistics, as numpy.percentile does.
double quantile(const std::vector<double>& sorted, double q) {
  const double at = q * static_cast<double>(sorted.size() - 1);
  const auto below = static_cast<size_t>(at);
  const size_t above = std::min(below + 1, sorted.size() - 1);
  return sorted[below] + (at - static_cast<double>(below)) * (sorted[above] - sorted[below]);
}

}  // namespace

std::optional<Interval> block_bootstrap(std::span<const BlockSum> blocks,
                                        uint64_t seed,
                                        int64_t resamples) {
  if (resamples < 1) throw std::invalid_argument("a bootstrap needs at least one resample");
  const uint64_t n = blocks.size();
  if (n < kFewestBlocks) return std::nullopt;
  std::vector<double> means(static_cast<size_t>(resamples));
  for (size_t r = 0; r < means.size(); ++r) {
    double sum = 0;
    int64_t count = 0;
    for (uint64_t i = 0; i < n; ++i) {
      const BlockSum& drawn = blocks[keyed_hash(seed, r, i) % n];
      sum += drawn.sum;
      count += drawn.count;
    }
    means[r] = sum / static_cast<double>(count);
  }
  std::sort(means.begin(), means.end());
  return Interval{quantile(means, 0.025), quantile(means, 0.975)};
}

}  // namespace basin
