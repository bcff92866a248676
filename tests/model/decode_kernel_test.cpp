// The kernels of a decoding step against fp64, for every instruction set of this machine.
#include <cmath>

#include "model/kernels/decode.h"
#include "tests/support/kernel_checks.h"

namespace basin::kernels {
namespace {

std::vector<double> as_doubles(const auto& values) {
  std::vector<double> out;
  for (const auto& v : values) out.push_back(to_double(v));
  return out;
}

// w (rows, columns), x (count, columns), both fp64 -> (count, rows)
std::vector<double> products(const std::vector<double>& w,
                             const std::vector<float>& x,
                             const std::vector<float>& bias,
                             int64_t rows,
                             int64_t columns) {
  const auto count = static_cast<int64_t>(x.size()) / columns;
  std::vector<double> y;
  for (int64_t n = 0; n < count; ++n)
    for (int64_t r = 0; r < rows; ++r) {
      double sum = bias.empty() ? 0 : bias[r];
      for (int64_t i = 0; i < columns; ++i)
        sum += w[r * columns + i] * to_double(x[n * columns + i]);
      y.push_back(sum);
    }
  return y;
}

template <class Float>
WeightType type_of();
template <>
WeightType type_of<float>() {
  return WeightType::kF32;
}
template <>
WeightType type_of<Bf16>() {
  return WeightType::kBf16;
}

template <class Float>
using Matvec = KernelTest<Float>;
TYPED_TEST_SUITE(Matvec, KernelTypes);

TYPED_TEST(Matvec, AnyShapeAndAnyNumberOfVectors) {
  for_each_instruction_set([] {
    for (const int64_t columns : {1, 7, 33, 100, 256})
      for (const int64_t count : {1, 2, 3, 4, 7, 8, 11, 19}) {
        constexpr int64_t kRows = 21;
        const auto w = random_array<TypeParam>(kRows * columns, 1);
        const auto x = random_array<float>(count * columns, 2),
                   bias = random_array<float>(kRows, 3);
        std::vector<float> y(static_cast<size_t>(count * kRows), NAN);
        const WeightMatrix matrix{
            type_of<TypeParam>(), kRows, columns, w.data(), nullptr, bias.data()};
        for (const auto& [begin, end] : {std::pair{0, 5}, std::pair{5, 20}, std::pair{20, 21}})
          matvec(matrix, begin, end, count, x.data(), y.data());
        // bf16 weights may meet activations of 16 bits
        const double tolerance = std::is_same_v<TypeParam, float> ? 1e-5 : 1e-4;
        expect_close(y, products(as_doubles(w), x, bias, kRows, columns), tolerance, 1);
      }
  });
}

TEST(MatvecQ8, MultipliesTheRoundedWeights) {
  for_each_instruction_set([] {
    for (const int64_t columns : {32, 96, 544, 768})
      for (const int64_t count : {1, 3, 9}) {
        constexpr int64_t kRows = 5;
        auto w = random_array<float>(kRows * columns, 1);
        std::fill_n(w.begin(), 32, 0.0f);  // a block of zeros has scale 0
        const auto x = random_array<float>(count * columns, 2);
        std::vector<int8_t> values(w.size());
        std::vector<uint16_t> scales(w.size() / kQ8Block + kQ8ScalePadding);
        quantize_q8(static_cast<int64_t>(w.size()), w.data(), values.data(), scales.data());
        // fp16 to double, in plain code
        std::vector<double> rounded;
        for (size_t i = 0; i < w.size(); ++i) {
          const uint16_t bits = scales[i / kQ8Block];
          const double scale =
              bits == 0 ? 0 : std::ldexp(1 + (bits & 1023) / 1024.0, (bits >> 10) - 15);
          rounded.push_back(values[i] * scale);
          EXPECT_LE(std::abs(rounded.back() - w[i]), scale * 0.56)
              << i;  // half a step, and fp16's own rounding at 127
        }
        auto x16 = x;  // activations: 16 bits a block, in plain code
        for (size_t block = 0; block < x16.size(); block += kQ8Block) {
          float top = 0;
          for (int64_t i = 0; i < kQ8Block; ++i) top = std::max(top, std::abs(x16[block + i]));
          for (int64_t i = 0; i < kQ8Block; ++i)
            x16[block + i] = std::nearbyint(x16[block + i] * (32767 / top)) * (top / 32767);
        }
        std::vector<float> y(static_cast<size_t>(count * kRows), NAN);
        matvec({WeightType::kQ8, kRows, columns, values.data(), scales.data(), nullptr},
               0,
               kRows,
               count,
               x.data(),
               y.data());
        expect_close(y, products(rounded, x16, {}, kRows, columns), 1e-5, 1);
      }
  });
}

TEST(MatvecQ8, ActivationsThatAreNotFiniteShow) {
  for_each_instruction_set([] {
    constexpr int64_t kColumns = 96;
    const auto w = random_array<float>(kColumns, 1);
    std::vector<int8_t> values(w.size());
    std::vector<uint16_t> scales(w.size() / kQ8Block + kQ8ScalePadding);
    quantize_q8(kColumns, w.data(), values.data(), scales.data());
    for (const float bad : {NAN, INFINITY, -INFINITY})
      for (size_t at = 0; at < w.size(); ++at) {
        auto x = random_array<float>(kColumns, 2);
        x[at] = bad;
        float y = 0;
        matvec({WeightType::kQ8, 1, kColumns, values.data(), scales.data(), nullptr},
               0,
               1,
               1,
               x.data(),
               &y);
        EXPECT_FALSE(std::isfinite(y)) << bad << " at " << at;
      }
  });
}

// One head in fp64. Keys in the cache are as the kernel finds them: rotated; the new one is not.
struct StreamCase {
  int64_t H, G, K, rotary, sinks, ring, slot;
  bool logit;
};

template <class Float>
void expect_stream_attention(const StreamCase& c) {
  const int64_t slots = c.sinks + c.ring + 3, half = c.rotary / 2;
  const auto qkv = random_array<float>((c.H + 2 * c.G) * c.K, 1);
  auto keys = random_array<Float>(c.G * slots * c.K, 2),
       values = random_array<Float>(c.G * slots * c.K, 3);
  const auto logit = random_array<float>(c.H, 4), angle_ring = random_array<float>(half, 5),
             angle_sink = random_array<float>(half, 6);
  std::vector<float> cos_ring, sin_ring, cos_sink, sin_sink;
  for (int64_t i = 0; i < half; ++i) {
    cos_ring.push_back(std::cos(angle_ring[i])), sin_ring.push_back(std::sin(angle_ring[i]));
    cos_sink.push_back(std::cos(angle_sink[i])), sin_sink.push_back(std::sin(angle_sink[i]));
  }
  const auto rotated = [&](const float* x, bool sink) {
    std::vector<double> y(x, x + c.K);
    const auto &cos = sink ? cos_sink : cos_ring, &sin = sink ? sin_sink : sin_ring;
    for (int64_t i = 0; i < half; ++i) {
      y[i] = to_double(x[i]) * cos[i] - to_double(x[half + i]) * sin[i];
      y[half + i] = to_double(x[half + i]) * cos[i] + to_double(x[i]) * sin[i];
    }
    return y;
  };
  auto expected_keys = keys, expected_values = values;
  for (int64_t g = 0; g < c.G; ++g) {
    const std::vector<double> k = rotated(qkv.data() + (c.H + g) * c.K, c.slot < c.sinks);
    for (int64_t i = 0; i < c.K; ++i) {
      expected_keys[(g * slots + c.slot) * c.K + i] = from_double<Float>(k[i]);
      expected_values[(g * slots + c.slot) * c.K + i] =
          from_double<Float>(qkv[(c.H + c.G + g) * c.K + i]);
    }
  }
  std::vector<double> want;
  for (int64_t h = 0; h < c.H; ++h) {
    const int64_t g = h / (c.H / c.G), used = c.sinks + c.ring;
    const std::vector<double> q[] = {rotated(qkv.data() + h * c.K, false),
                                     rotated(qkv.data() + h * c.K, true)};
    double sum = c.logit ? std::exp(logit[h]) : 0;
    std::vector<double> out(static_cast<size_t>(c.K));
    for (int64_t j = 0; j < used; ++j) {
      double score = 0;
      for (int64_t i = 0; i < c.K; ++i)
        score += q[j < c.sinks][i] * to_double(expected_keys[(g * slots + j) * c.K + i]);
      const double weight = std::exp(score / std::sqrt(static_cast<double>(c.K)));
      sum += weight;
      for (int64_t i = 0; i < c.K; ++i)
        out[i] += weight * to_double(expected_values[(g * slots + j) * c.K + i]);
    }
    for (const double o : out) want.push_back(o / sum);
  }
  const StreamStep step{c.H,
                        c.G,
                        c.K,
                        c.rotary,
                        slots,
                        c.sinks,
                        c.ring,
                        c.slot,
                        cos_ring.data(),
                        sin_ring.data(),
                        cos_sink.data(),
                        sin_sink.data(),
                        c.logit ? logit.data() : nullptr};
  std::vector<float> scratch(static_cast<size_t>(stream_scratch(step))),
      out(static_cast<size_t>(c.H * c.K));
  for (int64_t g = 0; g < c.G; ++g)
    stream_attention<Float>(
        step, g, {qkv.data(), keys.data(), values.data(), scratch.data(), out.data()});
  // The reference's new key may round to bf16's other neighbour.
  expect_close(out, want, std::is_same_v<Float, float> ? 1e-5 : 2e-3, 1);
  expect_close(keys, as_doubles(expected_keys), 1e-5, 1);
  expect_close(values, as_doubles(expected_values), 1e-5, 1);
}

template <class Float>
using StreamAttention = KernelTest<Float>;
TYPED_TEST_SUITE(StreamAttention, KernelTypes);

TYPED_TEST(StreamAttention, AnyShape) {
  for_each_instruction_set([] {
    for (const StreamCase& c : {StreamCase{2, 2, 64, 64, 1, 30, 12, false},
                                StreamCase{4, 2, 32, 16, 4, 61, 7, true},
                                StreamCase{3, 1, 20, 8, 0, 5, 2, true},   // no sinks
                                StreamCase{2, 2, 6, 0, 2, 0, 1, false},   // the second sink arrives
                                StreamCase{1, 1, 64, 32, 1, 0, 0, true},  // the first token
                                StreamCase{2, 1, 80, 40, 1, 1, 1, false},  // the first recent one
                                StreamCase{1, 1, 1, 0, 1, 2, 2, false}}) {
      SCOPED_TRACE(testing::Message() << "H " << c.H << " G " << c.G << " K " << c.K << " sinks "
                                      << c.sinks << " ring " << c.ring);
      expect_stream_attention<TypeParam>(c);
    }
  });
}

TEST(DecodeActivations, AreThoseOfTraining) {
  for_each_instruction_set([] {
    for (const int64_t n : {1, 15, 16, 100}) {
      const auto gate = random_array<float>(n, 1, 3), up = random_array<float>(n, 2);
      std::vector<float> y(static_cast<size_t>(n));
      std::vector<double> want;
      swiglu_elements(n, gate.data(), up.data(), y.data());
      for (int64_t i = 0; i < n; ++i)
        want.push_back(to_double(gate[i]) / (1 + std::exp(-to_double(gate[i]))) * up[i]);
      expect_close(y, want);
      gelu_elements(n, gate.data(), y.data());
      for (int64_t i = 0; i < n; ++i)
        want[i] = to_double(gate[i]) * std::erfc(-to_double(gate[i]) / std::sqrt(2.0)) / 2;
      expect_close(y, want, 1e-4);
    }
  });
}

}  // namespace
}  // namespace basin::kernels
