#include "train/schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace basin {
namespace {

/// Share of the way from the peak (1) to min_lr (0) that is left after `done` of `total` decaying
/// steps.
double remaining(const ScheduleConfig& schedule, int64_t done, int64_t total) {
  if (total <= 0) return 1;
  const double share = std::clamp(static_cast<double>(done) / static_cast<double>(total), 0.0, 1.0);
  if (schedule.kind == ScheduleKind::kCosine) return 0.5 * (1 + std::cos(std::numbers::pi * share));
  return schedule.decay_shape == DecayShape::kSqrt ? 1 - std::sqrt(share) : 1 - share;
}

}  // namespace

double learning_rate(const TrainConfig& config, int64_t step) {
  const OptimizerConfig& optimizer = config.optimizer;
  const ScheduleConfig& schedule = config.schedule;
  const int64_t count = step + 1;  // steps done once this one is
  if (count <= schedule.warmup_steps)
    return optimizer.lr * static_cast<double>(count) / static_cast<double>(schedule.warmup_steps);
  if (schedule.kind == ScheduleKind::kConstant) return optimizer.lr;
  const int64_t decay_steps = schedule.kind == ScheduleKind::kCosine
                                  ? config.steps - schedule.warmup_steps
                                  : schedule.decay_steps;
  const double left = remaining(schedule, count - (config.steps - decay_steps), decay_steps);
  return optimizer.min_lr + (optimizer.lr - optimizer.min_lr) * left;
}

}  // namespace basin
