// Each fused op against its plain LibTorch reference, values and gradients; the references against finite differences in fp64.
#include "model/ops.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include <functional>

#include "model/rope.h"

namespace basin {
namespace {

using Tensors = std::vector<at::Tensor>;
using Op = std::function<at::Tensor(const Tensors&)>;

// Value and gradients of sum(op(inputs) * w) with a fixed random w.
Tensors run(const Op& op, const Tensors& inputs) {
  Tensors leaves;
  for (const at::Tensor& x : inputs) leaves.push_back(x.detach().clone().set_requires_grad(true));
  const at::Tensor y = op(leaves);
  at::manual_seed(99);
  const at::Tensor w = y.dim() == 0 ? at::ones({}, y.options()) : at::randn(y.sizes(), at::kDouble).to(y.scalar_type());
  torch::autograd::backward({y}, {w});
  Tensors all{y.detach()};
  for (const at::Tensor& x : leaves) all.push_back(x.grad());
  return all;
}

double relative_error(const at::Tensor& a, const at::Tensor& b) {
  const at::Tensor x = a.to(at::kDouble), y = b.to(at::kDouble);
  return ((x - y).norm() / (y.norm() + 1e-30)).item<double>();
}

void expect_fused_equals_reference(const Op& op, const Tensors& inputs) {
  for (const auto& [dtype, tolerance] : {std::pair{at::kFloat, 1e-5}, std::pair{at::kBFloat16, 1e-2}}) {
    Tensors fused_in, exact_in;
    for (const at::Tensor& x : inputs) {
      fused_in.push_back(x.to(dtype));
      exact_in.push_back(fused_in.back().to(at::kDouble));
    }
    const Tensors fused = run(op, fused_in);
    const Tensors exact = run(op, exact_in);   // fp64 takes the reference path
    for (size_t i = 0; i < exact.size(); ++i) {
      EXPECT_LT(relative_error(fused[i], exact[i]), tolerance) << "output " << i << ", " << c10::toString(dtype);
    }
  }
}

// Central differences in fp64 against autograd of the op.
void expect_exact_gradients(const Op& op, const Tensors& inputs) {
  const Tensors analytic = run(op, inputs);
  at::manual_seed(99);
  const at::Tensor w = analytic[0].dim() == 0 ? at::ones({}, at::kDouble) : at::randn(analytic[0].sizes(), at::kDouble);
  at::NoGradGuard no_grad;
  for (size_t i = 0; i < inputs.size(); ++i) {
    at::Tensor numeric = at::zeros_like(inputs[i]).flatten();
    for (int64_t j = 0; j < numeric.numel(); ++j) {
      const double step = 1e-6;
      double sides[2];
      for (const int side : {0, 1}) {
        Tensors moved = inputs;
        moved[i] = inputs[i].clone();
        moved[i].view({-1})[j] += side == 0 ? -step : step;
        sides[side] = (op(moved) * w).sum().item<double>();
      }
      numeric[j] = (sides[1] - sides[0]) / (2 * step);
    }
    EXPECT_LT(relative_error(analytic[i + 1].flatten(), numeric), 1e-6) << "input " << i;
  }
}

at::Tensor randn(at::IntArrayRef sizes, uint64_t seed) {
  at::manual_seed(seed);
  return at::randn(sizes, at::kDouble);
}

ops::Rotary table(int64_t T, int64_t half) {
  const at::Tensor angle = at::arange(T, at::kFloat).unsqueeze(1) * at::pow(10.0, -at::arange(half, at::kFloat));
  return {angle.cos(), angle.sin()};
}

TEST(Ops, NormMatchesReference) {
  for (const bool rms : {true, false}) {
    const Op op = [rms](const Tensors& x) {
      return ops::norm(x[0], {rms ? ops::NormKind::kRms : ops::NormKind::kLayer, x[1], rms ? at::Tensor() : x[2], 1e-5});
    };
    const Tensors inputs = rms ? Tensors{randn({3, 5, 40}, 1), randn({40}, 2)} : Tensors{randn({3, 5, 40}, 1), randn({40}, 2), randn({40}, 3)};
    expect_fused_equals_reference(op, inputs);
    expect_exact_gradients(op, inputs);
  }
}

TEST(Ops, AddNormFeedsBothResults) {
  const Op op = [](const Tensors& x) {
    const auto [h, y] = ops::add_norm(x[0], x[1], {ops::NormKind::kRms, x[2], {}, 1e-5});
    return at::cat({h * 0.5, y}, -1);
  };
  const Tensors inputs{randn({4, 24}, 1), randn({4, 24}, 2), randn({24}, 3)};
  expect_fused_equals_reference(op, inputs);
  expect_exact_gradients(op, inputs);
}

TEST(Ops, AttentionWithGroupsPartialRotaryAndSink) {
  for (const auto& [H, G, K, half] : {std::tuple{4, 2, 8, 4}, std::tuple{2, 2, 24, 3}, std::tuple{3, 1, 16, 0}}) {
    for (const bool sink : {false, true}) {
      const int64_t T = 37;
      const ops::Rotary rotary = half > 0 ? table(T, half) : ops::Rotary{};
      const ops::HeadShape shape{H, G, K};
      const Op op = [&](const Tensors& x) { return ops::attention(x[0], shape, rotary, sink ? x[1] : at::Tensor()); };
      Tensors inputs{randn({2, T, (H + 2 * G) * K}, 5)};
      if (sink) inputs.push_back(randn({H}, 6));
      expect_fused_equals_reference(op, inputs);
    }
  }
}

TEST(Ops, AttentionWithAlibi) {
  const int64_t T = 70;
  const at::Tensor slopes = at::tensor({0.5, 0.3, 0.01}, at::kFloat);
  const at::Tensor table = slopes.to(at::kDouble).unsqueeze(1) * at::arange(T, at::kDouble);
  const Tensors inputs{randn({2, T, 5 * 16}, 5), randn({3}, 6)};
  for (const bool linear : {true, false}) {
    const ops::Alibi alibi{linear ? table : table.square(), linear ? slopes : at::Tensor()};
    const Op op = [&](const Tensors& x) { return ops::attention(x[0], {3, 1, 16}, {}, x[1], alibi); };
    expect_fused_equals_reference(op, inputs);
    EXPECT_GT((op(inputs) - ops::attention(inputs[0], {3, 1, 16}, {}, inputs[1])).abs().max().item<float>(), 0.1) << "no bias was added";
  }
}

TEST(Ops, AttentionReferenceHasExactGradients) {
  const ops::Rotary rotary = table(5, 2);
  expect_exact_gradients([&](const Tensors& x) { return ops::attention(x[0], {2, 1, 4}, rotary, x[1]); }, {randn({1, 5, 16}, 7), randn({2}, 8)});
}

TEST(Ops, ActivationsMatchReference) {
  expect_fused_equals_reference([](const Tensors& x) { return ops::swiglu(x[0]); }, {randn({3, 7, 66}, 1)});
  expect_fused_equals_reference([](const Tensors& x) { return ops::gelu(x[0]); }, {randn({3, 7, 33}, 2)});
  expect_exact_gradients([](const Tensors& x) { return ops::swiglu(x[0]); }, {randn({2, 10}, 1)});
}

TEST(Ops, LinearMatchesReference) {
  const Tensors inputs{randn({3, 17, 40}, 1), randn({50, 40}, 2), randn({50}, 3)};
  expect_fused_equals_reference([](const Tensors& x) { return ops::linear(x[0], x[1], x[2]); }, inputs);
  expect_fused_equals_reference([](const Tensors& x) { return ops::linear(x[0], x[1], {}); }, {inputs[0], inputs[1]});
  const at::NoGradGuard no_grad;
  const at::Tensor x = inputs[0].to(at::kBFloat16), weight = inputs[1].to(at::kBFloat16), bias = inputs[2].to(at::kBFloat16);
  EXPECT_LT(relative_error(ops::linear(x, weight, bias), at::linear(x.to(at::kDouble), weight.to(at::kDouble), bias.to(at::kDouble))), 1e-2);
}

TEST(Ops, LinearCrossEntropyInChunks) {
  const int64_t V = 40000, N = 300;   // more rows than one chunk holds
  const at::Tensor targets = at::randint(V, {N}, at::kLong);
  const Op op = [&](const Tensors& x) { return ops::linear_cross_entropy(x[0], x[1], targets); };
  expect_fused_equals_reference(op, {randn({N, 16}, 1), randn({V, 16}, 2)});
}

TEST(Ops, LinearCrossEntropyInChunksOfLibTorchsOwnOps) {   // what CUDA runs, and fp64 on the CPU
  const at::Tensor targets = at::randint(9, {300}, at::kLong), many = at::randint(40000, {300}, at::kLong);
  expect_exact_gradients([&](const Tensors& x) { return ops::linear_cross_entropy(x[0], x[1], targets.narrow(0, 0, 5)); }, {randn({5, 4}, 1), randn({9, 4}, 2)});
  const at::Tensor hidden = randn({300, 8}, 3).to(at::kDouble), weight = randn({40000, 8}, 4).to(at::kDouble);
  const at::Tensor chunked = ops::linear_cross_entropy(hidden, weight, many);
  const ops::ReferenceGuard plain;
  EXPECT_NEAR(chunked.item<double>(), ops::linear_cross_entropy(hidden, weight, many).item<double>(), 1e-12);
}

TEST(Ops, LinearCrossEntropyScalesWithTheIncomingGradient) {
  const at::Tensor targets = at::arange(6, at::kLong);
  expect_fused_equals_reference([&](const Tensors& x) { return ops::linear_cross_entropy(x[0], x[1], targets) * 0.25; }, {randn({6, 16}, 1), randn({32, 16}, 2)});
}

TEST(Ops, EmbeddingAddsRepeatedIds) {
  const at::Tensor ids = at::tensor({3, 1, 3, 0, 3, 2}, at::kLong).view({2, 3});
  expect_fused_equals_reference([&](const Tensors& x) { return ops::embedding(ids, x[0]); }, {randn({5, 24}, 1)});
}

// What comes in is not rounded to bf16 before it scales the gradients.
TEST(Ops, LinearCrossEntropyScalesItsGradientExactly) {
  const at::Tensor hidden = at::randn({40, 16}).to(at::kBFloat16).requires_grad_(),
                   weight = at::randn({50, 16}).to(at::kBFloat16).requires_grad_(), targets = at::randint(50, {40}, at::kLong);
  const auto gradients = [&](double scale) {
    hidden.mutable_grad() = at::Tensor();
    weight.mutable_grad() = at::Tensor();
    (ops::linear_cross_entropy(hidden, weight, targets) * scale).backward();
    return std::pair(hidden.grad(), weight.grad());
  };
  const auto [dhidden, dweight] = gradients(1);
  const double third = static_cast<float>(1.0 / 3);   // the loss is fp32
  const auto [third_dhidden, third_dweight] = gradients(third);
  EXPECT_TRUE(at::equal(third_dhidden, dhidden * third));
  EXPECT_TRUE(at::equal(third_dweight, dweight * third));
}

TEST(Ops, SumOfSquares) {
  const at::Tensor x = at::randn({100'003});
  const double fused = ops::sum_of_squares(x), plain = ops::reference::sum_of_squares(x);
  EXPECT_NEAR(fused, plain, 1e-9 * plain);
  EXPECT_THROW(ops::sum_of_squares(x.to(at::kDouble)), c10::Error);
}

TEST(Ops, ReferenceGuardTakesTheReferencePath) {
  const at::Tensor x = at::randn({4, 64});
  const ops::ReferenceGuard guard;
  EXPECT_TRUE(ops::gelu(x).equal(ops::reference::gelu(x)));
}

TEST(Rotary, KeepsScoresAtLargePositions) {
  ModelConfig config;
  config.num_attention_heads = 1;
  config.hidden_size = 64;
  const at::Tensor q = at::randn({1, 1, 64}, at::kDouble), k = at::randn({1, 1, 64}, at::kDouble);
  const auto score = [&](int64_t p) {
    return (apply_rotary(q, rotary_table(config, at::tensor({p + 17}, at::kLong))) * apply_rotary(k, rotary_table(config, at::tensor({p}, at::kLong)))).sum().item<double>();
  };
  EXPECT_NEAR(score(0), score((1 << 22) + 12345), 2e-5);
}

}  // namespace
}  // namespace basin
