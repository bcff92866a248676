#include "infer/generator.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>
#include <fmt/core.h>

#include <algorithm>
#include <stdexcept>
#include <vector>

#include "configs/signals.h"

namespace basin {
Generator::Generator(const Transformer& model,
                     const CacheShape& shape,
                     const SamplerConfig& sampler,
                     DecodeWeights weights)
    : model_(model), cache_(model, shape), sampler_(sampler) {
  if (Decoder::supports(model)) decoder_.emplace(model, weights);
  if (CudaDecoder::supports(model))
    cuda_decoder_.emplace(model, std::vector<KvCache*>{&cache_}, weights);
  const at::Tensor sinks =
      model.with_sinks(at::empty({1, 0}, at::TensorOptions(at::kLong).device(model.device())));
  if (sinks.size(1) > 0) advance(sinks);
}

// ids (1, n), n >= 1. Only the last position's logits are computed.
void Generator::advance(const at::Tensor& ids) {
  const at::NoGradGuard no_grad;
  held_ = model_.decode(ids, cache_.attention()).to(at::kCPU, at::kFloat).contiguous();
  cache_.advance(ids.size(1));
  logits_ = {held_.const_data_ptr<float>(), static_cast<size_t>(held_.numel())};
}

void Generator::advance(int64_t id) {
  if (decoder_) {
    KvCache* caches[] = {&cache_};
    logits_ = decoder_->step({&id, 1}, caches);
  } else if (cuda_decoder_) {
    held_ = cuda_decoder_->step({&id, 1}).cpu();
    logits_ = {held_.const_data_ptr<float>(), static_cast<size_t>(held_.numel())};
  } else {
    advance(at::full({1, 1}, id, at::TensorOptions(at::kLong).device(model_.device())));
  }
}

void Generator::feed(std::span<const int32_t> tokens) {
  std::vector<int64_t> ids;
  if (pending_ >= 0) ids.push_back(pending_);
  for (const int32_t id : tokens) {
    if (id < 0 || id >= model_.config().vocab_size)
      throw std::invalid_argument(
          fmt::format("token id {} lies outside of the model's vocabulary of {}",
                      id,
                      model_.config().vocab_size));
    ids.push_back(id);
  }
  pending_ = -1;
  const at::Tensor all = at::tensor(ids, at::kLong).to(model_.device()).unsqueeze(0);
  const int64_t chunk = chunk_tokens(model_.device());
  for (int64_t begin = 0; begin < all.size(1); begin += chunk) {
    check_interrupt();
    advance(all.narrow(1, begin, std::min(chunk, all.size(1) - begin)));
  }
}

int64_t Generator::next() {
  if (pending_ >= 0 && cuda_decoder_ && sampler_.is_greedy()) {  // the logits stay on the device
    pending_ = cuda_decoder_->greedy({&pending_, 1}, 1).item<int64_t>();
    return pending_;
  }
  if (pending_ >= 0) advance(pending_);
  if (logits_.empty())
    throw std::invalid_argument(
        "an empty prompt can only be continued by a model with a sink token: give a prompt");
  pending_ = sampler_.sample(logits_);
  return pending_;
}

}  // namespace basin
