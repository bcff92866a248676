// The decoder against its reference, Transformer::decode over the same cache, which the streaming
// tests hold against a literal transcription of the semantics.
#include "infer/decoder.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <c10/core/GradMode.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <stdexcept>
#include <tuple>
#include <vector>

#include "tests/infer/tiny_model.h"
#include "tests/support/counted_new.h"

namespace basin {
namespace {

at::Tensor as_tensor(std::span<const float> logits, int64_t rows) {
  return at::from_blob(const_cast<float*>(logits.data()),
                       {rows, static_cast<int64_t>(logits.size()) / rows},
                       at::kFloat)
      .clone();
}

// Largest difference between the decoder's logits and the reference's over `steps` tokens of one
// stream, well past the cache's size.
double largest_error(const Transformer& model,
                     const CacheShape& shape,
                     DecodeWeights weights = DecodeWeights::kModel,
                     int64_t steps = 60) {
  const c10::NoGradGuard no_grad;
  const at::Tensor text = random_tokens(model.config(), steps);
  KvCache cache(model, shape), reference(model, shape);
  Decoder decoder(model, weights);
  double worst = 0;
  for (int64_t i = 0; i < steps; ++i) {
    const int64_t id = text[i].item<int64_t>();
    KvCache* caches[] = {&cache};
    const at::Tensor got = as_tensor(decoder.step({&id, 1}, caches), 1);
    const ops::ReferenceGuard plain;
    const at::Tensor want =
        model.decode(text.narrow(0, i, 1).unsqueeze(0), reference.attention()).to(at::kFloat);
    reference.advance(1);
    worst = std::max(worst, (got - want).abs().max().item<double>());
  }
  EXPECT_EQ(cache.position(), steps);
  return worst;
}

class DecoderOf : public testing::TestWithParam<std::tuple<ModelType, SinkKind>> {};

TEST_P(DecoderOf, AgreesWithTheReference) {
  const auto [type, sink] = GetParam();
  const ModelConfig config = tiny_config(type, sink, 2);
  const Transformer model = random_model(config, at::kFloat, 2);
  for (const CacheShape shape : {CacheShape{0, 9}, CacheShape{2, 13}, CacheShape{4, 100}})
    EXPECT_LT(largest_error(model, shape), 1e-4) << shape.sinks << " + " << shape.recent;
}

INSTANTIATE_TEST_SUITE_P(Families,
                         DecoderOf,
                         testing::Combine(testing::Values(ModelType::kLlama, ModelType::kGptNeox),
                                          testing::Values(SinkKind::kNone,
                                                          SinkKind::kToken,
                                                          SinkKind::kZero,
                                                          SinkKind::kLogit)));

TEST(Decoder, EveryImportedLayout) {
  for (const FamilyVariant& v : family_variants()) {
    const Transformer model = random_model(v.config, at::kFloat, 2);
    for (const CacheShape shape : {CacheShape{0, 9}, CacheShape{4, 13}})
      EXPECT_LT(largest_error(model, shape), 1e-4) << v.name << " " << shape.sinks;
  }
}

TEST(Decoder, SequentialResidualTiedHeadAndOddSizes) {
  ModelConfig config = tiny_config(ModelType::kGptNeox, SinkKind::kToken);
  config.use_parallel_residual = false;
  config.tie_word_embeddings = true;
  config.hidden_size = 36;
  config.intermediate_size = 50;
  const Transformer model = random_model(config, at::kFloat, 2);
  EXPECT_LT(largest_error(model, {1, 20}), 1e-4);
}

// Of a bf16 model the decoder rounds less than the reference: its activations stay fp32.
TEST(Decoder, Bf16IsNearerToTheTruthThanItsReference) {
  for (const ModelType type : {ModelType::kLlama, ModelType::kGptNeox}) {
    const ModelConfig config = tiny_config(type, SinkKind::kToken);
    const Transformer model = random_model(config, at::kBFloat16);
    Transformer wide(config, at::kDouble, at::kCPU);
    const c10::NoGradGuard no_grad;
    at::Tensor(wide.flat()).copy_(model.flat());
    const at::Tensor text = random_tokens(config, 60);
    KvCache cache(model, {1, 20}), rounded(model, {1, 20}), exact(wide, {1, 20});
    KvCache* caches[] = {&cache};
    Decoder decoder(model);
    double error = 0, error_of_reference = 0;
    for (int64_t i = 0; i < 60; ++i) {
      const int64_t id = text[i].item<int64_t>();
      const at::Tensor ids = text.narrow(0, i, 1).unsqueeze(0),
                       truth = wide.decode(ids, exact.attention()),
                       got = as_tensor(decoder.step({&id, 1}, caches), 1);
      const ops::ReferenceGuard plain;
      const at::Tensor reference = model.decode(ids, rounded.attention());
      rounded.advance(1), exact.advance(1);
      error += (got - truth).abs().max().item<double>();
      error_of_reference += (reference - truth).abs().max().item<double>();
    }
    EXPECT_LT(error, 0.6 * error_of_reference);
  }
}

TEST(Decoder, StreamsOfABatchDoNotMix) {
  const ModelConfig config = tiny_config(ModelType::kLlama, SinkKind::kToken);
  const Transformer model = random_model(config, at::kFloat, 2);
  constexpr int64_t kStreams = 11, kSteps = 30;  // more than one pass over the weights
  const at::Tensor text = random_tokens(config, kStreams * kSteps).view({kStreams, kSteps});
  Decoder batch(model), alone(model);
  std::vector<KvCache> together, single;
  for (int64_t n = 0; n < kStreams; ++n) {
    together.emplace_back(model, CacheShape{1, 7 + n});
    single.emplace_back(model, CacheShape{1, 7 + n});
  }
  std::vector<KvCache*> caches;
  for (KvCache& cache : together) caches.push_back(&cache);
  for (int64_t i = 0; i < kSteps; ++i) {
    std::vector<int64_t> ids;
    for (int64_t n = 0; n < kStreams; ++n) ids.push_back(text[n][i].item<int64_t>());
    const at::Tensor got = as_tensor(batch.step(ids, caches), kStreams);
    for (int64_t n = 0; n < kStreams; ++n) {
      KvCache* one[] = {&single[static_cast<size_t>(n)]};
      const at::Tensor want = as_tensor(alone.step({&ids[static_cast<size_t>(n)], 1}, one), 1);
      EXPECT_LT((got[n] - want[0]).abs().max().item<double>(), 1e-4);
    }
  }
}

TEST(Decoder, GivesTheSameBitsOnAnyNumberOfThreads) {
  ModelConfig config = tiny_config(ModelType::kLlama, SinkKind::kToken);
  config.hidden_size = 256;
  config.intermediate_size = 512;
  config.vocab_size = 1000;  // enough weights for more than one thread
  const Transformer model = random_model(config, at::kFloat);
  const at::Tensor text = random_tokens(config, 20);
  const auto run = [&](int threads) {
    const int before = at::get_num_threads();
    at::set_num_threads(threads);
    Decoder decoder(model);
    KvCache cache(model, {1, 9});
    KvCache* caches[] = {&cache};
    at::Tensor last;
    for (int64_t i = 0; i < text.size(0); ++i) {
      const int64_t id = text[i].item<int64_t>();
      last = as_tensor(decoder.step({&id, 1}, caches), 1);
    }
    at::set_num_threads(before);
    return last;
  };
  EXPECT_TRUE(at::equal(run(1), run(2)));
  EXPECT_TRUE(at::equal(run(1), run(3)));
}

// A step allocates nothing: neither views of the cache nor anything else.
TEST(Decoder, AsksForNoMemory) {
  ModelConfig config = tiny_config(ModelType::kLlama, SinkKind::kToken, 2);
  config.intermediate_size = 64;
  const Transformer model = random_model(config, at::kFloat);
  const c10::NoGradGuard no_grad;
  for (const DecodeWeights weights : {DecodeWeights::kModel, DecodeWeights::kQ8}) {
    Decoder decoder(model, weights);
    KvCache a(model, {1, 9}), b(model, {1, 9});
    KvCache* caches[] = {&a, &b};
    const int64_t ids[] = {7, 8};
    decoder.step(ids, caches);
    const int64_t before = counted_news.load();
    for (int i = 0; i < 20; ++i) decoder.step(ids, caches);
    EXPECT_EQ(counted_news.load() - before, 0);
  }
}

TEST(Decoder, RefusesWeightsThatEightBitsCannotExpress) {
  ModelConfig config = tiny_config(ModelType::kLlama, SinkKind::kToken);
  config.intermediate_size = 64;
  for (const float bad : {NAN, INFINITY, 1e7f}) {
    Transformer model = random_model(config, at::kFloat);
    model.parameter("layers.1.down.weight")[3][5] = bad;
    const auto is_named = testing::ThrowsMessage<std::runtime_error>(
        testing::HasSubstr("layers.1.down.weight holds a value of "));
    EXPECT_THAT([&] { Decoder(model, DecodeWeights::kQ8); }, is_named);
    EXPECT_THAT([&] { round_to_q8(model); }, is_named);
  }
}

TEST(Decoder, EightBitWeightsAreTheRoundedOnes) {
  ModelConfig config = tiny_config(ModelType::kLlama, SinkKind::kToken);
  config.intermediate_size = 64;
  const Transformer model = random_model(config, at::kFloat);
  // Rounds each block of 32 to 127 steps of its fp16 scale, in plain code.
  Transformer rounded(config, at::kFloat, at::kCPU);
  at::Tensor(rounded.flat()).copy_(model.flat());
  for (const Parameter& p : rounded.parameters()) {
    if (p.tensor.dim() != 2 || p.name == "embedding.weight") continue;
    at::Tensor blocks = at::Tensor(p.tensor).view({-1, 32});
    const at::Tensor scale =
        (blocks.abs().amax(1, true) / 127).to(at::kHalf).to(at::kFloat).clamp_min(1e-30);
    blocks.copy_((blocks / scale).round().clamp(-127, 127) * scale);
  }
  const c10::NoGradGuard no_grad;
  Decoder eight(model, DecodeWeights::kQ8), plain(rounded);
  KvCache a(model, {1, 20}), b(rounded, {1, 20});
  KvCache *to_eight[] = {&a}, *to_plain[] = {&b};
  const at::Tensor text = random_tokens(config, 40);
  for (int64_t i = 0; i < 40; ++i) {
    const int64_t id = text[i].item<int64_t>();
    const at::Tensor got = as_tensor(eight.step({&id, 1}, to_eight), 1),
                     want = as_tensor(plain.step({&id, 1}, to_plain), 1);
    EXPECT_LT((got - want).abs().max().item<double>(), 1e-3);  // activations have 16 bits there
  }
}

TEST(Decoder, AModelRoundedToEightBitsIsWhatTheDecoderRuns) {
  ModelConfig config = tiny_config(ModelType::kLlama, SinkKind::kToken);
  config.intermediate_size = 64;
  for (const bool tied : {false, true}) {
    config.tie_word_embeddings = tied;
    Transformer model = random_model(config, at::kFloat);
    const c10::NoGradGuard no_grad;
    const at::Tensor before = model.flat().clone();
    round_to_q8(model);
    EXPECT_FALSE(at::equal(before, model.flat()));
    EXPECT_LT(largest_error(model, {1, 20}, DecodeWeights::kQ8), 5e-3);
  }
}

TEST(Decoder, RefusesWhatItCannotDo) {
  ModelConfig config = tiny_config(ModelType::kLlama, SinkKind::kToken);
  const Transformer model = random_model(config, at::kFloat);
  EXPECT_THROW(Decoder(model, DecodeWeights::kQ8), std::invalid_argument);  // rows of 48
  EXPECT_FALSE(Decoder::supports(random_model(config, at::kDouble)));
  Decoder decoder(model);
  KvCache cache(model, {1, 9});
  KvCache* caches[] = {&cache};
  const int64_t beyond = config.vocab_size;
  EXPECT_THROW(decoder.step({&beyond, 1}, caches), c10::Error);
  EXPECT_THROW(decoder.step({}, {}), c10::Error);
}

}  // namespace
}  // namespace basin
