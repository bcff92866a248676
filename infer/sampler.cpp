#include "infer/sampler.h"

#include <fmt/core.h>

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <vector>

#include "data/sample_order.h"

namespace basin {
namespace {

struct Candidate {
  int64_t id;
  double weight;  // probability, not normalised: exp((logit - largest) / temperature)
};

bool ranks_below(const Candidate& a, const Candidate& b) {
  return a.weight < b.weight || (a.weight == b.weight && a.id > b.id);
}

// The likeliest candidates in falling order, as many as top_k and top_p leave. A heap, because few
// of a large vocabulary are wanted.
std::vector<Candidate> take_likeliest(std::vector<Candidate> all, const SamplerConfig& config) {
  const size_t most =
      config.top_k > 0 ? std::min(all.size(), static_cast<size_t>(config.top_k)) : all.size();
  double total = 0;
  if (config.top_k == 0)
    for (const Candidate& c : all) total += c.weight;
  std::make_heap(all.begin(), all.end(), ranks_below);
  std::vector<Candidate> taken;
  double mass = 0;
  const bool cut_early =
      config.top_k == 0;  // with top_k the total is known only after its k are taken
  while (taken.size() < most && !(cut_early && mass >= config.top_p * total)) {
    std::pop_heap(all.begin(), all.end(), ranks_below);
    taken.push_back(all.back());
    all.pop_back();
    mass += taken.back().weight;
  }
  if (cut_early) return taken;
  const double wanted = config.top_p * mass;
  size_t keep = 0;
  for (double sum = 0; keep < taken.size() && (keep == 0 || sum < wanted); ++keep)
    sum += taken[keep].weight;
  taken.resize(keep);
  return taken;
}

}  // namespace

void SamplerConfig::validate() const {
  if (!(temperature >= 0))
    throw std::invalid_argument(
        fmt::format("--temperature {} must be 0 (greedy) or more", temperature));
  if (top_k < 0)
    throw std::invalid_argument(fmt::format("--top-k {} must be 0 (all) or more", top_k));
  if (!(top_p > 0 && top_p <= 1))
    throw std::invalid_argument(fmt::format("--top-p {} must lie in (0, 1]", top_p));
  if (!(min_p >= 0 && min_p <= 1))
    throw std::invalid_argument(fmt::format("--min-p {} must lie in [0, 1]", min_p));
}

Sampler::Sampler(const SamplerConfig& config) : config_(config) {
  config_.validate();
}

int64_t Sampler::sample(std::span<const float> logits) {
  const float* logit = logits.data();
  const auto V = static_cast<int64_t>(logits.size());
  if (std::any_of(logit, logit + V, [](float x) { return std::isnan(x); }))
    throw std::runtime_error(
        "the model's logits are not numbers: its weights are damaged or its arithmetic overflows");
  const int64_t best = std::max_element(logit, logit + V) - logit;
  if (!std::isfinite(logit[best]))
    throw std::runtime_error(
        "the model's logits are not finite: its weights are damaged or its arithmetic overflows");
  const uint64_t n = drawn_++;
  if (config_.temperature == 0) return best;

  std::vector<Candidate> candidates(static_cast<size_t>(V));
  for (int64_t i = 0; i < V; ++i)
    candidates[static_cast<size_t>(i)] = {
        i,
        std::exp((static_cast<double>(logit[i]) - static_cast<double>(logit[best])) /
                 config_.temperature)};
  if (config_.top_k > 0 || config_.top_p < 1)
    candidates = take_likeliest(std::move(candidates), config_);
  // The likeliest has weight 1, so min_p is a bound on the weight itself.
  std::erase_if(candidates, [&](const Candidate& c) { return c.weight < config_.min_p; });
  double total = 0;
  for (const Candidate& c : candidates) total += c.weight;
  double left = static_cast<double>(keyed_hash(config_.seed, n, 0) >> 11) * 0x1p-53 * total;
  for (const Candidate& c : candidates) {
    if (left < c.weight) return c.id;
    left -= c.weight;
  }
  return best;  // rounding used up the last candidate's share
}

}  // namespace basin
