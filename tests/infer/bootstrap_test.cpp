#include "infer/bootstrap.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <vector>

namespace basin {
namespace {

TEST(BlockBootstrap, BlocksOfTwoKindsHaveAKnownDistribution) {
  // Tenths with the probabilities of ten tosses of a coin: 0 or 1 in 1.1 %, 2 in 4.4 % of them.
  std::vector<BlockSum> blocks(5, BlockSum{0, 10});
  blocks.resize(10, BlockSum{10, 10});
  const auto interval = block_bootstrap(blocks);
  ASSERT_TRUE(interval);
  EXPECT_DOUBLE_EQ(interval->low, 0.2);
  EXPECT_DOUBLE_EQ(interval->high, 0.8);
}

TEST(BlockBootstrap, EqualBlocksHaveNoSpread) {
  const std::vector<BlockSum> blocks(12, BlockSum{1.5, 3});
  const auto interval = block_bootstrap(blocks);
  ASSERT_TRUE(interval);
  EXPECT_DOUBLE_EQ(interval->low, 0.5);
  EXPECT_DOUBLE_EQ(interval->high, 0.5);
}

TEST(BlockBootstrap, ManyBlocksApproachTheNormalInterval) {
  std::mt19937 random(7);
  std::normal_distribution<double> normal(0.3, 2);
  std::vector<BlockSum> blocks;
  double sum = 0, squares = 0;
  const int n = 400, tokens = 512;
  for (int i = 0; i < n; ++i) {
    const double mean = normal(random);
    blocks.push_back({mean * tokens, tokens});
    sum += mean;
    squares += mean * mean;
  }
  const double mean = sum / n, half = 1.96 * std::sqrt((squares / n - mean * mean) / n);
  const auto interval = block_bootstrap(blocks);
  ASSERT_TRUE(interval);
  EXPECT_NEAR(interval->low, mean - half, 0.1 * half);
  EXPECT_NEAR(interval->high, mean + half, 0.1 * half);
}

TEST(BlockBootstrap, WeighsBlocksByTheirTokens) {
  // A short last block must not count like a long one: the mean of any resample with at least one
  // long block is near the long blocks'.
  std::vector<BlockSum> blocks(40, BlockSum{512, 512});
  blocks.push_back({100, 1});
  const auto interval = block_bootstrap(blocks);
  ASSERT_TRUE(interval);
  EXPECT_DOUBLE_EQ(interval->low, 1);
  EXPECT_NEAR(
      interval->high, 1 + 99.0 * 3 / (38 * 512), 1e-3);  // the short block drawn three times
}

TEST(BlockBootstrap, IsReproducibleAndNeedsTenBlocks) {
  std::vector<BlockSum> blocks;
  for (int i = 0; i < 10; ++i) blocks.push_back({i * i % 7 + 0.5, 3 + i % 2});
  EXPECT_EQ(block_bootstrap(blocks, 5)->low, block_bootstrap(blocks, 5)->low);
  EXPECT_NE(block_bootstrap(blocks, 5)->low, block_bootstrap(blocks, 6)->low);
  EXPECT_FALSE(block_bootstrap(std::span(blocks).first(9)));
  EXPECT_FALSE(block_bootstrap({}));
}

}  // namespace
}  // namespace basin
