#include "infer/sampler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <random>
#include <set>
#include <vector>

#include "data/sample_order.h"
#include "infer/utf8.h"

namespace basin {
namespace {

// Probabilities 0.5, 0.25, 0.15, 0.1 at ids 2, 0, 3, 1.
std::vector<float> logits() {
  return {std::log(0.25f), std::log(0.1f), std::log(0.5f), std::log(0.15f)};
}

std::vector<double> frequencies(const SamplerConfig& config, int draws = 20000) {
  Sampler sampler(config);
  std::vector<double> seen(4);
  for (int i = 0; i < draws; ++i)
    seen[static_cast<size_t>(sampler.sample(logits()))] += 1.0 / draws;
  return seen;
}

void expect_near(const std::vector<double>& seen, const std::vector<double>& wanted) {
  for (size_t i = 0; i < wanted.size(); ++i) {
    if (wanted[i] == 0) {
      EXPECT_EQ(seen[i], 0) << "id " << i;
    } else {
      EXPECT_NEAR(seen[i], wanted[i], 0.015) << "id " << i;
    }
  }
}

TEST(Sampler, DrawsTheSoftmax) {
  expect_near(frequencies({}), {0.25, 0.1, 0.5, 0.15});
}

TEST(Sampler, TemperatureSharpens) {
  const double a = 0.25 * 0.25, b = 0.1 * 0.1, c = 0.5 * 0.5, d = 0.15 * 0.15, sum = a + b + c + d;
  expect_near(frequencies({.temperature = 0.5}), {a / sum, b / sum, c / sum, d / sum});
}

TEST(Sampler, CutsKeepTheLikeliest) {
  expect_near(frequencies({.top_k = 2}), {1.0 / 3, 0, 2.0 / 3, 0});
  expect_near(frequencies({.top_k = 100}), {0.25, 0.1, 0.5, 0.15});
  expect_near(frequencies({.top_p = 0.6}), {1.0 / 3, 0, 2.0 / 3, 0});  // 0.5 is not enough, 0.75 is
  expect_near(frequencies({.top_p = 0.01}), {0, 0, 1, 0});             // never fewer than one
  expect_near(frequencies({.min_p = 0.29}),
              {0.25 / 0.9, 0, 0.5 / 0.9, 0.15 / 0.9});  // 0.15 / 0.5 = 0.3 stays
  expect_near(frequencies({.top_k = 3, .top_p = 0.8}),
              {1.0 / 3, 0, 2.0 / 3, 0});  // of the three's 0.9, 0.72 is enough
}

// What the sampler does, in fp64 and by sorting: the probability of each id.
std::vector<double> reference(const std::vector<float>& logits, const SamplerConfig& c) {
  std::vector<size_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(
      order.begin(), order.end(), [&](size_t a, size_t b) { return logits[a] > logits[b]; });
  std::vector<double> p(logits.size());
  const auto of = [&](size_t i) {
    return std::exp((double{logits[i]} - logits[order[0]]) / c.temperature);
  };
  const auto k = c.top_k > 0 ? std::min<size_t>(c.top_k, order.size()) : order.size();
  double total = 0, sum = 0, kept = 0;
  for (size_t n = 0; n < k; ++n) total += of(order[n]);
  for (size_t n = 0; n < k && (n == 0 || sum < c.top_p * total); ++n) {
    sum += of(order[n]);
    if (of(order[n]) >= c.min_p) kept += p[order[n]] = of(order[n]);
  }
  for (double& x : p) x /= kept;
  return p;
}

// Every draw falls where its uniform number falls in the reference.
TEST(Sampler, IsTheReferenceForAnyVocabulary) {
  std::mt19937_64 engine(5);
  for (const size_t V : {1, 7, 300, 2049, 30011})
    for (const double deviation : {0.0, 0.1, 1.0, 8.0}) {
      std::normal_distribution<float> normal(0, 1);
      std::vector<float> x(V);
      for (float& logit : x) logit = static_cast<float>(deviation) * normal(engine);
      for (size_t i = 1; i < V; i += 3) x[i] = std::round(x[i]);  // equal ones
      if (V > 100) x[V / 2] = -std::numeric_limits<float>::infinity();
      for (SamplerConfig c : {SamplerConfig{},
                              SamplerConfig{.temperature = 0.7},
                              SamplerConfig{.temperature = 1e-42},
                              SamplerConfig{.top_k = 40},
                              SamplerConfig{.top_p = 0.95},
                              SamplerConfig{.top_p = 0.3},
                              SamplerConfig{.temperature = 1.5, .min_p = 0.1},
                              SamplerConfig{.top_k = 1000, .top_p = 0.9, .min_p = 0.01}}) {
        SCOPED_TRACE(testing::Message() << V << " x " << deviation << ", top_k " << c.top_k
                                        << ", top_p " << c.top_p << ", T " << c.temperature);
        c.seed = 11;
        const std::vector<double> p = reference(x, c);
        Sampler sampler(c);
        for (uint64_t n = 0; n < 40; ++n) {
          const auto id = static_cast<size_t>(sampler.sample(x));
          const double u = static_cast<double>(keyed_hash(c.seed, n, 0) >> 11) * 0x1p-53,
                       below = std::accumulate(p.begin(), p.begin() + id, 0.0);
          EXPECT_GT(p[id], 0);
          EXPECT_GT(u, below - 2e-5);
          EXPECT_LT(u, below + p[id] + 2e-5);
        }
      }
    }
}

TEST(Sampler, GreedyTakesTheFirstOfTheLargest) {
  Sampler greedy({.temperature = 0});
  EXPECT_EQ(greedy.sample(std::vector{1.f, 3.f, 3.f, 2.f}), 1);
  EXPECT_EQ(greedy.sample(std::vector{1.f, 3.f, 3.f, 9.f}), 3);
}

TEST(Sampler, SameSeedSameDraws) {
  const std::vector<float> flat(1000);
  const auto draw = [&](uint64_t seed) {
    Sampler sampler({.seed = seed});
    std::vector<int64_t> ids;
    for (int i = 0; i < 20; ++i) ids.push_back(sampler.sample(flat));
    return ids;
  };
  EXPECT_EQ(draw(3), draw(3));
  EXPECT_NE(draw(3), draw(4));
  const auto ids = draw(3);
  EXPECT_GT(std::set<int64_t>(ids.begin(), ids.end()).size(), 15u);
}

TEST(Sampler, RefusesWhatCannotBeSampled) {
  Sampler sampler({});
  for (size_t at : {0, 5, 19}) {
    std::vector<float> logits(20, 1);
    logits[at] = std::nanf("");
    EXPECT_THROW(sampler.sample(logits), std::runtime_error);
  }
  EXPECT_THROW(sampler.sample(std::vector<float>(3, -std::numeric_limits<float>::infinity())),
               std::runtime_error);
  EXPECT_THROW(Sampler({.temperature = -1}), std::invalid_argument);
  EXPECT_THROW(Sampler({.top_k = -1}), std::invalid_argument);
  EXPECT_THROW(Sampler({.top_p = 0}), std::invalid_argument);
  EXPECT_THROW(Sampler({.min_p = 1.5}), std::invalid_argument);
}

TEST(Utf8Stream, NeverHalfACharacter) {
  const std::string text = "a\u00e9\u20ac\U0001f600z";
  for (size_t piece = 1; piece <= text.size(); ++piece) {
    Utf8Stream stream;
    std::string out;
    for (size_t at = 0; at < text.size(); at += piece) {
      const std::string now = stream.push(text.substr(at, piece));
      EXPECT_TRUE(now.empty() || (static_cast<unsigned char>(now[0]) & 0xc0) != 0x80)
          << "starts inside a character";
      out += now;
      EXPECT_EQ(text.substr(0, out.size()), out);
      EXPECT_TRUE(out.size() == text.size() ||
                  (static_cast<unsigned char>(text[out.size()]) & 0xc0) != 0x80)
          << "ends inside a character";
    }
    EXPECT_EQ(out, text);
    EXPECT_EQ(stream.finish(), "");
  }
}

TEST(Utf8Stream, InvalidBytesAreReplacedNotHeld) {
  Utf8Stream stream;
  EXPECT_EQ(stream.push("a\xff"), "a\ufffd");
  EXPECT_EQ(stream.push("\x80"
                        "b"),
            "\ufffd"
            "b");
  EXPECT_EQ(stream.push("\xe2\x82"), "");
  EXPECT_EQ(stream.finish(), "\ufffd");
  EXPECT_EQ(stream.finish(), "");
}

}  // namespace
}  // namespace basin
