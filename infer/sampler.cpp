#include "infer/sampler.h"

#include <fmt/core.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <stdexcept>

#include "data/sample_order.h"
#include "model/kernels/decode.h"

namespace basin {
namespace {

constexpr size_t kBlock = 1024;

kernels::WeightsAbove sum_of(std::span<const float> weights, float least = 0) {
  return kernels::sum_weights(static_cast<int64_t>(weights.size()), weights.data(), least);
}
void drop_below(float least, std::span<float> weights) {
  kernels::drop_weights_below(static_cast<int64_t>(weights.size()), least, weights.data());
}

// Drops all but the likeliest weights, the largest of which is 1: as few as have `reaches` hold for
// what they sum up to. Where they end is found by bisection of the weights' bits, which have the
// order of the numbers: sorting a vocabulary is slow.
template <class Reaches>
void keep_likeliest(std::span<float> weights, const Reaches& reaches) {
  constexpr int64_t kFew = 256;  // that are then sorted
  constexpr auto kOne = std::bit_cast<uint32_t>(1.0f),
                 kLeast = std::bit_cast<uint32_t>(std::numeric_limits<float>::min());
  struct Bound {
    uint32_t bits;
    kernels::WeightsAbove above;
  };
  const auto bound = [&](uint32_t bits) {
    return Bound{bits, sum_of(weights, std::bit_cast<float>(bits))};
  };
  Bound high{kOne + 1, {}}, low = bound(kOne);
  for (uint32_t octaves = 1; !reaches(low.above); octaves *= 2) {
    if (low.bits == kLeast) return;
    high = low;
    low = bound(octaves < 126 ? kOne - (octaves << 23) : kLeast);
  }
  while (low.above.count - high.above.count > kFew && high.bits - low.bits > 1) {
    const Bound middle = bound(low.bits + (high.bits - low.bits) / 2);
    (reaches(middle.above) ? low : high) = middle;
  }
  const float least = std::bit_cast<float>(low.bits), most = std::bit_cast<float>(high.bits);
  drop_below(least, weights);
  std::vector<size_t> ids;  // of the weights between the bounds
  for (size_t begin = 0; begin < weights.size(); begin += kBlock) {
    const auto block = weights.subspan(begin, std::min(kBlock, weights.size() - begin));
    if (sum_of(block, least).count == sum_of(block, most).count) continue;
    for (size_t i = 0; i < block.size(); ++i)
      if (block[i] >= least && block[i] < most) ids.push_back(begin + i);
  }
  std::stable_sort(
      ids.begin(), ids.end(), [&](size_t a, size_t b) { return weights[a] > weights[b]; });
  kernels::WeightsAbove kept = high.above;
  for (const size_t id : ids) {
    if (reaches(kept)) weights[id] = 0;
    kept.sum += static_cast<double>(weights[id]);
    kept.count += 1;
  }
}

// The id at `share` of the weights' sum; -1 where rounding leaves nothing for it.
int64_t pick(std::span<const float> weights, double share) {
  double left = share * sum_of(weights).sum;
  for (size_t begin = 0; begin < weights.size(); begin += kBlock) {
    const size_t end = std::min(begin + kBlock, weights.size());
    const double sum = sum_of(weights.subspan(begin, end - begin)).sum;
    if (left >= sum) {
      left -= sum;
      continue;
    }
    int64_t last = -1;
    for (size_t i = begin; i < end && left >= 0; ++i) {
      if (weights[i] > 0) last = static_cast<int64_t>(i);
      left -= static_cast<double>(weights[i]);
    }
    return last;
  }
  return -1;
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
  const auto V = static_cast<int64_t>(logits.size());
  const float largest = kernels::largest_logit(V, logits.data());
  if (std::isnan(largest))
    throw std::runtime_error(
        "the model's logits are not numbers: its weights are damaged or its arithmetic overflows");
  if (!std::isfinite(largest))
    throw std::runtime_error(
        "the model's logits are not finite: its weights are damaged or its arithmetic overflows");
  const uint64_t n = drawn_++;
  const auto likeliest = [&] { return std::ranges::find(logits, largest) - logits.begin(); };
  if (is_greedy()) return likeliest();

  weights_.resize(logits.size());
  // A finite factor, so that the likeliest token's weight is 1 at any temperature.
  kernels::sampling_weights(V,
                            logits.data(),
                            largest,
                            static_cast<float>(std::min(1 / config_.temperature, 1e30)),
                            weights_.data());
  using kernels::WeightsAbove;
  if (config_.top_k > 0)
    keep_likeliest(weights_, [&](const WeightsAbove& w) { return w.count >= config_.top_k; });
  if (config_.top_p < 1) {
    const double wanted = config_.top_p * sum_of(weights_).sum;
    keep_likeliest(weights_, [&](const WeightsAbove& w) { return w.sum >= wanted; });
  }
  if (config_.min_p > 0) drop_below(static_cast<float>(config_.min_p), weights_);
  const int64_t id =
      pick(weights_, static_cast<double>(keyed_hash(config_.seed, n, 0) >> 11) * 0x1p-53);
  return id >= 0 ? id : likeliest();
}

}  // namespace basin
