// The decoder: fp64 gradient checks for every family and sink kind, the sink's definition, fused against reference.
#include "model/transformer.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include <cmath>

#include "tests/model/random_transformer.h"
#include "tests/support/kernel_checks.h"

namespace basin {
namespace {

TEST(Transformer, GradientsAreExactForEveryFamilyAndSink) {
  for (int i = 0; const ModelConfig& config : all_kinds()) {
    Transformer model = random_model(config, at::kDouble);
    model.recompute_activations(i++ % 2 == 0);   // the first and every other one: RecomputeTest has them all
    const at::Tensor batch = samples(2, 6, config.vocab_size);
    torch::autograd::backward({model.loss(batch)}, {});
    at::NoGradGuard no_grad;
    for (const Parameter& p : model.parameters()) {
      at::Tensor flat = p.tensor.view({-1});
      const at::Tensor gradient = p.tensor.grad().view({-1});
      // The largest entry and one in the middle: a wrong formula shows in both.
      for (const int64_t j : {gradient.abs().argmax().item<int64_t>(), flat.numel() / 2}) {
        const double before = flat[j].item<double>(), step = 1e-5;
        flat[j] = before + step;
        const double up = model.loss(batch).item<double>();
        flat[j] = before - step;
        const double down = model.loss(batch).item<double>();
        flat[j] = before;
        EXPECT_NEAR(gradient[j].item<double>(), (up - down) / (2 * step), 2e-7) << describe(config) << " " << p.name << "[" << j << "]";
      }
    }
  }
}

// The loss; the gradients stay with the model.
double step(Transformer& model, const at::Tensor& batch) {
  const at::Tensor loss = model.loss(batch);
  torch::autograd::backward({loss}, {});
  return loss.item<double>();
}

TEST(Transformer, FusedTrainingStepEqualsReferenceOnEveryInstructionSet) {
  for (ModelConfig config : all_kinds()) {
    config.head_dim = 12;   // no multiple of a vector
    Transformer plain = random_model(config, at::kFloat, 0.2);
    const at::Tensor batch = samples(3, 40, config.vocab_size);
    const double expected = [&] {
      const ops::ReferenceGuard guard;
      return step(plain, batch);
    }();
    kernels::for_each_instruction_set([&] {
      for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
        SCOPED_TRACE(testing::Message() << describe(config) << " " << dtype);
        const double tolerance = dtype == at::kFloat ? 1e-5 : 2e-2;
        Transformer fused = random_model(config, dtype, 0.2);
        EXPECT_NEAR(step(fused, batch), expected, tolerance);
        for (size_t i = 0; i < fused.parameters().size(); ++i) {
          const at::Tensor a = fused.parameters()[i].tensor.grad(), b = plain.parameters()[i].tensor.grad();
          EXPECT_LT((a - b).norm().item<double>(), 2 * tolerance * (1e-2 + b.norm().item<double>())) << fused.parameters()[i].name;
        }
      }
    });
  }
}

TEST(Transformer, TheSinkIsAnOrdinaryRowInFrontOfTheSample) {
  const ModelConfig config = tiny(ModelType::kLlama, SinkKind::kToken, 2);
  const Transformer model = random_model(config, at::kDouble);
  at::NoGradGuard no_grad;
  const at::Tensor batch = samples(2, 9, config.vocab_size);
  const at::Tensor inputs = model.with_sinks(batch.narrow(1, 0, 9));
  EXPECT_TRUE(inputs.narrow(1, 0, 2).equal(at::tensor({1, 3}, at::kLong).expand({2, 2})));
  const at::Tensor logits = model.logits(model.hidden_states(inputs, model.causal_attention(11)));
  const at::Tensor expected = at::cross_entropy_loss(logits.narrow(1, 2, 9).reshape({18, -1}), batch.narrow(1, 1, 9).reshape({18}));
  EXPECT_NEAR(model.loss(batch).item<double>(), expected.item<double>(), 1e-12);
}

// Settings that change no parameter, so that nothing else would show when one is not read.
TEST(Transformer, WhatIsSetCounts) {
  using Change = void (*)(ModelConfig&);
  for (const ModelType type : {ModelType::kLlama, ModelType::kGptNeox}) {
    ModelConfig base = tiny(type, SinkKind::kToken);
    base.hidden_size = 32;   // two frequencies and more
    const at::Tensor batch = samples(2, 20, base.vocab_size);
    const auto loss = [&](const ModelConfig& config) { return random_model(config, at::kDouble).loss(batch).item<double>(); };
    const double before = loss(base);
    for (const Change change : {Change([](ModelConfig& c) { c.norm_eps = 1e-3; }), Change([](ModelConfig& c) { c.rope_theta = 100; }),
                                Change([](ModelConfig& c) { c.partial_rotary_factor = c.model_type == ModelType::kLlama ? 0.5 : 1; }),
                                Change([](ModelConfig& c) { c.rope_scaling = {.rope_type = RopeType::kLinear, .factor = 4}; }),
                                Change([](ModelConfig& c) { c.sink.token_ids = {5}; })}) {
      ModelConfig changed = base;
      change(changed);
      EXPECT_GT(std::abs(loss(changed) - before), 1e-6) << describe(base);
    }
  }
}

TEST(Transformer, VanillaAndSinkModelsHaveTheSameParameters) {
  const Transformer vanilla(tiny(ModelType::kLlama, SinkKind::kNone), at::kFloat, at::kCPU), sink(tiny(ModelType::kLlama, SinkKind::kToken), at::kFloat, at::kCPU);
  ASSERT_EQ(vanilla.parameters().size(), sink.parameters().size());
  EXPECT_EQ(vanilla.flat().numel(), sink.flat().numel());
}

TEST(Transformer, AParameterHasANameAndIsTheModelsOwn) {
  const Transformer model = random_model(all_kinds().front(), at::kFloat);
  for (const Parameter& p : model.parameters()) EXPECT_TRUE(model.parameter(p.name).is_alias_of(p.tensor) && at::equal(model.parameter(p.name), p.tensor)) << p.name;
  EXPECT_FALSE(model.parameter("layers.99.qkv.weight").defined());
  EXPECT_FALSE(model.parameter("").defined());
}

TEST(Transformer, OnlyMatricesDecay) {
  const Transformer model(tiny(ModelType::kGptNeox, SinkKind::kLogit), at::kFloat, at::kCPU);
  for (const Parameter& p : model.parameters()) {
    EXPECT_EQ(p.decay, p.tensor.dim() >= 2) << p.name;
    EXPECT_EQ(p.offset < model.decayed_size(), p.decay) << p.name;
  }
}

TEST(Transformer, FirstLossIsNearLogVocabulary) {
  for (const ModelType type : {ModelType::kLlama, ModelType::kGptNeox}) {
    ModelConfig config = tiny(type, SinkKind::kToken);
    config.vocab_size = 1024;
    config.hidden_size = 64;
    Transformer model(config, at::kFloat, at::kCPU);
    model.initialize(1);
    // small-init gives logits of variance 2/5, which costs half of that
    const double expected = std::log(1024.0) + (type == ModelType::kGptNeox ? 0.2 : 0.0);
    EXPECT_NEAR(model.loss(samples(4, 64, 1024)).item<double>(), expected, 0.06);
  }
}

TEST(Transformer, InitializationDependsOnSeedAndNameOnly) {
  Transformer a(tiny(ModelType::kLlama, SinkKind::kToken), at::kFloat, at::kCPU), b(tiny(ModelType::kLlama, SinkKind::kNone), at::kFloat, at::kCPU);
  Transformer half(tiny(ModelType::kLlama, SinkKind::kNone), at::kBFloat16, at::kCPU);
  a.initialize(5);
  b.initialize(5);
  half.initialize(5);
  EXPECT_TRUE(a.flat().equal(b.flat()));
  EXPECT_TRUE(half.flat().equal(a.flat().to(at::kBFloat16)));
  b.initialize(6);
  EXPECT_FALSE(a.flat().equal(b.flat()));
}

}  // namespace
}  // namespace basin
