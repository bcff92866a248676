// Choosing the next token. Reproducible: token n of a sampler is a pure function of (seed, n,
// logits), up to the rounding of fp32 probabilities, which differs between processors.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace basin {

/// Applied in this order, as Hugging Face does: temperature, top_k, top_p, min_p. The defaults
/// change nothing.
struct SamplerConfig {
  double temperature = 1;  // 0: greedy
  int64_t top_k = 0;       // only the k likeliest; 0: all
  double top_p = 1;        // of those the likeliest that together have at least this probability
  double min_p = 0;  // of those the ones with at least this share of the likeliest's probability
  uint64_t seed = 1;

  /// Throws std::invalid_argument naming the first value out of range.
  void validate() const;
};

class Sampler {
 public:
  explicit Sampler(const SamplerConfig& config);

  /// logits (V) -> the id drawn. Equal logits rank by id. Throws std::runtime_error when a logit is
  /// NaN or none is finite.
  int64_t sample(std::span<const float> logits);

  bool is_greedy() const { return config_.temperature == 0; }

 private:
  SamplerConfig config_;
  uint64_t drawn_ = 0;
  std::vector<float> weights_;  // probabilities, not normalised; memory kept from call to call
};

}  // namespace basin
