// A balanced Feistel network over the smallest even number of bits that holds n, walked until the
// value falls below n. The domain is less than 4n, so a walk takes fewer than four trips on
// average, and every step of it is a bijection, so the whole is one.
#include "data/sample_order.h"

#include <bit>
#include <stdexcept>
#include <string>

namespace basin {
namespace {

constexpr int kRounds = 6;
constexpr uint64_t kGolden = 0x9E3779B97F4A7C15;

/// SplitMix64's finaliser (Steele, Lea, Flood 2014).
uint64_t mix(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EB;
  return x ^ (x >> 31);
}

}  // namespace

uint64_t keyed_hash(uint64_t seed, uint64_t a, uint64_t b) {
  return mix(mix(mix(seed + kGolden) + a + kGolden) + b + kGolden);
}

uint64_t permute(uint64_t seed, uint64_t epoch, uint64_t n, uint64_t i) {
  if (i >= n) {
    throw std::invalid_argument("permute: place " + std::to_string(i) + " is outside of " +
                                std::to_string(n) + " samples");
  }
  if (n == 1) {
    return 0;
  }
  const int half_bits = (std::bit_width(n - 1) + 1) / 2;
  const uint64_t half_mask = (uint64_t{1} << half_bits) - 1;
  const uint64_t key = keyed_hash(seed, epoch, n);
  uint64_t value = i;
  do {
    uint64_t left = value >> half_bits, right = value & half_mask;
    for (int round = 0; round < kRounds; ++round) {
      const uint64_t next = left ^ (keyed_hash(key, round, right) & half_mask);
      left = right;
      right = next;
    }
    value = (left << half_bits) | right;
  } while (value >= n);
  return value;
}

}  // namespace basin
