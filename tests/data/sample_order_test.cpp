#include "data/sample_order.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <set>
#include <stdexcept>
#include <vector>

namespace basin {
namespace {

std::vector<uint64_t> order(uint64_t seed, uint64_t epoch, uint64_t n) {
  std::vector<uint64_t> places(n);
  for (uint64_t i = 0; i < n; ++i) {
    places[i] = permute(seed, epoch, n, i);
  }
  return places;
}

TEST(SampleOrder, IsABijectionOnAnySize) {
  for (const uint64_t n :
       {1, 2, 3, 4, 5, 7, 16, 17, 63, 64, 65, 255, 257, 1000, 4097, 65537, 100003}) {
    std::vector<uint64_t> sorted = order(7, 3, n);
    std::sort(sorted.begin(), sorted.end());
    for (uint64_t i = 0; i < n; ++i) {
      ASSERT_EQ(sorted[i], i) << "n = " << n;
    }
  }
}

TEST(SampleOrder, HugeSizesStayInside) {
  const uint64_t n = (uint64_t{1} << 40) + 12345;
  std::set<uint64_t> seen;
  for (uint64_t i = 0; i < 1000; ++i) {
    const uint64_t place = permute(1, 0, n, i * (n / 1000));
    EXPECT_LT(place, n);
    seen.insert(place);
  }
  EXPECT_EQ(seen.size(), 1000);
}

TEST(SampleOrder, SeedsAndEpochsGiveOtherOrders) {
  EXPECT_EQ(order(1, 0, 1000), order(1, 0, 1000));
  EXPECT_NE(order(1, 0, 1000), order(2, 0, 1000));
  EXPECT_NE(order(1, 0, 1000), order(1, 1, 1000));
}

TEST(SampleOrder, LooksRandom) {
  const uint64_t n = 10007;
  const std::vector<uint64_t> places = order(5, 0, n);
  int64_t fixed = 0, ascents = 0;
  double covariance = 0, variance = 0;
  for (uint64_t i = 0; i < n; ++i) {
    const double x = static_cast<double>(i) - (n - 1) / 2.0,
                 y = static_cast<double>(places[i]) - (n - 1) / 2.0;
    fixed += places[i] == i;
    ascents += i > 0 && places[i] > places[i - 1];
    covariance += x * y;
    variance += x * x;
  }
  EXPECT_LT(fixed, 12);  // 1 expected
  EXPECT_NEAR(ascents,
              n / 2.0,
              6 * std::sqrt(n / 12.0));  // variance of the number of ascents: (n + 1) / 12
  EXPECT_LT(std::abs(covariance / variance), 0.06);  // six standard deviations of 1 / sqrt(n)
}

TEST(SampleOrder, RefusesAPlaceOutside) {
  EXPECT_THROW(permute(1, 0, 5, 5), std::invalid_argument);
}

TEST(KeyedHash, DependsOnEachArgumentAndItsPlace) {
  std::set<uint64_t> seen;
  for (uint64_t a = 0; a < 30; ++a) {
    for (uint64_t b = 0; b < 30; ++b) {
      for (uint64_t c = 0; c < 30; ++c) {
        seen.insert(keyed_hash(a, b, c));
      }
    }
  }
  EXPECT_EQ(seen.size(), 27000);
}

// Checkpoints and prepared data outlive a build: the order they were made with must not change.
TEST(KeyedHash, NeverChanges) {
  EXPECT_EQ(keyed_hash(0, 0, 0), 0x238275BC38FCBE91u);
  EXPECT_EQ(keyed_hash(1, 2, 3), 0x6AE515C1C0AC7E37u);
  EXPECT_EQ(order(1, 2, 8), (std::vector<uint64_t>{2, 3, 7, 0, 5, 6, 4, 1}));
}

}  // namespace
}  // namespace basin
