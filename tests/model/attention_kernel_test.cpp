// The attention kernels against a naive fp64 softmax with an extra sink column, differentiated by
// autograd; on every instruction set of this machine.
#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <omp.h>
#include <torch/csrc/autograd/autograd.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "model/kernels/cpu/attention_plan.h"
#include "model/kernels/kernels.h"
#include "tests/support/kernel_checks.h"

namespace basin::kernels {
namespace {

struct Case {
  AttentionShape shape;
  bool sink;
  bool alibi = false;
};
std::string name(const Case& c) {
  const AttentionShape& s = c.shape;
  return std::string("B") + std::to_string(s.B) + " T" + std::to_string(s.T) + " H" +
         std::to_string(s.H) + " G" + std::to_string(s.G) + " K" + std::to_string(s.K) + " rotary" +
         std::to_string(s.rotary) + (c.sink ? " sink" : "") + (c.alibi ? " alibi" : "");
}
// Common shapes, and lengths, head sizes and rotations that fit no vector; few items (1 sample, 1
// head) run split into parts.
const std::vector<Case> kCases = {
    {{2, 257, 4, 4, 32, 32}, true},
    {{1, 256, 2, 2, 32, 8}, false},
    {{2, 65, 4, 4, 24, 24}, true},
    {{1, 130, 8, 2, 64, 16}, true},
    {{1, 1, 2, 1, 32, 32}, true},
    {{3, 2, 1, 1, 8, 4}, false},
    {{1, 33, 3, 1, 5, 2}, true},
    {{2, 40, 2, 2, 7, 6}, false},
    {{1, 31, 2, 1, 256, 64}, true},
    {{1, 200, 1, 1, 20, 10}, true},
    {{1, 95, 6, 3, 80, 0}, false},
    {{1, 64, 4, 1, 1, 0}, true},
    {{2, 257, 4, 4, 32, 0}, true, true},
    {{1, 130, 6, 2, 64, 0}, false, true},
    {{1, 190, 1, 1, 20, 0}, true, true},
};

// Of ALiBi, by head: no powers of two, whose products would be exact.
at::Tensor slopes(const AttentionShape& s) {
  return at::arange(1, s.H + 1, at::kFloat).reciprocal().mul(0.7f);
}

at::Tensor rotate(const at::Tensor& x_BTHK, const at::Tensor& cos, const at::Tensor& sin) {
  const int64_t half = cos.size(1);
  if (half == 0) return x_BTHK;
  const auto c = cos.unsqueeze(1), s = sin.unsqueeze(1);
  const auto x = x_BTHK.narrow(3, 0, half), y = x_BTHK.narrow(3, half, half),
             rest = x_BTHK.narrow(3, 2 * half, x_BTHK.size(3) - 2 * half);
  return at::cat({x * c - y * s, y * c + x * s, rest}, 3);
}

// out (B, T, H K) and lse (B, H, T) in fp64.
std::pair<at::Tensor, at::Tensor> naive(const Case& c,
                                        const at::Tensor& qkv,
                                        const at::Tensor& cos,
                                        const at::Tensor& sin,
                                        const at::Tensor& sink_logit) {
  const AttentionShape& s = c.shape;
  const auto heads = qkv.view({s.B, s.T, s.H + 2 * s.G, s.K});
  const auto q = rotate(heads.narrow(2, 0, s.H), cos, sin).transpose(1, 2);
  const auto k =
      rotate(heads.narrow(2, s.H, s.G), cos, sin).transpose(1, 2).repeat_interleave(s.H / s.G, 1);
  const auto v = heads.narrow(2, s.H + s.G, s.G).transpose(1, 2).repeat_interleave(s.H / s.G, 1);
  const auto hidden = at::ones({s.T, s.T}, at::kBool).triu(1);
  auto scores = at::matmul(q, k.transpose(2, 3)).div(std::sqrt(static_cast<double>(s.K)));
  const auto place = at::arange(s.T, at::kDouble), distance = place.unsqueeze(1) - place;
  if (c.alibi) scores = scores - slopes(s).to(at::kDouble).view({s.H, 1, 1}) * distance;
  scores = scores.masked_fill(hidden, -std::numeric_limits<double>::infinity());
  if (c.sink)
    scores = at::cat({sink_logit.view({1, s.H, 1, 1}).expand({s.B, s.H, s.T, 1}), scores}, 3);
  const auto p = scores.softmax(-1).narrow(3, c.sink ? 1 : 0, s.T);
  return {at::matmul(p, v).transpose(1, 2).reshape({s.B, s.T, s.H * s.K}), scores.logsumexp(-1)};
}

double largest(const at::Tensor& x) {
  return x.abs().max().item<double>();
}
double relative(const at::Tensor& found, const at::Tensor& expected) {
  return largest(found.to(at::kDouble) - expected) / std::max(1e-30, largest(expected));
}

struct Data {
  at::Tensor qkv, dout, cos, sin, sink_logit;  // as the kernel gets them
};
Data random_data(const Case& c, at::ScalarType type) {
  at::manual_seed(7);
  const AttentionShape& s = c.shape;
  const auto angles =
      at::arange(s.T, at::kDouble).unsqueeze(1) * at::rand({1, s.rotary / 2}, at::kDouble);
  return {at::randn({s.B, s.T, (s.H + 2 * s.G) * s.K}).mul(1.5).to(type),
          at::randn({s.B, s.T, s.H * s.K}).to(type),
          angles.cos().to(at::kFloat),
          angles.sin().to(at::kFloat),
          at::randn({s.H})};
}

struct Result {
  at::Tensor out, lse, dqkv, dsink_logit;
};
template <class Float>
Result run_kernel(const Case& c, const Data& x) {
  const AttentionShape& s = c.shape;
  const auto pointer = [](const at::Tensor& t) { return static_cast<Float*>(t.data_ptr()); };
  Result r{at::full_like(x.dout, 77),
           at::full({s.B, s.H, s.T}, 77.0f),
           at::full_like(x.qkv, 77),
           at::full({s.H}, 77.0f)};
  const float *cos = s.rotary ? x.cos.data_ptr<float>() : nullptr,
              *sin = s.rotary ? x.sin.data_ptr<float>() : nullptr;
  const float* sink_logit = c.sink ? x.sink_logit.data_ptr<float>() : nullptr;
  const at::Tensor alibi = slopes(s);
  const float* slope = c.alibi ? alibi.const_data_ptr<float>() : nullptr;
  attention_forward<Float>(
      s, pointer(x.qkv), cos, sin, sink_logit, slope, pointer(r.out), r.lse.data_ptr<float>());
  attention_backward<Float>(s,
                            pointer(x.qkv),
                            cos,
                            sin,
                            sink_logit,
                            slope,
                            pointer(r.out),
                            r.lse.data_ptr<float>(),
                            pointer(x.dout),
                            pointer(r.dqkv),
                            c.sink ? r.dsink_logit.data_ptr<float>() : nullptr);
  return r;
}

// `floor`: share of the largest gradient of all that a part's errors are measured against when its
// own gradient is smaller.
template <class Float>
void expect_matches_naive(const Case& c, at::ScalarType type, double tolerance, double floor) {
  const Data x = random_data(c, type);
  const auto qkv = x.qkv.to(at::kDouble).requires_grad_(),
             sink_logit = x.sink_logit.to(at::kDouble).requires_grad_();
  const auto [out, lse] = naive(c, qkv, x.cos.to(at::kDouble), x.sin.to(at::kDouble), sink_logit);
  const auto gradients = torch::autograd::grad(
      {out}, {qkv, sink_logit}, {x.dout.to(at::kDouble)}, std::nullopt, false, true);
  const AttentionShape& s = c.shape;
  const auto split = [&](const at::Tensor& t) {
    return t.split_with_sizes({s.H * s.K, s.G * s.K, s.G * s.K}, 2);
  };
  const std::vector<at::Tensor> expected = split(gradients[0]);
  for_each_instruction_set([&] {
    SCOPED_TRACE(name(c) + " on " + instruction_set());
    const Result r = run_kernel<Float>(c, x);
    EXPECT_LT(relative(r.out, out.detach()), tolerance);
    EXPECT_LT(relative(r.lse, lse.detach()), tolerance);
    const std::vector<at::Tensor> found = split(r.dqkv.to(at::kDouble));
    for (size_t i = 0; i < 3; ++i) {
      const double unit = std::max(floor * largest(gradients[0]), largest(expected[i]));
      EXPECT_LT(largest(found[i] - expected[i]), tolerance * unit) << "qkv"[i];
    }
    if (c.sink) {
      EXPECT_LT(relative(r.dsink_logit, gradients[1]), tolerance);
    }
  });
}

TEST(AttentionKernel, FloatMatchesNaiveSoftmax) {
  for (const Case& c : kCases) expect_matches_naive<float>(c, at::kFloat, 2e-5, 0.1);
}

TEST(AttentionKernel, Bf16MatchesNaiveSoftmax) {
  // With one or two keys dq and dk nearly cancel, and D = rowsum(dO * O) inherits the rounding of
  // the stored O: measured against dv instead.
  for (const Case& c : kCases) expect_matches_naive<Bf16>(c, at::kBFloat16, 2e-2, 1.0);
}

TEST(AttentionKernel, LargeScoresNeitherOverflowNorVanish) {
  const Case c{{1, 80, 2, 2, 32, 0}, true};
  Data x = random_data(c, at::kFloat);
  x.qkv.mul_(40);  // scores of several thousands
  const auto [out, lse] = naive(c,
                                x.qkv.to(at::kDouble),
                                x.cos.to(at::kDouble),
                                x.sin.to(at::kDouble),
                                x.sink_logit.to(at::kDouble));
  const Result r = run_kernel<float>(c, x);
  EXPECT_LT(relative(r.out, out), 2e-3);  // exp of an fp32 score of 1e4 has 1e-3 relative error
  EXPECT_LT(relative(r.lse, lse), 1e-5);
  EXPECT_TRUE(r.dqkv.isfinite().all().item<bool>());
}

TEST(AttentionKernel, NotANumberReachesExactlyWhatSeesIt) {
  for (at::ScalarType type : {at::kFloat, at::kBFloat16}) {
    const Case c{{2, 70, 2, 2, 32, 16}, true};
    Data x = random_data(c, type);
    x.qkv[1][40][c.shape.H * c.shape.K] =
        std::numeric_limits<float>::quiet_NaN();  // key 40 of head 0, sample 1
    const Result r = type == at::kFloat ? run_kernel<float>(c, x) : run_kernel<Bf16>(c, x);
    const auto bad = r.out.isnan().view({2, 70, 2, 32});
    EXPECT_EQ(bad.sum().item<int64_t>(), 30 * 32);
    EXPECT_TRUE(bad[1].narrow(0, 40, 30).select(1, 0).all().item<bool>());
    EXPECT_FALSE(r.dqkv[0].isnan().any().item<bool>());
    EXPECT_TRUE(r.dqkv[1].isnan().any().item<bool>());
  }
}

TEST(AttentionKernel, NothingIsLeftOfAnEarlierCall) {
  for (at::ScalarType type : {at::kFloat, at::kBFloat16}) {
    const auto run = [type](const Case& c, const Data& x) {
      return type == at::kFloat ? run_kernel<float>(c, x) : run_kernel<Bf16>(c, x);
    };
    for (const Case& c : kCases) {
      const Case large{{1, 300, 1, 1, 256, 0}, true};  // fills all scratch memory with NaN
      Data poison = random_data(large, type);
      poison.qkv.fill_(std::numeric_limits<float>::quiet_NaN());
      run(large, poison);
      const Result r = run(c, random_data(c, type));
      EXPECT_TRUE(r.out.isfinite().all().item<bool>() && r.dqkv.isfinite().all().item<bool>() &&
                  r.dsink_logit.isfinite().all().item<bool>())
          << name(c);
    }
  }
}

TEST(AttentionKernel, SameBitsEveryTime) {
  const int threads = omp_get_max_threads();
  for (int n : {1, 2, 3}) {
    omp_set_num_threads(n);
    for (const Case& c : {Case{{1, 257, 2, 1, 32, 32}, true}, Case{{5, 100, 1, 1, 24, 8}, true}}) {
      const Data x = random_data(c, at::kBFloat16);
      const Result first = run_kernel<Bf16>(c, x), second = run_kernel<Bf16>(c, x);
      EXPECT_TRUE(first.out.equal(second.out) && first.lse.equal(second.lse) &&
                  first.dqkv.equal(second.dqkv) && first.dsink_logit.equal(second.dsink_logit))
          << name(c);
    }
  }
  omp_set_num_threads(threads);
}

TEST(AttentionKernel, ThreadCountChangesOnlyRounding) {
  const int threads = omp_get_max_threads();
  const Case c{{1, 257, 4, 1, 32, 32}, true};
  const Data x = random_data(c, at::kFloat);
  omp_set_num_threads(1);
  const Result one = run_kernel<float>(c, x);
  omp_set_num_threads(3);
  const Result three = run_kernel<float>(c, x);
  omp_set_num_threads(threads);
  EXPECT_TRUE(one.out.equal(three.out));
  EXPECT_LT(relative(three.dqkv, one.dqkv.to(at::kDouble)), 1e-6);
  EXPECT_LT(relative(three.dsink_logit, one.dsink_logit.to(at::kDouble)), 1e-6);
}

TEST(AttentionKernel, NamesItsInstructionSet) {
  std::vector<std::string> names;
  for_each_instruction_set([&] { names.push_back(instruction_set()); });
  EXPECT_THAT(names, testing::Contains("SSE4"));
  EXPECT_THAT(names, testing::Contains(instruction_set()));
  if (std::string(instruction_set()) == "AVX3+BF16") {
    EXPECT_THAT(names, testing::Contains("AVX3"));
  }
}

// More parts than leave threads busy pack keys for nothing, and their sums take memory.
TEST(AttentionKernel, ItemsAreSplitOnlyForIdleThreads) {
  for (const int64_t items : {1, 2, 3, 5, 12, 24, 96, 100})
    for (const int64_t most : {1, 4, 16, 64})
      for (const int64_t threads : {1, 2, 3, 14, 20, 24, 64, 128}) {
        SCOPED_TRACE(testing::Message() << items << " items, " << threads << " threads");
        const auto busy = [&](int64_t parts) {
          const int64_t rounds = (items * parts + threads - 1) / threads;
          return static_cast<double>(items * parts) / static_cast<double>(rounds * threads);
        };
        const int64_t parts = parts_per_item(items, most, threads);
        EXPECT_GE(parts, 1);
        EXPECT_LE(parts, most);
        for (int64_t fewer = 1; fewer < parts; ++fewer)
          EXPECT_LT(busy(fewer), std::min(0.875, busy(parts)));
        if (busy(parts) < 0.875) {
          for (int64_t more = parts; more <= most; ++more) EXPECT_LE(busy(more), busy(parts));
        }
      }
  EXPECT_EQ(parts_per_item(96, 16, 14), 1);
  EXPECT_EQ(parts_per_item(96, 16, 64), 2);
  EXPECT_EQ(parts_per_item(1, 16, 2), 2);
}

}  // namespace
}  // namespace basin::kernels
