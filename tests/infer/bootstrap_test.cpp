#include "infer/bootstrap.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <vector>

namespace basin {
namespace {

TEST(BlockBootstrap, TwoBlocksHaveAKnownDistribution) {
  // Means 0, 1/2, 1 with probability 1/4, 1/2, 1/4: both tails are wider than 2.5 %.
  const std::vector<BlockSum> blocks = {{0, 10}, {10, 10}};
  const auto interval = block_bootstrap(blocks);
  ASSERT_TRUE(interval);
  EXPECT_DOUBLE_EQ(interval->low, 0);
  EXPECT_DOUBLE_EQ(interval->high, 1);
}

TEST(BlockBootstrap, EqualBlocksHaveNoSpread) {
  const std::vector<BlockSum> blocks(7, BlockSum{1.5, 3});
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

TEST(BlockBootstrap, IsReproducibleAndNeedsTwoBlocks) {
  const std::vector<BlockSum> blocks = {{1, 3}, {2, 3}, {5, 4}, {0, 2}};
  EXPECT_EQ(block_bootstrap(blocks, 5)->low, block_bootstrap(blocks, 5)->low);
  EXPECT_FALSE(block_bootstrap(std::span(blocks).first(1)));
  EXPECT_FALSE(block_bootstrap({}));
}

}  // namespace
}  // namespace basin
