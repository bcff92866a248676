// The learning rate as a pure function of the step: nothing to save.
#pragma once

#include <cstdint>

#include "train/config.h"

namespace basin {

/// Learning rate of step `step` (0-based) of `config.steps`. Warm-up reaches the peak at its last
/// step; cosine and wsd reach min_lr at the run's last.
double learning_rate(const TrainConfig& config, int64_t step);

}  // namespace basin
