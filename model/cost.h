// The one cost function: parameters, FLOPs and bytes of a model, shared by training, plan and bench.
#pragma once

#include <cstdint>

#include "model/config.h"

namespace basin {

/// Parameters as published: every element of every tensor, a tied head counted once.
int64_t count_parameters(const ModelConfig& config);

/// Floating-point operations (a multiply-add is 2) of forward plus backward per predicted token at sequence length T: 6 x matrix parameters
/// plus causal attention, 6 H K (T + 1) per layer. Kaplan et al. (arXiv 2001.08361) section 2.1, attention halved by causality.
double train_flops_per_token(const ModelConfig& config, int64_t sequence_length);

}  // namespace basin
