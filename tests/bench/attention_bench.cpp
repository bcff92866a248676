// Forward and backward of the attention kernels against LibTorch's scaled_dot_product_attention, in
// one run:
//   build/basin_attention_bench [SECONDS_PER_ROW]
// Best of the repetitions that fit the time, milliseconds. LibTorch gets q, k, v as it likes them
// (B, H, T, K), without rotary and packing. gflops counts the causal half only: 2 products forward,
// 5 backward.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/csrc/autograd/autograd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <string>
#include <vector>

#include "model/kernels/kernels.h"

namespace {

using basin::kernels::AttentionShape;

double best_ms(double seconds, const std::function<void()>& run) {
  using Clock = std::chrono::steady_clock;
  const auto end = Clock::now() + std::chrono::duration<double>(seconds);
  double best = 1e9;
  for (int i = 0; i < 3 || Clock::now() < end; ++i) {
    const auto start = Clock::now();
    run();
    if (i > 0)
      best =
          std::min(best, std::chrono::duration<double, std::milli>(Clock::now() - start).count());
  }
  return best;
}

struct Times {
  double forward, backward, stock;
};

template <class Float>
Times measure(const AttentionShape& s, at::ScalarType type, double seconds) {
  const auto pointer = [](const at::Tensor& t) { return static_cast<Float*>(t.data_ptr()); };
  const auto qkv = at::randn({s.B, s.T, (s.H + 2 * s.G) * s.K}).to(type),
             dout = at::randn({s.B, s.T, s.H * s.K}).to(type);
  const auto angles = at::arange(s.T, at::kFloat).unsqueeze(1) * at::rand({1, s.rotary / 2});
  const auto cos = angles.cos().contiguous(), sin = angles.sin().contiguous(),
             lse = at::empty({s.B, s.H, s.T});
  const auto out = at::empty_like(dout), dqkv = at::empty_like(qkv);
  Times t{};
  t.forward = best_ms(seconds, [&] {
    basin::kernels::attention_forward<Float>(s,
                                             pointer(qkv),
                                             cos.data_ptr<float>(),
                                             sin.data_ptr<float>(),
                                             nullptr,
                                             nullptr,
                                             pointer(out),
                                             lse.data_ptr<float>());
  });
  t.backward = best_ms(seconds, [&] {
    basin::kernels::attention_backward<Float>(s,
                                              pointer(qkv),
                                              cos.data_ptr<float>(),
                                              sin.data_ptr<float>(),
                                              nullptr,
                                              nullptr,
                                              pointer(out),
                                              lse.data_ptr<float>(),
                                              pointer(dout),
                                              pointer(dqkv),
                                              nullptr);
  });
  const auto head = [&](int64_t heads) {
    return at::randn({s.B, heads, s.T, s.K}).to(type).requires_grad_();
  };
  const at::Tensor q = head(s.H), k = head(s.G), v = head(s.G),
                   d = at::randn({s.B, s.H, s.T, s.K}).to(type);
  t.stock = best_ms(seconds, [&] {
    const auto o = at::scaled_dot_product_attention(
        q, k, v, std::nullopt, 0.0, true, std::nullopt, s.H != s.G);
    torch::autograd::grad({o}, {q, k, v}, {d});
  });
  return t;
}

}  // namespace

int main(int argc, char** argv) {
  const double seconds = argc > 1 ? std::atof(argv[1]) : 0.5;
  const std::vector<AttentionShape> shapes = {{16, 256, 4, 4, 32, 32},
                                              {16, 257, 4, 4, 32, 32},
                                              {8, 512, 4, 4, 24, 24},
                                              {8, 512, 4, 4, 32, 8},
                                              {4, 512, 8, 8, 64, 64},
                                              {1, 2048, 8, 2, 64, 64}};
  std::printf("%d threads, %s\n%-30s%10s%10s%10s%10s%10s%8s\n",
              at::get_num_threads(),
              basin::kernels::instruction_set(),
              "shape",
              "forward",
              "backward",
              "both",
              "gflops",
              "libtorch",
              "ratio");
  for (const auto type : {at::kFloat, at::kBFloat16}) {
    for (const AttentionShape& s : shapes) {
      const Times t = type == at::kFloat ? measure<float>(s, type, seconds)
                                         : measure<basin::kernels::Bf16>(s, type, seconds);
      const double both = t.forward + t.backward,
                   flops = 7.0 * static_cast<double>(s.B * s.H * s.T * (s.T + 1) * s.K);
      std::printf("%s B%-3ldT%-5ldH%-3ldG%-3ldK%-9ld%10.2f%10.2f%10.2f%10.0f%10.2f%8.2f\n",
                  type == at::kFloat ? "fp32" : "bf16",
                  s.B,
                  s.T,
                  s.H,
                  s.G,
                  s.K,
                  t.forward,
                  t.backward,
                  both,
                  flops / both * 1e-6,
                  t.stock,
                  t.stock / both);
    }
  }
  return 0;
}
