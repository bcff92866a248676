// What streaming costs, in one run: a step with a just-filled cache and a million tokens later, and
// tokens/s of the ways to score a text.
//   build/basin_streaming_bench [TOKENS] [THREADS]
// A step's time is the median of 41 rounds of 50 steps.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <c10/core/GradMode.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <vector>

#include "infer/decoder.h"
#include "infer/kv_cache.h"
#include "infer/modes.h"

namespace {

using namespace basin;

double seconds(const std::function<void()>& run) {
  const auto start = std::chrono::steady_clock::now();
  run();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

ModelConfig demo_like() {
  ModelConfig c;
  c.vocab_size = 2048;
  c.hidden_size = 128;
  c.num_hidden_layers = 4;
  c.num_attention_heads = 4;
  c.intermediate_size = 384;
  return c;
}

// Median time of a decoder's step over many rounds, in turn for each cache, so that what else the
// machine does hits all alike.
std::vector<double> step_ms(const Transformer& model,
                            const std::vector<KvCache*>& caches,
                            const at::Tensor& tokens) {
  Decoder decoder(model);
  constexpr int kRounds = 41;
  std::vector<std::vector<double>> times(caches.size());
  for (int round = 0; round < kRounds; ++round)
    for (size_t c = 0; c < caches.size(); ++c)
      times[c].push_back(
          20 * seconds([&] {
            for (int i = 0; i < 50; ++i)
              decoder.step({tokens.const_data_ptr<int64_t>() + i, 1}, {&caches[c], 1});
          }));
  std::vector<double> medians;
  for (std::vector<double>& t : times) {
    std::nth_element(t.begin(), t.begin() + kRounds / 2, t.end());
    medians.push_back(t[kRounds / 2]);
  }
  return medians;
}

}  // namespace

int main(int argc, char** argv) {
  const int64_t tokens = argc > 1 ? std::atoll(argv[1]) : 1000000;
  at::set_num_threads(argc > 2 ? std::atoi(argv[2]) : 1);
  const c10::NoGradGuard no_grad;
  Transformer model(demo_like(), at::kFloat, at::kCPU);
  model.initialize(1);
  const at::Tensor text = at::randint(6, 2048, {8192}, at::kLong);
  const CacheShape shape{1, 1023};

  const auto stream = [&](KvCache& cache, int64_t n) {
    for (int64_t done = 0; done < n; done += 1024) {
      model.hidden_states(text.narrow(0, 0, 1024).unsqueeze(0), cache.attention());
      cache.advance(1024);
    }
  };
  KvCache filled(model, shape), old(model, shape);
  stream(filled, 2048);  // full
  const double chunks = seconds([&] { stream(old, tokens); });
  const auto late = static_cast<long>(old.position());
  const std::vector<double> step = step_ms(model, {&filled, &old}, text);
  std::printf("cache %ld+%ld, 4 layers of 128\n",
              static_cast<long>(shape.sinks),
              static_cast<long>(shape.recent));
  std::printf("step, cache just filled      %.4f ms, %ld bytes\n",
              step[0],
              static_cast<long>(filled.bytes()));
  std::printf("step, after %8ld tokens %.4f ms, %ld bytes, ratio %.3f\n",
              late,
              step[1],
              static_cast<long>(old.bytes()),
              step[1] / step[0]);
  std::printf("through the layers in chunks %.0f tokens/s\n", static_cast<double>(tokens) / chunks);
  const double parallel = 8191 / seconds([&] { score_stream(model, shape, text); });
  const double recompute =
      64 / seconds([&] {
        score_recompute(model, shape.entries(), text, at::arange(4000, 4064, at::kLong));
      });
  std::printf("scored: stream in parallel %.0f tokens/s, token by token %.0f, recompute %.0f\n",
              parallel,
              1e3 / step[1],
              recompute);
  return 0;
}
