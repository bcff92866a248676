// The cache's bookkeeping: what it holds, and that nothing grows as it streams.
#include "infer/kv_cache.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <c10/core/GradMode.h>
#include <gtest/gtest.h>
#include <malloc.h>

#include "model/cpu_allocator.h"
#include "tests/infer/tiny_model.h"

namespace basin {
namespace {

using Positions = std::vector<int64_t>;

TEST(KvCache, HoldsSinksAndTheMostRecent) {
  const Transformer model =
      random_model(tiny_config(ModelType::kLlama, SinkKind::kNone), at::kFloat);
  KvCache cache(model, {2, 3});
  EXPECT_EQ(cache.contents(), Positions{});
  cache.advance(1);
  EXPECT_EQ(cache.contents(), (Positions{0}));
  cache.advance(3);
  EXPECT_EQ(cache.contents(), (Positions{0, 1, 2, 3}));
  cache.advance(1);
  EXPECT_EQ(cache.contents(), (Positions{0, 1, 2, 3, 4}));
  cache.advance(1);
  EXPECT_EQ(cache.contents(), (Positions{0, 1, 3, 4, 5}));
  cache.advance(100);
  EXPECT_EQ(cache.contents(), (Positions{0, 1, 103, 104, 105}));
  EXPECT_EQ(static_cast<int64_t>(cache.contents().size()), cache.shape().entries());
}

TEST(KvCache, OneForWhichThereIsNoRoomIsNamed) {
  install_cpu_allocator();  // as the program does; LibTorch's own aborts
  const Transformer model =
      random_model(tiny_config(ModelType::kLlama, SinkKind::kNone), at::kFloat);
  try {
    KvCache(model, {1, int64_t{1} << 42});
    ADD_FAILURE() << "half a petabyte of memory";
  } catch (const std::runtime_error& error) {
    EXPECT_EQ(std::string(error.what()).find("--cache 4398046511105: the keys and values"), 0u)
        << error.what();
  }
}

TEST(KvCache, MemoryIsConstant) {
  const ModelConfig config = tiny_config(ModelType::kLlama, SinkKind::kToken);
  const Transformer model = random_model(config, at::kFloat);
  KvCache cache(model, {1, 31});
  // Keys and values of 2 layers, 2 key heads of 8, for 1 sink, 31 recent entries and the newest, 4
  // bytes each.
  const int64_t bytes = 2 * 2 * 2 * 8 * (1 + 31 + 1) * 4;
  EXPECT_EQ(cache.bytes(), bytes);
  for (const int64_t n : {1, 200, 1, 5}) {
    model.hidden_states(random_tokens(config, n).unsqueeze(0), cache.attention());
    cache.advance(n);
    EXPECT_EQ(cache.bytes(), bytes);
  }
  EXPECT_EQ(cache.position(), 207);
}

// What a million tokens would add up to, seen after two thousand: a step leaves nothing behind, in
// the cache or anywhere else.
TEST(KvCache, AStepLeavesNothingAllocated) {
  const ModelConfig config = tiny_config(ModelType::kGptNeox, SinkKind::kToken);
  const Transformer model = random_model(config, at::kFloat);
  const at::NoGradGuard no_grad;
  at::set_num_threads(1);
  KvCache cache(model, {1, 31});
  const at::Tensor ids = random_tokens(config, 1).unsqueeze(0);
  const auto in_use = [&](int steps) {
    for (int i = 0; i < steps; ++i) {
      model.decode(ids, cache.attention());
      cache.advance(1);
    }
    const struct mallinfo2 info = mallinfo2();
    return info.uordblks + info.hblkhd;
  };
  const size_t before = in_use(100);
  EXPECT_LT(
      in_use(2000),
      before + 8 * 2000);  // no object is as small as 8 bytes; malloc's own caches are below that
}

TEST(KvCache, ClearStartsANewStream) {
  const ModelConfig config = tiny_config(ModelType::kGptNeox, SinkKind::kToken);
  const Transformer model = random_model(config, at::kFloat, 2.5);
  const at::NoGradGuard no_grad;
  KvCache used(model, {1, 15}), fresh(model, {1, 15});
  used.advance((model.hidden_states(random_tokens(config, 50).unsqueeze(0), used.attention()), 50));
  used.clear();
  const at::Tensor ids = random_tokens(config, 20, 9).unsqueeze(0);
  EXPECT_TRUE(at::equal(model.hidden_states(ids, used.attention()),
                        model.hidden_states(ids, fresh.attention())));
}

TEST(KvCache, RefusesWhatItCannotHold) {
  const ModelConfig config = tiny_config(ModelType::kLlama, SinkKind::kNone);
  const Transformer model = random_model(config, at::kFloat);
  EXPECT_THROW(KvCache(model, {2, 0}), c10::Error);
  EXPECT_THROW(KvCache(model, {-1, 4}), c10::Error);
  KvCache cache(model, {1, 4});
  EXPECT_THROW(model.hidden_states(random_tokens(config, 8).view({2, 4}), cache.attention()),
               c10::Error);
}

TEST(CacheShape, SplitsAndRefuses) {
  EXPECT_EQ(split_cache(256, 4).recent, 252);
  EXPECT_EQ(split_cache(256, 0).recent, 256);
  EXPECT_THROW(split_cache(0, 0), std::invalid_argument);
  EXPECT_THROW(split_cache(4, 4), std::invalid_argument);
  EXPECT_THROW(split_cache(4, 5), std::invalid_argument);
  EXPECT_THROW(split_cache(4, -1), std::invalid_argument);
}

// How chunks go on a GPU, with the reference in flash attention's place.
TEST(KvCache, WindowsAndSinksMergedAreTheSameAttention) {
  const at::NoGradGuard no_grad;
  for (const ModelType type : {ModelType::kLlama, ModelType::kGptNeox})
    for (const SinkKind kind :
         {SinkKind::kNone, SinkKind::kToken, SinkKind::kZero, SinkKind::kLogit})
      for (const int64_t sinks : {0, 1, 4}) {
        const ModelConfig config = tiny_config(type, kind);
        const Transformer model = random_model(config, at::kDouble, 2.5);
        KvCache plain(model, {sinks, 9}), windowed(model, {sinks, 9});
        const LayerAttention by_windows = [&](int64_t layer, const at::Tensor& qkv) {
          return windowed.attend_windowed(layer, qkv);
        };
        int64_t seed = 0;
        for (const int64_t n :
             {2, 1, 5, 40, 3, 12}) {  // inside of the sinks, across the ring's end
          const at::Tensor ids = at::randint(6, config.vocab_size, {1, n}, at::kLong);
          const at::Tensor want = model.hidden_states(ids, plain.attention()),
                           got = model.hidden_states(ids, by_windows);
          plain.advance(n);
          windowed.advance(n);
          EXPECT_LT((want - got).abs().max().item<double>(), 1e-9)
              << enum_name(type) << ' ' << enum_name(kind) << ", " << sinks << " sinks, chunk "
              << seed++ << " of " << n;
        }
      }
}

}  // namespace
}  // namespace basin
