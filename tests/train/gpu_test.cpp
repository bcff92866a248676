// On a GPU, against the plain ops and against the CPU: what needs LibTorch around the kernels. The
// kernels alone are tested in basin_gpu_kernels_tests and, emulated, everywhere.
#include <ATen/ATen.h>
#include <c10/core/GradMode.h>
#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "infer/cuda_decoder.h"
#include "infer/kv_cache.h"
#include "infer/modes.h"
#include "model/cuda.h"
#include "model/device.h"
#include "tests/infer/tiny_model.h"
#include "tests/train/gpu_obstacle.h"
#include "train/forward_backward.h"
#include "train/gradient_buckets.h"
#include "train/optimizer.h"

namespace basin {
namespace {

class Gpu : public testing::Test {
 protected:
  void SetUp() override {
    if (const std::string obstacle = gpu_obstacle(); !obstacle.empty()) GTEST_SKIP() << obstacle;
    ASSERT_EQ(cuda_kernels_obstacle(), "");
    device_ = choose_device(DeviceKind::kCuda, "the test");
  }
  at::Device device_ = at::kCPU;
};

// Heads of a size that flash attention takes.
ModelConfig gpu_config(ModelType type, SinkKind kind) {
  ModelConfig c = tiny_config(type, kind);
  c.hidden_size = 128;
  c.num_attention_heads = 4;
  c.intermediate_size = 192;
  c.vocab_size = 320;
  return c;
}

Transformer on_device(const Transformer& model, at::ScalarType dtype, at::Device device) {
  const at::NoGradGuard no_grad;
  Transformer moved(model.config(), dtype, device);
  at::Tensor(moved.flat()).copy_(model.flat());
  return moved;
}

double relative(const at::Tensor& got, const at::Tensor& want) {
  const at::Tensor a = got.cpu().to(at::kDouble), b = want.cpu().to(at::kDouble);
  return ((a - b).norm() / b.norm()).item<double>();
}

struct LossAndGradient {
  double loss;
  at::Tensor gradient;
};

// Two micro-batches, as a step has them.
LossAndGradient loss_and_gradient(Transformer& model, const at::Tensor& samples) {
  const auto comm = make_single_comm();
  GradientBuckets gradients(model, *comm);
  ForwardBackward pass(model);
  const std::vector<at::Tensor> parts = samples.to(model.device()).chunk(2);
  pass.prepare(parts[0]);
  gradients.zero();
  pass.reset_loss();
  for (const at::Tensor& part : parts) pass.run(part);
  return {pass.loss_sum(), gradients.flat().cpu().clone()};
}

// Against fp64 on the CPU: the fused bf16 model must be about as near as plain ops with fp32
// inside, the fp32 one to rounding. The graph is part of it.
TEST_F(Gpu, LossAndGradientOfAllFamiliesAndSinks) {
  for (const ModelType type : {ModelType::kLlama, ModelType::kGptNeox})
    for (const SinkKind kind :
         {SinkKind::kNone, SinkKind::kToken, SinkKind::kZero, SinkKind::kLogit}) {
      SCOPED_TRACE(testing::Message() << enum_name(type) << ' ' << enum_name(kind));
      ModelConfig config = gpu_config(type, kind);
      if (kind == SinkKind::kZero) config.vocab_size = 317;  // rows of logits that are filled up
      const Transformer weights = random_model(config, at::kBFloat16);
      const at::Tensor samples = random_tokens(weights.config(), 6 * 65).view({6, 65});
      Transformer exact = on_device(weights, at::kDouble, at::kCPU),
                  fused = on_device(weights, at::kBFloat16, device_),
                  wide = on_device(weights, at::kFloat, device_),
                  plain = on_device(weights, at::kBFloat16, device_);
      const LossAndGradient want = loss_and_gradient(exact, samples),
                            got = loss_and_gradient(fused, samples),
                            got_wide = loss_and_gradient(wide, samples);
      LossAndGradient reference;
      {
        const ops::ReferenceGuard guard;
        const auto comm = make_single_comm();
        GradientBuckets gradients(plain, *comm);
        reference.loss = 0;
        for (const at::Tensor& part : samples.to(device_).chunk(2)) {
          const at::Tensor loss = plain.loss(part);
          loss.backward();
          reference.loss += loss.item<double>();
        }
        reference.gradient = gradients.flat().cpu().clone();
      }
      EXPECT_NEAR(got_wide.loss, want.loss, 1e-4 * want.loss);
      EXPECT_LT(relative(got_wide.gradient, want.gradient), 1e-3);
      EXPECT_NEAR(got.loss, want.loss, 5e-3 * want.loss);
      EXPECT_LT(relative(got.gradient, want.gradient),
                1.5 * relative(reference.gradient, want.gradient));
    }
}

TEST_F(Gpu, TheSameStepTwiceIsTheSame) {
  at::globalContext().setDeterministicAlgorithms(true, false);  // flash attention's backward
  Transformer model =
      on_device(random_model(gpu_config(ModelType::kLlama, SinkKind::kToken), at::kBFloat16),
                at::kBFloat16,
                device_);
  const at::Tensor samples = random_tokens(model.config(), 8 * 129).view({8, 129});
  const LossAndGradient first = loss_and_gradient(model, samples),
                        second = loss_and_gradient(model, samples);
  at::globalContext().setDeterministicAlgorithms(false, false);
  EXPECT_EQ(first.loss, second.loss);
  EXPECT_TRUE(at::equal(first.gradient, second.gradient));
}

TEST_F(Gpu, OptimizerStep) {
  const Transformer weights =
      random_model(gpu_config(ModelType::kGptNeox, SinkKind::kToken), at::kBFloat16);
  const at::Tensor gradient = at::randn(weights.flat().sizes(), at::kFloat);
  std::vector<at::Tensor> masters;
  for (const at::Device device : {at::Device(at::kCPU), device_}) {
    Transformer model = on_device(weights, at::kBFloat16, device);
    Optimizer optimizer(model, weights.flat().to(device).to(at::kFloat), OptimizerConfig());
    for (int i = 0; i < 3; ++i) optimizer.step(gradient.to(device), 0.5, 1e-2);
    masters.push_back(optimizer.master().cpu());
    EXPECT_TRUE(at::equal(model.flat(), optimizer.master().to(at::kBFloat16)));
  }
  EXPECT_LT(relative(masters[1], masters[0]), 1e-6);
  EXPECT_NEAR(ops::sum_of_squares(gradient.to(device_)),
              ops::sum_of_squares(gradient),
              1e-9 * ops::sum_of_squares(gradient));
}

TEST_F(Gpu, StreamingIsTheCpusStreaming) {
  for (const ModelType type : {ModelType::kLlama, ModelType::kGptNeox})
    for (const SinkKind kind :
         {SinkKind::kNone, SinkKind::kToken, SinkKind::kZero, SinkKind::kLogit})
      for (const int64_t sinks : {0, 1, 4}) {
        const Transformer narrow = random_model(gpu_config(type, kind), at::kBFloat16);
        const Transformer wide = on_device(narrow, at::kFloat, at::kCPU);
        const at::Tensor text = random_tokens(narrow.config(), 900);
        const Transformer gpu = on_device(narrow, at::kBFloat16, device_),
                          gpu_wide = on_device(narrow, at::kFloat, device_);
        const at::Tensor want = score_stream(wide, {sinks, 64}, text);
        EXPECT_LT(relative(score_stream(gpu_wide, {sinks, 64}, text), want), 1e-3);
        EXPECT_LT(relative(score_stream(gpu, {sinks, 64}, text), want), 3e-2)
            << enum_name(type) << ' ' << enum_name(kind) << ' ' << sinks;
      }
}

TEST_F(Gpu, DecodingIsTheCpusDecoding) {
  const at::NoGradGuard no_grad;
  for (const ModelType type : {ModelType::kLlama, ModelType::kGptNeox})
    for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
      const Transformer model = random_model(gpu_config(type, SinkKind::kToken), dtype);
      const Transformer gpu = on_device(model, dtype, device_);
      KvCache cache(model, {1, 20}), gpu_cache(gpu, {1, 20});
      KvCache* caches[] = {&cache};
      Decoder decoder(model);
      CudaDecoder gpu_decoder(gpu, {&gpu_cache});
      for (int64_t i = 0; i < 60; ++i) {
        const int64_t id = 6 + i * 7 % 300;
        const std::span<const float> logits = decoder.step({&id, 1}, caches);
        const at::Tensor want = at::from_blob(const_cast<float*>(logits.data()),
                                              {1, model.config().vocab_size}),
                         got = gpu_decoder.step({&id, 1});
        EXPECT_LT(relative(got, want), dtype == at::kFloat ? 1e-4 : 2e-2) << "token " << i;
      }
    }
}

// Heads of 64, so that all layers can be one launch: with grouped queries, an MLP whose units do not divide among the clusters, and
// caches that fill and turn.
TEST_F(Gpu, DecodingInOneLaunchIsTheCpusDecoding) {
  const at::NoGradGuard no_grad;
  const auto shape = [](ModelType type, int64_t heads, int64_t kv_heads, int64_t intermediate, bool parallel, SinkKind sink) {
    ModelConfig c = gpu_config(type, sink);
    c.hidden_size = 64 * heads, c.num_attention_heads = heads, c.num_key_value_heads = kv_heads, c.head_dim = 0;
    c.intermediate_size = intermediate, c.use_parallel_residual = parallel, c.num_hidden_layers = 3;
    return c;
  };
  for (const ModelConfig& config : {shape(ModelType::kGptNeox, 4, 0, 1024, true, SinkKind::kToken), shape(ModelType::kGptNeox, 12, 0, 3072, false, SinkKind::kToken),
                                    shape(ModelType::kLlama, 4, 2, 712, false, SinkKind::kLogit), shape(ModelType::kLlama, 12, 4, 2048, false, SinkKind::kToken)})
    for (const CacheShape& cache_shape : {CacheShape{1, 20}, CacheShape{4, 300}, CacheShape{1, 450}}) {
      const Transformer model = random_model(config, at::kBFloat16);
      const Transformer gpu = on_device(model, at::kBFloat16, device_);
      KvCache cache(model, cache_shape), gpu_cache(gpu, cache_shape);
      KvCache* caches[] = {&cache};
      Decoder decoder(model);
      CudaDecoder gpu_decoder(gpu, {&gpu_cache});
      EXPECT_TRUE(gpu_decoder.is_one_launch());
      for (int64_t i = 0; i < cache_shape.recent + 60; ++i) {
        const int64_t id = 6 + i * 7 % 300;
        const std::span<const float> logits = decoder.step({&id, 1}, caches);
        const at::Tensor want = at::from_blob(const_cast<float*>(logits.data()), {1, model.config().vocab_size}), got = gpu_decoder.step({&id, 1});
        ASSERT_LT(relative(got, want), 2e-2) << "token " << i << ", heads " << config.num_attention_heads;
      }
    }
}

// Token by token, which is a step ahead of its reader, and with other tokens in between.
TEST_F(Gpu, GreedyDecodingIsWhatStepsPick) {
  const at::NoGradGuard no_grad;
  for (const ModelType type : {ModelType::kLlama, ModelType::kGptNeox}) {
    const Transformer gpu = on_device(
        random_model(gpu_config(type, SinkKind::kToken), at::kFloat), at::kFloat, device_);
    KvCache ahead(gpu, {1, 20}), behind(gpu, {1, 20});
    CudaDecoder greedy(gpu, {&ahead}), steps(gpu, {&behind});
    int64_t id = 7;
    for (int64_t i = 0; i < 60; ++i) {
      if (i % 17 == 16) id = 6 + i;
      const int64_t picked = steps.step({&id, 1}).argmax().item<int64_t>();
      ASSERT_EQ(greedy.greedy({&id, 1}, 1).item<int64_t>(), picked) << "token " << i;
      id = picked;
    }
  }
}

TEST_F(Gpu, GreedyDecodingRefusesLogitsThatAreNotFinite) {
  const at::NoGradGuard no_grad;
  Transformer gpu = on_device(
      random_model(gpu_config(ModelType::kLlama, SinkKind::kToken), at::kFloat), at::kFloat, device_);
  gpu.parameter("head.weight").fill_(NAN);
  KvCache cache(gpu, {1, 20});
  CudaDecoder decoder(gpu, {&cache});
  const int64_t id = 7;
  EXPECT_THROW(decoder.greedy({&id, 1}, 1), std::runtime_error);
}

}  // namespace
}  // namespace basin
