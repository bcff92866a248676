#include "train/schedule.h"

#include <gtest/gtest.h>

#include <cmath>

namespace basin {
namespace {

TrainConfig make_config(ScheduleKind kind, int64_t steps, int64_t warmup, int64_t decay = 0) {
  TrainConfig config;
  config.steps = steps;
  config.optimizer.lr = 1;
  config.optimizer.min_lr = 0.1;
  config.schedule = {.kind = kind, .warmup_steps = warmup, .decay_steps = decay};
  return config;
}

TEST(Schedule, WarmUpIsLinearAndReachesThePeakAtItsLastStep) {
  for (const ScheduleKind kind :
       {ScheduleKind::kCosine, ScheduleKind::kWsd, ScheduleKind::kConstant}) {
    const TrainConfig config = make_config(kind, 100, 10);
    EXPECT_DOUBLE_EQ(learning_rate(config, 0), 0.1);
    EXPECT_DOUBLE_EQ(learning_rate(config, 4), 0.5);
    EXPECT_DOUBLE_EQ(learning_rate(config, 9), 1);
  }
}

TEST(Schedule, CosineIsHalfWayInTheMiddleAndMinimalAtTheEnd) {
  const TrainConfig config = make_config(ScheduleKind::kCosine, 110, 10);
  EXPECT_DOUBLE_EQ(learning_rate(config, 59), 0.55);
  EXPECT_DOUBLE_EQ(learning_rate(config, 109), 0.1);
  EXPECT_NEAR(learning_rate(config, 34), 0.1 + 0.9 * 0.5 * (1 + std::sqrt(0.5)), 1e-12);
}

TEST(Schedule, WsdIsStableThenDecays) {
  TrainConfig config = make_config(ScheduleKind::kWsd, 110, 10, 50);
  EXPECT_DOUBLE_EQ(learning_rate(config, 10), 1);
  EXPECT_DOUBLE_EQ(learning_rate(config, 59), 1);
  EXPECT_NEAR(learning_rate(config, 60), 0.1 + 0.9 * (1 - std::sqrt(1.0 / 50)), 1e-12);
  EXPECT_DOUBLE_EQ(learning_rate(config, 109), 0.1);
  config.schedule.decay_shape = DecayShape::kLinear;
  EXPECT_DOUBLE_EQ(learning_rate(config, 84), 0.55);
  EXPECT_DOUBLE_EQ(learning_rate(config, 109), 0.1);
}

TEST(Schedule, ConstantStaysAndWsdWithoutDecayDoes) {
  EXPECT_DOUBLE_EQ(learning_rate(make_config(ScheduleKind::kConstant, 100, 0), 0), 1);
  EXPECT_DOUBLE_EQ(learning_rate(make_config(ScheduleKind::kConstant, 100, 0), 99), 1);
  EXPECT_DOUBLE_EQ(learning_rate(make_config(ScheduleKind::kWsd, 100, 0), 99), 1);
}

}  // namespace
}  // namespace basin
