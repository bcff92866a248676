// Recomputing a block's activations changes what a step holds in memory and nothing else.
#include "model/recompute.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/function_hook.h>
#include <torch/csrc/autograd/variable.h>

#include <map>

#include "model/cpu_allocator.h"
#include "tests/model/random_transformer.h"

namespace basin {
namespace {

void backward(const Transformer& model, const at::Tensor& batch) {
  torch::autograd::backward({model.loss(batch)}, {});
}

TEST(Recompute, GradientsAreBitForBitThose) {
  for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16, at::kDouble}) {
    for (ModelConfig config : all_kinds()) {
      config.num_hidden_layers = 3;
      Transformer plain = random_model(config, dtype, 0.2),
                  again = random_model(config, dtype, 0.2);
      again.recompute_activations(true);
      for (const int64_t B : {3, 2}) {  // two micro-batches, whose gradients add up
        const at::Tensor batch = samples(B, 20, config.vocab_size);
        backward(plain, batch);
        backward(again, batch);
      }
      for (size_t i = 0; i < plain.parameters().size(); ++i) {
        const at::Tensor a = plain.parameters()[i].tensor.grad(),
                         b = again.parameters()[i].tensor.grad();
        EXPECT_TRUE(a.equal(b)) << describe(config) << " " << dtype << " "
                                << plain.parameters()[i].name;
        EXPECT_GT(a.abs().max().item<double>(), 0) << plain.parameters()[i].name;
      }
    }
  }
}

struct CountCalls : torch::autograd::PostAccumulateGradHook {
  explicit CountCalls(int& to) : calls(to) {}
  void operator()(const at::Tensor&) override { ++calls; }
  int& calls;
};

TEST(Recompute, HooksFireOncePerMicroBatchAndParameter) {
  for (const ModelConfig& config : all_kinds()) {
    Transformer model = random_model(config, at::kFloat);
    model.recompute_activations(true);
    std::map<std::string, int> calls;
    for (const Parameter& p : model.parameters())
      torch::autograd::impl::set_post_acc_grad_hooks(p.tensor,
                                                     std::make_unique<CountCalls>(calls[p.name]));
    for (int micro_batch = 1; micro_batch <= 2; ++micro_batch) {
      backward(model, samples(2, 8, config.vocab_size));
      for (const auto& [name, count] : calls)
        EXPECT_EQ(count, micro_batch) << describe(config) << " " << name;
    }
  }
}

TEST(Recompute, TheBlockRunsAgainOnlyWhereThereIsAGradient) {
  int runs = 0;
  const at::Tensor weight = at::full({}, 3.0, at::kDouble).requires_grad_(true);
  const Block block = [&](const Residual& in) {
    ++runs;
    return Residual{in.x, in.x * weight};
  };
  const at::Tensor x = at::arange(4, at::kDouble);
  EXPECT_TRUE(recomputed(block, {x, {}}).delta.requires_grad())
      << "the weight takes one all the same";
  EXPECT_EQ(runs, 1);
  const at::Tensor y = at::arange(4, at::kDouble).requires_grad_(true);
  {
    const at::NoGradGuard no_grad;
    EXPECT_FALSE(recomputed(block, {y, {}}).delta.requires_grad());
    EXPECT_EQ(runs, 2);
  }
  const Residual out = recomputed(block, {y, {}});
  torch::autograd::backward({out.delta.sum() + 2 * out.x.sum()}, {});
  EXPECT_EQ(runs, 4);
  EXPECT_TRUE(y.grad().equal(at::full({4}, 5.0, at::kDouble))) << y.grad();
  EXPECT_EQ(weight.grad().item<double>(), 6);
}

TEST(Recompute, TheGraphOwnsTheBlockAndLetsGoOfIt) {
  const auto owned = std::make_shared<int>(1);
  {
    const at::Tensor y = at::ones({4}).requires_grad_(true);
    at::Tensor sum = recomputed(
                         [owned](const Residual& in) {
                           return Residual{in.x, in.x * 2};
                         },
                         {y, {}})
                         .delta.sum();
    EXPECT_EQ(owned.use_count(), 2);
    torch::autograd::backward({sum}, {});
  }
  EXPECT_EQ(owned.use_count(), 1);
}

class RecomputeMemoryTest : public testing::Test {
 protected:
  RecomputeMemoryTest() { install_cpu_allocator(); }

  static ModelConfig deep() {
    ModelConfig config = tiny(ModelType::kLlama, SinkKind::kToken);
    config.num_hidden_layers = 12;
    config.hidden_size = 64;
    return config;
  }
  struct Step {
    int64_t kept, peak, requests;  // bytes above the weights; blocks from malloc of the last step
  };
  static Step step(bool recompute) {
    const Transformer model = [&] {
      Transformer made = random_model(deep(), at::kFloat, 0.1);
      made.recompute_activations(recompute);
      return made;
    }();
    const at::Tensor batch = samples(4, 256, deep().vocab_size);
    backward(model, batch);
    backward(model, batch);
    const int64_t before = cpu_memory().allocated_bytes, requests = cpu_memory().requests;
    reset_peak_cpu_memory();
    const at::Tensor loss = model.loss(batch);
    const int64_t kept = cpu_memory().allocated_bytes - before;
    torch::autograd::backward({loss}, {});
    return {kept, cpu_memory().max_allocated_bytes - before, cpu_memory().requests - requests};
  }
};

TEST_F(RecomputeMemoryTest, AStepHoldsTheInputsOfTheBlocksAndOneBlock) {
  const Step plain = step(false), again = step(true);
  EXPECT_LT(again.kept, plain.kept / 3);
  EXPECT_LT(again.peak, plain.peak / 2);
  EXPECT_GT(plain.peak, plain.kept);
}

TEST_F(RecomputeMemoryTest, ASteadyStepAsksMallocForNothing) {
  EXPECT_EQ(step(true).requests, 0);
}

}  // namespace
}  // namespace basin
