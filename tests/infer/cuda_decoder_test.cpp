// The GPU's decoder with its kernels run by the emulation, against the CPU's decoder.
#include "infer/cuda_decoder.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>
#include <gtest/gtest.h>

#include <tuple>
#include <vector>

#include "tests/infer/tiny_model.h"

namespace basin {
namespace {

const kernels::DecodeKernels kEmulated = kernels::linked_decode_kernels();

/// Two sets of caches in the same state, for as many streams as there are shapes.
struct Streams {
  Streams(const Transformer& model, const std::vector<CacheShape>& shapes) {
    for (const CacheShape& shape : shapes) {
      caches.emplace_back(model, shape);
      expected.emplace_back(model, shape);
    }
    for (size_t n = 0; n < shapes.size(); ++n) {  // each stands elsewhere in its stream
      const at::Tensor prompt =
          random_tokens(model.config(), static_cast<int64_t>(2 + 7 * n), 11 + n).unsqueeze(0);
      for (KvCache* cache : {&caches[n], &expected[n]}) {
        model.hidden_states(prompt, cache->attention());
        cache->advance(prompt.size(1));
      }
    }
  }
  static std::vector<KvCache*> pointers(std::vector<KvCache>& of) {
    std::vector<KvCache*> all;
    for (KvCache& cache : of) all.push_back(&cache);
    return all;
  }
  std::vector<KvCache> caches, expected;
};

/// Largest difference of the logits over `steps` steps.
double largest_error(const Transformer& model,
                     const std::vector<CacheShape>& shapes,
                     DecodeWeights weights = DecodeWeights::kModel,
                     int64_t steps = 25) {
  const c10::NoGradGuard no_grad;
  Streams streams(model, shapes);
  CudaDecoder decoder(model, Streams::pointers(streams.caches), weights, &kEmulated);
  Decoder expected(model, weights);
  const auto N = static_cast<int64_t>(shapes.size());
  const at::Tensor text = random_tokens(model.config(), N * steps).view({steps, N});
  double worst = 0;
  for (int64_t i = 0; i < steps; ++i) {
    const std::span<const int64_t> ids(text[i].const_data_ptr<int64_t>(), shapes.size());
    const at::Tensor got = decoder.step(ids);
    const std::vector<KvCache*> caches = Streams::pointers(streams.expected);
    const std::span<const float> logits = expected.step(ids, caches);
    const at::Tensor want = at::from_blob(const_cast<float*>(logits.data()), got.sizes());
    worst = std::max(worst, (got - want).abs().max().item<double>());
  }
  for (size_t n = 0; n < shapes.size(); ++n)
    EXPECT_EQ(streams.caches[n].position(), streams.expected[n].position());
  return worst;
}

class CudaDecoderOf : public testing::TestWithParam<std::tuple<ModelType, SinkKind>> {};

TEST_P(CudaDecoderOf, AgreesWithTheCpu) {
  const auto [type, sink] = GetParam();
  const Transformer model = random_model(tiny_config(type, sink, 2), at::kFloat, 2);
  EXPECT_LT(largest_error(model, {{2, 13}}), 1e-4);
  EXPECT_LT(largest_error(model, {{0, 9}, {2, 13}, {4, 100}}), 1e-4);
}

INSTANTIATE_TEST_SUITE_P(Families,
                         CudaDecoderOf,
                         testing::Combine(testing::Values(ModelType::kLlama, ModelType::kGptNeox),
                                          testing::Values(SinkKind::kNone,
                                                          SinkKind::kToken,
                                                          SinkKind::kZero,
                                                          SinkKind::kLogit)));

TEST(CudaDecoder, EveryImportedLayoutThatRotates) {
  for (const FamilyVariant& v : family_variants()) {
    const Transformer model = random_model(v.config, at::kFloat, 2);
    if (v.config.uses_alibi())
      EXPECT_THROW(largest_error(model, {{2, 13}}), c10::Error) << v.name;
    else
      EXPECT_LT(largest_error(model, {{2, 13}}), 1e-4) << v.name;
  }
}

TEST(CudaDecoder, SequentialResidualAndTiedHead) {
  ModelConfig config = tiny_config(ModelType::kGptNeox, SinkKind::kToken);
  config.use_parallel_residual = false;
  config.tie_word_embeddings = true;
  const Transformer model = random_model(config, at::kFloat, 2);
  EXPECT_LT(largest_error(model, {{1, 20}}), 1e-4);
}

TEST(CudaDecoder, Bf16AndQ8) {
  ModelConfig config = tiny_config(ModelType::kLlama, SinkKind::kToken);
  config.intermediate_size = 64;  // whole blocks of 32
  const Transformer narrow = random_model(config, at::kBFloat16);
  EXPECT_LT(largest_error(narrow, {{1, 20}, {1, 9}}), 0.05);  // cached values differ by a rounding
  const Transformer model = random_model(config, at::kFloat, 2);
  EXPECT_LT(largest_error(model, {{1, 20}}, DecodeWeights::kQ8),
            5e-3);  // the CPU rounds activations to 16 bits
}

TEST(CudaDecoder, GreedyFeedsTheLikeliest) {
  const Transformer model =
      random_model(tiny_config(ModelType::kLlama, SinkKind::kToken), at::kFloat, 2);
  Streams streams(model, {{1, 20}, {1, 9}});
  CudaDecoder decoder(model, Streams::pointers(streams.caches), DecodeWeights::kModel, &kEmulated);
  Decoder expected(model);
  const std::vector<int64_t> first = {7, 9};
  // The second call goes on where the first has left the device, the third after another's steps.
  const at::Tensor start = decoder.greedy(first, 11);
  const auto last = [](const at::Tensor& tokens) {
    const at::Tensor column = tokens.select(1, -1).contiguous();
    return std::vector<int64_t>(column.const_data_ptr<int64_t>(),
                                column.const_data_ptr<int64_t>() + column.numel());
  };
  const at::Tensor more = decoder.greedy(last(start), 9);
  const at::Tensor step = decoder.step(last(more)).argmax(1, true),
                   rest = decoder.greedy(last(step), 9);
  const at::Tensor got = at::cat({start, more, step, rest}, 1);
  std::vector<int64_t> ids = first;
  const std::vector<KvCache*> caches = Streams::pointers(streams.expected);
  for (int64_t i = 0; i < 30; ++i) {
    const std::span<const float> logits = expected.step(ids, caches);
    const at::Tensor next =
        at::from_blob(const_cast<float*>(logits.data()), {2, model.config().vocab_size}).argmax(1);
    for (int64_t n = 0; n < 2; ++n) {
      ids[static_cast<size_t>(n)] = next[n].item<int64_t>();
      EXPECT_EQ(got[n][i].item<int64_t>(), ids[static_cast<size_t>(n)]) << n << " after " << i;
    }
  }
  EXPECT_EQ(streams.caches[0].position(), streams.expected[0].position());
  // A step more has been launched than was asked for: other tokens that come now do not see it.
  const at::NoGradGuard no_grad;
  for (size_t n = 0; n < 2; ++n)
    for (const int64_t count : {1, 7}) {
      const at::Tensor chunk = random_tokens(model.config(), count, 5).unsqueeze(0);
      const at::Tensor seen = model.decode(chunk, streams.caches[n].attention()),
                       want = model.decode(chunk, streams.expected[n].attention());
      EXPECT_LT((seen - want).abs().max().item<double>(), 1e-4) << n << ", " << count << " tokens";
    }
  const int64_t outside[] = {0, 61};
  EXPECT_THROW(decoder.step(outside), c10::Error);
}

TEST(CudaDecoder, GreedyRefusesLogitsThatAreNotFinite) {
  const at::NoGradGuard no_grad;
  for (const double bad : {NAN, INFINITY}) {
    const Transformer model =
        random_model(tiny_config(ModelType::kLlama, SinkKind::kToken), at::kFloat, 2);
    model.parameter("head.weight")[5][0] = bad;
    model.parameter("head.weight")[6][0] = -bad;
    Streams streams(model, {{1, 20}});
    CudaDecoder decoder(model, Streams::pointers(streams.caches), DecodeWeights::kModel, &kEmulated);
    const int64_t first[] = {7};
    EXPECT_THROW(decoder.greedy(first, 3), std::runtime_error) << bad;
  }
}

}  // namespace
}  // namespace basin
