// Initial weights. Each number is a pure function of (seed, tensor name, index), so that two models
// that differ in other tensors, in dtype, in device or in the number of threads still start from
// the same weights.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/core/PhiloxRNGEngine.h>
#include <ATen/core/grad_mode.h>

#include <cmath>
#include <numbers>

#include "model/transformer.h"

namespace basin {
namespace {

/// FNV-1a, 64 bits: the tensor's stream of random numbers.
uint64_t name_hash(const std::string& name) {
  uint64_t hash = 14695981039346656037ull;
  for (const unsigned char c : name) hash = (hash ^ c) * 1099511628211ull;
  return hash;
}

/// (0, 1], never 0: its logarithm is taken.
double uniform(uint32_t bits) {
  return (static_cast<double>(bits) + 1.0) / 4294967296.0;
}

/// normal(0, deviation) fp32 in `out`: Philox4x32-10 (Salmon et al. 2011) counts blocks of four,
/// Box and Muller turn them into normal numbers.
void fill_normal(float* out, int64_t n, uint64_t seed, uint64_t stream, double deviation) {
  at::parallel_for(0, (n + 3) / 4, 1 << 14, [&](int64_t first, int64_t last) {
    for (int64_t block = first; block < last; ++block) {
      at::Philox4_32 philox(seed, stream, static_cast<uint64_t>(block));
      for (int64_t i = 4 * block; i < 4 * block + 4; i += 2) {
        const double radius = deviation * std::sqrt(-2.0 * std::log(uniform(philox())));
        const double angle = 2.0 * std::numbers::pi * uniform(philox());
        if (i < n) out[i] = static_cast<float>(radius * std::cos(angle));
        if (i + 1 < n) out[i + 1] = static_cast<float>(radius * std::sin(angle));
      }
    }
  });
}

/// Standard deviation of a matrix: initializer_range throughout, as in Hugging Face, but for
/// gpt_neox, as GPT-NeoX trained Pythia (megatron/model/init_functions.py): wang-init for what
/// writes into the residual stream, small-init (Nguyen and Salazar, arXiv 1910.05895) for the rest.
double deviation(const ModelConfig& config, const std::string& name) {
  if (config.model_type != ModelType::kGptNeox) return config.initializer_range;
  const double hidden = static_cast<double>(config.hidden_size);
  const bool writes_residual =
      name.ends_with(".attention_out.weight") || name.ends_with(".down.weight");
  return writes_residual ? 2.0 / (static_cast<double>(config.num_hidden_layers) * std::sqrt(hidden))
                         : std::sqrt(2.0 / (5.0 * hidden));
}

}  // namespace

void Transformer::initialize(uint64_t seed) {
  const at::NoGradGuard no_grad;
  for (const Parameter& parameter : parameters_) {
    if (parameter.tensor.dim() < 2) {  // norms start at 1; biases and sink logits at 0
      parameter.tensor.fill_(parameter.name.ends_with("norm.weight") ? 1.0 : 0.0);
      continue;
    }
    const at::Tensor drawn =
        at::empty(parameter.tensor.sizes(), at::TensorOptions().dtype(at::kFloat));
    fill_normal(drawn.data_ptr<float>(),
                drawn.numel(),
                seed,
                name_hash(parameter.name),
                deviation(config_, parameter.name));
    parameter.tensor.copy_(drawn);
  }
}

}  // namespace basin
