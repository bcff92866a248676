// Both ends of a decoding step on a GPU: the token that comes in and the one that is chosen.
#include <algorithm>
#include <cmath>
#include <type_traits>

#include "model/kernels/cuda/decode.h"
#include "tests/support/kernel_checks.h"

namespace basin::kernels {
namespace {

template <class Float>
using CudaDecodeBegin = KernelTest<Float>;
TYPED_TEST_SUITE(CudaDecodeBegin, KernelTypes);

TYPED_TEST(CudaDecodeBegin, LooksUpTheTokenAndTurnsByThePosition) {
  constexpr int64_t D = 300, half = 40;
  const auto table = random_array<TypeParam>(7 * D, 1);
  std::vector<double> frequencies;
  for (int64_t i = 0; i < half; ++i)
    frequencies.push_back(std::pow(100.0, -static_cast<double>(i) / half));
  std::vector<DecodeState> states(3);
  for (DecodeState& s : states) {
    s.sinks = 2;
    s.recent = 9;
  }
  states[0].token = 6;
  states[1].token = 2;
  states[1].position = 8;
  states[2].position = (int64_t{1} << 22) + 3;
  states[2].origin = int64_t{1} << 33;
  std::vector<float> h(3 * D, NAN), angles(3 * 4 * half, NAN);
  const WeightType type = std::is_same_v<TypeParam, float> ? WeightType::kF32 : WeightType::kBf16;
  decode_begin({3, states.data()},
               {type, table.data(), D, half, frequencies.data()},
               h.data(),
               angles.data());
  for (int64_t n = 0; n < 3; ++n)
    for (int64_t i = 0; i < D; ++i)
      ASSERT_EQ(h[n * D + i], to_double(table[states[n].token * D + i]));
  for (int64_t n = 0; n < 3; ++n)
    for (int64_t i = 0; i < half; ++i) {
      const double ring = static_cast<double>(states[n].position + states[n].origin),
                   sinks = static_cast<double>(std::min<int64_t>(states[n].position, 11));
      const float* at = angles.data() + n * 4 * half + i;
      const double tolerance = 1e-7 + ring * 1e-16;
      ASSERT_NEAR(at[0], std::cos(ring * frequencies[i]), tolerance);
      ASSERT_NEAR(at[half], std::sin(ring * frequencies[i]), tolerance);
      ASSERT_NEAR(at[2 * half], std::cos(sinks * frequencies[i]), 1e-7);
      ASSERT_NEAR(at[3 * half], std::sin(sinks * frequencies[i]), 1e-7);
    }
}

TEST(CudaDecodeGreedy, TakesTheLargestLogitAndOfEqualsTheLowestId) {
  for (const int64_t V : {1, 5, 1000, 40000}) {
    const int64_t N = 6;
    auto logits = random_array<float>(N * V, 1);
    const auto set = [&](int64_t n, int64_t id, float value) { logits[n * V + id] = value; };
    for (const int64_t id : {V / 3, V / 2, V - 1}) set(0, id, 9);
    for (int64_t id = 0; id < V; ++id) {
      set(1, id, id == V / 2 ? -0.0f : id > V / 2 ? 0.0f : -1.0f);  // equal
      set(2, id, -INFINITY);
      set(3, id, -3 - std::abs(logits[3 * V + id]));
    }
    set(3, V - 1, -2.5f);
    set(4, V / 2, -NAN);
    set(5, V / 2, INFINITY);
    const std::vector<int64_t> want = {V / 3, V / 2, 0, V - 1, V / 2, V / 2},
                               want_output = {V / 3, V / 2, kNotFinite, V - 1, kNotFinite, kNotFinite};

    std::vector<DecodeState> states(static_cast<size_t>(N));
    for (int64_t n = 0; n < N; ++n) {
      states[n].start = 10 * n;
      states[n].position = 10 * n + 1;
    }
    constexpr int64_t kUntouched = -7;
    std::vector<int64_t> output(static_cast<size_t>(3 * N), kUntouched);
    std::vector<int64_t> scratch(static_cast<size_t>(decode_greedy_scratch(N) / 8 + 1));
    for (int64_t step = 1; step < 5; ++step) {  // the output wraps; the scratch serves again
      decode_greedy({N, states.data()}, {V, logits.data(), 3, output.data(), scratch.data()});
      for (int64_t n = 0; n < N; ++n) {
        EXPECT_EQ(states[n].token, want[n]) << V << ", stream " << n;
        EXPECT_EQ(states[n].position, 10 * n + 1 + step);
        EXPECT_EQ(output[3 * n + step % 3], want_output[n]);
        output[3 * n + step % 3] = kUntouched;
        EXPECT_EQ(std::count(output.begin(), output.begin() + 3 * (n + 1), kUntouched), 3 * (n + 1));
      }
    }
  }
}

TEST(CudaDecodeGreedy, NeedsNoOutputAndStaysInTheVocabularyWithoutNumbers) {
  std::vector<DecodeState> states(1);
  const std::vector<float> logits(3000, -NAN);
  std::vector<int64_t> scratch(static_cast<size_t>(decode_greedy_scratch(1) / 8 + 1));
  decode_greedy({1, states.data()}, {3000, logits.data(), 0, nullptr, scratch.data()});
  EXPECT_GE(states[0].token, 0);
  EXPECT_LT(states[0].token, 3000);
  EXPECT_EQ(states[0].position, 1);
}

TEST(CudaDecodeAdvance, MovesThePositionOnly) {
  std::vector<DecodeState> states(300);
  for (size_t n = 0; n < states.size(); ++n) {
    states[n].position = static_cast<int64_t>(n);
    states[n].token = 7;
  }
  decode_advance({300, states.data()});
  for (size_t n = 0; n < states.size(); ++n) {
    EXPECT_EQ(states[n].position, static_cast<int64_t>(n) + 1);
    EXPECT_EQ(states[n].token, 7);
  }
}

}  // namespace
}  // namespace basin::kernels
