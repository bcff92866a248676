// Confidence interval of a mean whose terms are correlated within blocks: a percentile bootstrap
// over blocks (Kuensch 1989, with the fixed blocks of Carlstein 1986), which resamples whole blocks
// and so keeps the correlation inside them.
#pragma once

#include <cstdint>
#include <optional>
#include <span>

namespace basin {

struct Interval {
  double low = 0, high = 0;
};

/// Terms of one block: their sum and how many there are (at least one).
struct BlockSum {
  double sum = 0;
  int64_t count = 0;
};

/// Of fewer blocks the interval would be too narrow to be called one: that of two independent blocks
/// misses the mean every second time, that of ten, one time in ten.
inline constexpr uint64_t kFewestBlocks = 10;

/// Two-sided 95 % interval of sum / count over all blocks, from `resamples` draws of as many blocks
/// with replacement. Reproducible: the draws depend on `seed` alone. Nothing when there are fewer
/// than kFewestBlocks.
std::optional<Interval> block_bootstrap(std::span<const BlockSum> blocks,
                                        uint64_t seed = 1,
                                        int64_t resamples = 2000);

}  // namespace basin
