#include "infer/generator.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>
#include <gtest/gtest.h>

#include <vector>

#include "tests/infer/tiny_model.h"

namespace basin {
namespace {

std::vector<int32_t> prompt_of(const ModelConfig& config, int64_t n) {
  const at::Tensor ids = random_tokens(config, n).to(at::kInt);
  return {ids.const_data_ptr<int32_t>(), ids.const_data_ptr<int32_t>() + n};
}

std::vector<int64_t> draw(Generator& generator, int n) {
  std::vector<int64_t> ids;
  for (int i = 0; i < n; ++i) ids.push_back(generator.next());
  return ids;
}

TEST(Generator, GreedyFollowsTheOrdinaryForward) {
  for (const SinkKind kind : {SinkKind::kNone, SinkKind::kToken}) {
    const ModelConfig config = tiny_config(ModelType::kLlama, kind);
    const Transformer model = random_model(config, at::kFloat, 2);
    const std::vector<int32_t> prompt = prompt_of(config, 9);
    Generator generator(model, {1, 99}, {.temperature = 0});
    generator.feed(prompt);
    std::vector<int64_t> stream(prompt.begin(), prompt.end());
    const at::NoGradGuard no_grad;
    for (int i = 0; i < 20; ++i) {
      const at::Tensor ids = model.with_sinks(at::tensor(stream, at::kLong).unsqueeze(0));
      const int64_t expected =
          model.logits(model.hidden_states(ids, model.causal_attention(ids.size(1)))[0][-1])
              .argmax()
              .item<int64_t>();
      ASSERT_EQ(generator.next(), expected) << "token " << i;
      stream.push_back(expected);
    }
  }
}

TEST(Generator, ALongPromptStreams) {
  const ModelConfig config = tiny_config(ModelType::kGptNeox, SinkKind::kToken);
  const Transformer model = random_model(config, at::kFloat, 2);
  const std::vector<int32_t> prompt = prompt_of(config, 1500);  // two chunks, many times the cache
  const SamplerConfig sampling{.temperature = 0.7, .seed = 5};
  Generator whole(model, {1, 31}, sampling), single(model, {1, 31}, sampling);
  whole.feed(prompt);
  for (const int32_t& id : prompt) single.feed({&id, 1});
  EXPECT_EQ(whole.cache().position(), 1501);
  EXPECT_EQ(draw(whole, 30), draw(single, 30));
}

// The last drawn token is in the stream when more text is fed.
TEST(Generator, ContinuesAfterMoreText) {
  const ModelConfig config = tiny_config(ModelType::kLlama, SinkKind::kToken);
  const Transformer model = random_model(config, at::kFloat, 2);
  std::vector<int32_t> prompt = prompt_of(config, 10);
  const SamplerConfig greedy{.temperature = 0};
  Generator turns(model, {1, 63}, greedy), once(model, {1, 63}, greedy);
  turns.feed(prompt);
  for (const int64_t id : draw(turns, 3)) prompt.push_back(static_cast<int32_t>(id));
  const std::vector<int32_t> more = {7, 8, 9};
  turns.feed(more);
  prompt.insert(prompt.end(), more.begin(), more.end());
  once.feed(prompt);
  EXPECT_EQ(turns.cache().position(), once.cache().position());
  EXPECT_EQ(draw(turns, 10), draw(once, 10));
}

TEST(Generator, SameSeedSameText) {
  const ModelConfig config = tiny_config(ModelType::kLlama, SinkKind::kLogit);
  const Transformer model = random_model(config, at::kFloat);
  const auto text = [&](uint64_t seed) {
    Generator generator(model, {2, 30}, {.seed = seed});
    generator.feed(prompt_of(config, 5));
    return draw(generator, 60);
  };
  EXPECT_EQ(text(1), text(1));
  EXPECT_NE(text(1), text(2));
}

TEST(Generator, EmptyPromptNeedsASinkToken) {
  const Transformer with =
      random_model(tiny_config(ModelType::kLlama, SinkKind::kToken), at::kFloat);
  Generator generator(with, {1, 15}, {});
  generator.feed({});
  EXPECT_LT(generator.next(), with.config().vocab_size);
  const Transformer without =
      random_model(tiny_config(ModelType::kLlama, SinkKind::kNone), at::kFloat);
  Generator empty(without, {1, 15}, {});
  EXPECT_THROW(empty.next(), std::invalid_argument);
  EXPECT_THROW(empty.feed(std::vector<int32_t>{61}), std::invalid_argument);
  EXPECT_THROW(empty.feed(std::vector<int32_t>{-1}), std::invalid_argument);
}

}  // namespace
}  // namespace basin
