// The one cost function: parameters, FLOPs and bytes of a model, shared by training, plan and bench.
// The bytes of a forward and backward pass are in model/pass_memory.h.
#pragma once

#include <cstdint>

#include "model/config.h"

namespace basin {

/// Parameters as published: every element of every tensor, a tied head counted once.
int64_t count_parameters(const ModelConfig& config);

/// The same by what they belong to.
struct ParameterParts {
  int64_t embedding = 0, attention = 0, mlp = 0, norms = 0, head = 0;   // a tied head is in `embedding`
};
ParameterParts count_parameter_parts(const ModelConfig& config);

/// Floating-point operations (a multiply-add is 2) of forward plus backward per predicted token at sequence length T: 6 x matrix parameters
/// plus causal attention, 6 H K (T + 1) per layer. Kaplan et al. (arXiv 2001.08361) section 2.1, attention halved by causality.
double train_flops_per_token(const ModelConfig& config, int64_t sequence_length);

/// The same with all of the attention matrix, masked part too: 6 N + 12 L H K T of PaLM (arXiv 2204.02311, appendix B), whose N is here
/// the matrix parameters. nanoGPT and torchtitan divide by this one.
double palm_flops_per_token(const ModelConfig& config, int64_t sequence_length);

/// What the device computes where activations are recomputed: the blocks' forward pass, a third of their share, once more.
double recomputed_flops_per_token(const ModelConfig& config, int64_t sequence_length);

}  // namespace basin
