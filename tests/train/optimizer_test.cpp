#include "train/optimizer.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>
#include <vector>

namespace basin {
namespace {

ModelConfig tiny_model() {
  ModelConfig config;
  config.vocab_size = 32;
  config.hidden_size = 16;
  config.num_hidden_layers = 1;
  config.num_attention_heads = 2;
  config.intermediate_size = 32;
  return config;
}

/// AdamW as its paper writes it, in double.
struct NaiveAdamW {
  std::vector<double> w, m, v;
  int64_t t = 0;
  void step(const std::vector<double>& g,
            const std::vector<bool>& decay,
            const OptimizerConfig& c,
            double lr) {
    ++t;
    for (size_t i = 0; i < w.size(); ++i) {
      m[i] = c.betas[0] * m[i] + (1 - c.betas[0]) * g[i];
      v[i] = c.betas[1] * v[i] + (1 - c.betas[1]) * g[i] * g[i];
      const double m_hat = m[i] / (1 - std::pow(c.betas[0], t)),
                   v_hat = v[i] / (1 - std::pow(c.betas[1], t));
      w[i] -= lr * (m_hat / (std::sqrt(v_hat) + c.eps) + (decay[i] ? c.weight_decay * w[i] : 0));
    }
  }
};

std::vector<double> to_doubles(const at::Tensor& t) {
  const at::Tensor d = t.detach().to(at::kDouble).contiguous();
  return {d.const_data_ptr<double>(), d.const_data_ptr<double>() + d.numel()};
}

void compare_with_naive(at::ScalarType dtype) {
  Transformer model(tiny_model(), dtype, at::kCPU);
  const at::Tensor master =
      at::randn(model.flat().sizes(), at::TensorOptions().dtype(at::kFloat)) * 0.1;
  if (dtype == at::kFloat) at::Tensor(model.flat()).copy_(master);
  // Others than the defaults, and an eps that shows beside moments of the gradient's size.
  const OptimizerConfig config{
      .lr = 1e-2, .betas = {0.8, 0.97}, .eps = 1e-2, .weight_decay = 0.3};
  Optimizer optimizer(model, dtype == at::kFloat ? model.flat() : master.clone(), config);
  NaiveAdamW naive{
      to_doubles(master), std::vector<double>(master.numel()), std::vector<double>(master.numel())};
  std::vector<bool> decay(master.numel());
  for (const Parameter& p : model.parameters()) {
    for (int64_t i = 0; i < p.tensor.numel(); ++i) decay[p.offset + i] = p.tensor.dim() >= 2;
  }
  for (int step = 0; step < 5; ++step) {
    const at::Tensor gradient = at::randn_like(master);
    const double scale = 0.5, lr = 1e-2 / (step + 1);
    optimizer.step(gradient, scale, lr);
    std::vector<double> g = to_doubles(gradient * scale);
    naive.step(g, decay, config, lr);
  }
  EXPECT_EQ(optimizer.count(), 5);
  for (const Parameter& p : model.parameters()) {
    const std::vector<double> got =
        to_doubles(optimizer.master().narrow(0, p.offset, p.tensor.numel()));
    for (size_t i = 0; i < got.size(); ++i)
      ASSERT_NEAR(got[i], naive.w[p.offset + i], 2e-6) << p.name << " " << i;
    if (dtype != at::kFloat) {
      EXPECT_TRUE(at::equal(p.tensor.detach().flatten(),
                            optimizer.master().narrow(0, p.offset, p.tensor.numel()).to(dtype)))
          << p.name;
    }
  }
}

TEST(Optimizer, EqualsNaiveAdamWInFp32) {
  compare_with_naive(at::kFloat);
}
TEST(Optimizer, EqualsNaiveAdamWInBf16AndPublishesItsRounding) {
  compare_with_naive(at::kBFloat16);
}

}  // namespace
}  // namespace basin
