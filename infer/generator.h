// Endless text from a model with a cache of constant size: feed a prompt of any length, then call
// `next` for as long as you like.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>
#include <span>

#include "infer/cuda_decoder.h"
#include "infer/decoder.h"
#include "infer/kv_cache.h"
#include "infer/sampler.h"

namespace basin {

class Generator {
 public:
  /// `model` must outlive the generator. A sink model's sink tokens are fed here, first. `weights`:
  /// how single tokens are decoded; prompts always go through the model's own weights.
  Generator(const Transformer& model,
            const CacheShape& shape,
            const SamplerConfig& sampler,
            DecodeWeights weights = DecodeWeights::kModel);

  /// Appends tokens to the stream. Longer than the cache is fine: they stream through it in
  /// parallel chunks, with the same result as one by one. Throws std::invalid_argument for an id
  /// outside of the vocabulary.
  void feed(std::span<const int32_t> tokens);

  /// Draws the next token and appends it to the stream. Throws std::invalid_argument when nothing
  /// was fed and the model has no sink token.
  int64_t next();

  const KvCache& cache() const { return cache_; }

 private:
  void advance(const at::Tensor& ids);
  void advance(int64_t id);

  const Transformer& model_;
  KvCache cache_;
  std::optional<Decoder> decoder_;  // the one that can run the model, if any
  std::optional<CudaDecoder> cuda_decoder_;
  Sampler sampler_;
  int64_t pending_ = -1;  // drawn, but not yet through the layers
  at::Tensor held_;       // fp32 (V), where the logits lie when the decoder did not make them
  std::span<const float> logits_;  // (V) behind the last token; empty before the first
};

}  // namespace basin
