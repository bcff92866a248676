// The CUDA kernels of a decoding step against fp64, on the CPU: products of all kinds, streaming
// attention token by token through caches that wrap, and the choice of the next token.
#include <algorithm>
#include <cmath>
#include <stdexcept>

#include "model/kernels/cuda/decode.h"
#include "tests/support/kernel_checks.h"

namespace basin::kernels {
namespace {

// A matrix with what it points to, and in fp64.
struct Matrix {
  std::vector<float> f32, bias;
  std::vector<Bf16> bf16;
  std::vector<int8_t> q8;
  std::vector<uint16_t> scales;
  std::vector<double> exact, exact_bias;
  WeightMatrix view;
};

double fp16_value(uint16_t bits) {
  const int exponent = bits >> 10 & 31, mantissa = bits & 1023;
  const double size =
      exponent == 0 ? std::ldexp(mantissa, -24) : std::ldexp(1024 + mantissa, exponent - 25);
  return bits & 0x8000 ? -size : size;
}

void fill_q8(Matrix& m, int64_t n, uint64_t seed) {
  std::mt19937_64 engine(seed);
  for (int64_t i = 0; i < n; ++i) m.q8.push_back(static_cast<int8_t>(engine() % 255 - 127));
  for (int64_t i = 0; i < n / kQ8Block; ++i)  // about 0.005
    m.scales.push_back(static_cast<uint16_t>(7 << 10 | engine() % 1024));
  m.scales[0] = 0;
  m.scales.back() = 1000;  // subnormal
  m.scales.resize(m.scales.size() + kQ8ScalePadding);
  for (int64_t i = 0; i < n; ++i) m.exact.push_back(m.q8[i] * fp16_value(m.scales[i / kQ8Block]));
}

Matrix random_matrix(WeightType type, int64_t rows, int64_t columns, bool has_bias, uint64_t seed) {
  Matrix m;
  const int64_t n = rows * columns;
  m.view = {type, rows, columns, nullptr, nullptr, nullptr};
  if (type == WeightType::kQ8) fill_q8(m, n, seed);
  if (type == WeightType::kF32) m.f32 = random_array<float>(n, seed);
  if (type == WeightType::kBf16) m.bf16 = random_array<Bf16>(n, seed);
  for (const float x : m.f32) m.exact.push_back(x);
  for (const Bf16 x : m.bf16) m.exact.push_back(to_double(x));
  if (has_bias) m.bias = random_array<float>(rows, seed + 1);
  m.exact_bias.assign(m.bias.begin(), m.bias.end());
  m.exact_bias.resize(static_cast<size_t>(rows));
  return m;
}
const WeightMatrix& point(Matrix& m) {
  m.view.data = m.f32.data();
  if (m.view.type == WeightType::kBf16) m.view.data = m.bf16.data();
  if (m.view.type == WeightType::kQ8) m.view.data = m.q8.data();
  m.view.scales = m.scales.data();
  m.view.bias = m.bias.empty() ? nullptr : m.bias.data();
  return m.view;
}

std::vector<double> doubles(const std::vector<float>& x) {
  return {x.begin(), x.end()};
}

// (count, rows)
std::vector<double> times(const Matrix& m, const std::vector<double>& x) {
  const int64_t rows = m.view.rows, columns = m.view.columns,
                count = static_cast<int64_t>(x.size()) / columns;
  std::vector<double> y;
  for (int64_t n = 0; n < count; ++n)
    for (int64_t r = 0; r < rows; ++r) {
      double sum = m.exact_bias[r];
      for (int64_t i = 0; i < columns; ++i) sum += m.exact[r * columns + i] * x[n * columns + i];
      y.push_back(sum);
    }
  return y;
}

std::vector<double> normalized(const DecodeNorm& norm,
                               const std::vector<float>& x,
                               int64_t columns) {
  std::vector<double> y;
  for (size_t row = 0; row < x.size(); row += columns) {
    double mean = 0, square = 0;
    for (int64_t i = 0; i < columns; ++i) mean += x[row + i] / static_cast<double>(columns);
    if (norm.is_rms) mean = 0;
    for (int64_t i = 0; i < columns; ++i)
      square += (x[row + i] - mean) * (x[row + i] - mean) / static_cast<double>(columns);
    for (int64_t i = 0; i < columns; ++i)
      y.push_back((x[row + i] - mean) / std::sqrt(square + norm.eps) * norm.weight[i] +
                  (norm.bias ? norm.bias[i] : 0));
  }
  return y;
}

double gelu(double x) {
  return x * std::erfc(-x / std::sqrt(2.0)) / 2;
}
std::vector<double> swiglu(const std::vector<double>& gate_up, int64_t F) {
  std::vector<double> y;
  for (size_t row = 0; row < gate_up.size(); row += 2 * F)
    for (int64_t i = 0; i < F; ++i)
      y.push_back(gate_up[row + i] / (1 + std::exp(-gate_up[row + i])) * gate_up[row + F + i]);
  return y;
}

constexpr WeightType kTypes[] = {WeightType::kF32, WeightType::kBf16, WeightType::kQ8};
constexpr double kTolerance = 3e-6, kUnit = 10;  // of sums of up to 2000 products of about 1

void expect_product(WeightType type, int64_t rows, int64_t columns, int64_t count) {
  SCOPED_TRACE(testing::Message() << "type " << static_cast<int>(type) << ", " << rows << " x "
                                  << columns << ", " << count << " vectors");
  Matrix m = random_matrix(type, rows, columns, rows % 2 == 1, 1);
  const auto x = random_array<float>(count * columns, 2);
  std::vector<float> y(static_cast<size_t>(count * rows), NAN);
  DecodeProduct product;
  product.w = point(m);
  product.x = x.data();
  product.y = y.data();
  decode_product(count, product);
  expect_close(y, times(m, doubles(x)), kTolerance, kUnit);
}

TEST(CudaDecodeProduct, TakesAnyShapeAndAnyNumberOfVectors) {
  for (const WeightType type : kTypes)
    for (const int64_t columns : {1, 7, 33, 32, 96, 1000, 1024, 2080}) {
      if (type == WeightType::kQ8 && columns % 32 != 0) continue;
      for (const int64_t count : {1, 2, 3, 8}) expect_product(type, 5, columns, count);
    }
}

TEST(CudaDecodeProduct, BlocksTakeSeveralTurnsAndStreamsSeveralLaunches) {
  for (const WeightType type : kTypes)
    for (const int64_t count : {1, 4, 11, 19}) expect_product(type, 403, 64, count);
  expect_product(WeightType::kBf16, 403, 33, 3);
}

TEST(CudaDecodeProduct, TakesTheNormInFront) {
  for (const WeightType type : kTypes)
    for (const int64_t columns : {20, 96, 800})
      for (const int64_t count : {1, 2, 3, 8, 9})
        for (const bool is_rms : {true, false}) {
          if (type == WeightType::kQ8 && columns % 32 != 0) continue;
          SCOPED_TRACE(testing::Message() << columns << " columns, " << count << " vectors");
          Matrix m = random_matrix(type, 13, columns, !is_rms, 1);
          auto x = random_array<float>(count * columns, 2);
          for (float& value : x) value = 3 * value + 5;  // a mean that matters
          const auto weight = random_array<float>(columns, 3),
                     bias = random_array<float>(columns, 4);
          std::vector<float> y(static_cast<size_t>(count * 13), NAN);
          DecodeProduct product;
          product.w = point(m);
          product.x = x.data();
          product.y = y.data();
          product.norm = {weight.data(), is_rms ? nullptr : bias.data(), is_rms, 0.5f};
          decode_product(count, product);
          expect_close(y, times(m, normalized(product.norm, x, columns)), kTolerance, kUnit);
        }
}

TEST(CudaDecodeProduct, AppliesTheActivation) {
  for (const int64_t count : {1, 3, 8})
    for (const int64_t F : {1, 21, 130}) {
      SCOPED_TRACE(testing::Message() << F << ", " << count << " vectors");
      Matrix m = random_matrix(WeightType::kBf16, 2 * F, 40, true, 1);
      const auto x = random_array<float>(count * 40, 2, 0.3);
      DecodeProduct product;
      product.w = point(m);
      product.x = x.data();
      const std::vector<double> sums = times(m, doubles(x));

      std::vector<float> y(static_cast<size_t>(count * 2 * F), NAN);
      product.y = y.data();
      product.epilogue = DecodeEpilogue::kGelu;
      decode_product(count, product);
      std::vector<double> want;
      for (const double sum : sums) want.push_back(gelu(sum));
      expect_close(y, want, kTolerance, kUnit);

      y.assign(static_cast<size_t>(count * F), NAN);
      product.epilogue = DecodeEpilogue::kSwiglu;
      decode_product(count, product);
      expect_close(y, swiglu(sums, F), kTolerance, kUnit);
    }
}

// Attention's and the MLP's matrix of a parallel residual; 1600 columns are shared by several
// warps.
TEST(CudaDecodeProduct, AddsOneOrTwoProductsToTheResidual) {
  for (const WeightType type : kTypes)
    for (const int64_t count : {1, 3, 8})
      for (const int64_t columns : {20, 96, 1600}) {
        if (type == WeightType::kQ8 && columns % 32 != 0) continue;
        SCOPED_TRACE(testing::Message() << columns << " columns, " << count << " vectors");
        Matrix a = random_matrix(type, 7, columns, true, 1),
               b = random_matrix(type, 7, 64, true, 3);
        const auto x = random_array<float>(count * columns, 5),
                   also_x = random_array<float>(count * 64, 6),
                   before = random_array<float>(count * 7, 7);
        DecodeProduct product;
        product.w = point(a);
        product.x = x.data();
        product.epilogue = DecodeEpilogue::kAdd;
        std::vector<double> want = times(a, doubles(x));
        for (size_t i = 0; i < want.size(); ++i) want[i] += before[i];
        auto y = before;
        product.y = y.data();
        decode_product(count, product);
        expect_close(y, want, kTolerance, kUnit);

        product.also = point(b);
        product.also_x = also_x.data();
        const std::vector<double> other = times(b, doubles(also_x));
        for (size_t i = 0; i < want.size(); ++i) want[i] += other[i];
        y = before;
        decode_product(count, product);
        expect_close(y, want, kTolerance, kUnit);
      }
}

TEST(CudaDecodeProduct, TwoProductsSideBySide) {
  for (const int64_t count : {1, 5}) {
    Matrix a = random_matrix(WeightType::kBf16, 150, 80, true, 1),
           b = random_matrix(WeightType::kBf16, 31, 80, false, 2);
    const auto x = random_array<float>(count * 80, 3), weight = random_array<float>(80, 4),
               other_weight = random_array<float>(80, 5), bias = random_array<float>(80, 6);
    std::vector<float> y(static_cast<size_t>(count * 150), NAN),
        other_y(static_cast<size_t>(count * 31), NAN);
    DecodeProduct first, second;
    first.w = point(a);
    second.w = point(b);
    first.x = second.x = x.data();
    first.y = y.data();
    second.y = other_y.data();
    first.norm = {weight.data(), nullptr, false, 1e-5f};
    second.norm = {other_weight.data(), bias.data(), false, 1e-5f};
    second.epilogue = DecodeEpilogue::kGelu;
    decode_products(count, first, second);
    expect_close(y, times(a, normalized(first.norm, x, 80)), kTolerance, kUnit);
    std::vector<double> want = times(b, normalized(second.norm, x, 80));
    for (double& value : want) value = gelu(value);
    expect_close(other_y, want, kTolerance, kUnit);
  }
}

TEST(CudaDecodeProduct, RefusesWhatItCannotDo) {
  Matrix m = random_matrix(WeightType::kF32, 2, 20000, false, 1),
         other = random_matrix(WeightType::kF32, 3, 4, false, 1),
         odd = random_matrix(WeightType::kQ8, 2, 48, false, 1);
  const std::vector<float> x(20000), weight(20000);
  std::vector<float> y(4);
  DecodeProduct product;
  product.w = point(m);
  product.x = x.data();
  product.y = y.data();
  product.norm.weight = weight.data();
  EXPECT_THROW(decode_product(1, product), std::invalid_argument);  // too much for shared memory
  product.norm.weight = nullptr;
  EXPECT_NO_THROW(decode_product(1, product));
  product.also = point(other);
  EXPECT_THROW(decode_product(1, product), std::invalid_argument);  // other rows
  DecodeProduct blocks;
  blocks.w = point(odd);
  blocks.x = x.data();
  blocks.y = y.data();
  EXPECT_THROW(decode_product(1, blocks), std::invalid_argument);
  EXPECT_THROW(decode_products(1, product, blocks), std::invalid_argument);  // other types
}

struct Heads {
  int64_t H, G, K, rotary;
};
struct Cache {
  int64_t sinks, recent, origin;
};

std::vector<double> frequencies_of(int64_t half) {
  std::vector<double> f;
  for (int64_t i = 0; i < half; ++i)
    f.push_back(std::pow(100.0, -static_cast<double>(i) / static_cast<double>(half)));
  return f;
}

std::vector<double> rotated(const float* x, int64_t K, int64_t half, int64_t position) {
  const std::vector<double> frequencies = frequencies_of(half);
  std::vector<double> y(x, x + K);
  for (int64_t i = 0; i < half; ++i) {
    const double angle = static_cast<double>(position) * frequencies[i];
    y[i] = x[i] * std::cos(angle) - x[half + i] * std::sin(angle);
    y[half + i] = x[half + i] * std::cos(angle) + x[i] * std::sin(angle);
  }
  return y;
}

// A stream with all its tokens, (T, (H + 2G) K), and the definition: what token t attends to, with
// nothing cached. Keys and values are rounded as the cache rounds them.
template <class Float>
struct Stream {
  Heads heads;
  Cache cache;
  std::vector<float> qkv, logit;

  const float* row(int64_t t, int64_t head) const {
    return qkv.data() + (t * (heads.H + 2 * heads.G) + head) * heads.K;
  }
  std::vector<double> attended(int64_t t, int64_t h) const {
    const int64_t g = h / (heads.H / heads.G), half = heads.rotary / 2, K = heads.K,
                  S = cache.sinks;
    double sum = logit.empty() ? 0 : std::exp(logit[h]);
    std::vector<double> out(static_cast<size_t>(K));
    for (int64_t j = 0; j <= t; ++j) {
      const bool sink = j < S;
      if (!sink && j < t - cache.recent) continue;
      const int64_t at = sink ? std::min(t, S + cache.recent) : t + cache.origin;
      const std::vector<double> q = rotated(row(t, h), K, half, at),
                                k = rotated(
                                    row(j, heads.H + g), K, half, sink ? j : j + cache.origin);
      const float* v = row(j, heads.H + heads.G + g);
      double score = 0;
      for (int64_t i = 0; i < K; ++i) score += q[i] * to_double(from_double<Float>(k[i]));
      const double weight = std::exp(score / std::sqrt(static_cast<double>(K)));
      sum += weight;
      for (int64_t i = 0; i < K; ++i) out[i] += weight * to_double(from_double<Float>(v[i]));
    }
    for (double& x : out) x /= sum;
    return out;
  }
};

// Streams of the same model with caches of their own, stepped together; layer 1 of 2 is tested.
template <class Float>
class Streams {
 public:
  Streams(const Heads& heads, const std::vector<Cache>& caches, int64_t T, bool has_logit)
      : heads_(heads), frequencies_(frequencies_of(heads.rotary / 2)) {
    if (has_logit) logit_ = random_array<float>(heads.H, 9);
    const int64_t N = static_cast<int64_t>(caches.size()),
                  width = (heads.H + 2 * heads.G) * heads.K;
    for (const Cache& c : caches) {
      const int64_t slots = c.sinks + c.recent + 1, size = 2 * heads.G * slots * heads.K;
      streams_.push_back({heads, c, random_array<float>(T * width, streams_.size()), logit_});
      keys_.emplace_back(static_cast<size_t>(size), from_double<Float>(NAN));  // nobody reads these
      values_.push_back(keys_.back());
      DecodeState state;
      state.origin = c.origin;
      state.sinks = c.sinks;
      state.recent = c.recent;
      state.keys = keys_.back().data();
      state.values = values_.back().data();
      states_.push_back(state);
      attention_.most_slots = std::max(attention_.most_slots, slots);
    }
    angles_.resize(static_cast<size_t>(N * 2 * std::max<int64_t>(heads.rotary, 1)));
    out_.resize(static_cast<size_t>(N * heads.H * heads.K));
    attention_.H = heads.H;
    attention_.G = heads.G;
    attention_.K = heads.K;
    attention_.rotary = heads.rotary;
    attention_.cache = std::is_same_v<Float, float> ? WeightType::kF32 : WeightType::kBf16;
    attention_.angles = angles_.data();
    attention_.out = out_.data();
    scratch_.resize(static_cast<size_t>(decode_attention_scratch(N, attention_) / 8 + 1));
    attention_.scratch = scratch_.data();
  }

  // Token t of every stream.
  void step(int64_t t) {
    const DecodeBatch batch{static_cast<int64_t>(states_.size()), states_.data()};
    const std::vector<float> table(1);
    std::vector<float> hs(states_.size());
    decode_begin(batch,
                 {WeightType::kF32, table.data(), 1, heads_.rotary / 2, frequencies_.data()},
                 hs.data(),
                 angles_.data());
    const int64_t width = (heads_.H + 2 * heads_.G) * heads_.K;
    std::vector<float> qkv;
    for (const auto& s : streams_) qkv.insert(qkv.end(), s.row(t, 0), s.row(t, 0) + width);
    attention_.qkv = qkv.data();
    std::fill(out_.begin(), out_.end(), NAN);
    decode_attention(batch, attention_, 1, logit_.empty() ? nullptr : logit_.data());
    decode_advance(batch);
  }

  void expect_definition(int64_t t) const {
    std::vector<double> want;
    for (const auto& s : streams_)
      for (int64_t h = 0; h < heads_.H; ++h) {
        const std::vector<double> of_head = s.attended(t, h);
        want.insert(want.end(), of_head.begin(), of_head.end());
      }
    // a key may round the other way
    const double tolerance = std::is_same_v<Float, float> ? 5e-6 : 2e-3;
    expect_close(out_, want, tolerance, 1);
    for (size_t n = 0; n < keys_.size(); ++n)
      for (size_t i = 0; i < keys_[n].size() / 2; ++i)  // layer 0
        ASSERT_TRUE(std::isnan(to_double(keys_[n][i])) && std::isnan(to_double(values_[n][i])));
  }

 private:
  Heads heads_;
  std::vector<double> frequencies_;
  std::vector<float> logit_, angles_, out_;
  std::vector<Stream<Float>> streams_;
  std::vector<std::vector<Float>> keys_, values_;
  std::vector<DecodeState> states_;
  std::vector<int64_t> scratch_;
  DecodeAttention attention_;
};

template <class Float>
using CudaDecodeAttention = KernelTest<Float>;
TYPED_TEST_SUITE(CudaDecodeAttention, KernelTypes);

TYPED_TEST(CudaDecodeAttention, StreamsThroughCachesThatWrap) {
  constexpr int64_t kTokens = 29, kFar = (int64_t{1} << 22) + 12345;
  for (const Heads& heads : {Heads{2, 2, 16, 16},
                             Heads{4, 2, 64, 32},  // partial rotary, grouped queries
                             Heads{3, 1, 20, 6},   // rows that are no packs
                             Heads{2, 1, 8, 0},    // nothing rotates
                             Heads{1, 1, 256, 64},
                             Heads{1, 1, 5, 2}})
    for (const bool has_logit : {false, true}) {
      SCOPED_TRACE(testing::Message() << heads.H << " heads of " << heads.K);
      Streams<TypeParam> streams(
          heads, {{0, 7, 0}, {1, 1, kFar}, {4, 6, 3}, {30, 5, 0}}, kTokens, has_logit);
      for (int64_t t = 0; t < kTokens; ++t) {
        SCOPED_TRACE(testing::Message() << "token " << t);
        streams.step(t);
        streams.expect_definition(t);
        if (this->HasFatalFailure()) return;
      }
    }
}

// 64 slots or more a block; 4400 slots are two rounds of them.
TYPED_TEST(CudaDecodeAttention, BlocksShareLongCaches) {
  constexpr int64_t kTokens = 230;
  Streams<TypeParam> streams(
      {2, 1, 32, 16}, {{4, 180, 0}, {0, 100, 77}, {1, 4399, 0}}, kTokens, true);
  for (int64_t t = 0; t < kTokens; ++t) {
    SCOPED_TRACE(testing::Message() << "token " << t);
    streams.step(t);
    const bool is_edge = t % 64 < 2 || t > 225 || t % 50 == 3;
    if (is_edge) streams.expect_definition(t);
    if (this->HasFatalFailure()) return;
  }
}

TYPED_TEST(CudaDecodeAttention, BlocksShareCachesOfShortHeads) {
  Streams<TypeParam> streams({1, 1, 8, 8}, {{2, 130, 0}}, 150, false);
  for (int64_t t = 0; t < 150; ++t) {
    streams.step(t);
    if (t % 30 == 5) streams.expect_definition(t);
  }
}

TEST(CudaDecodeAttention, RefusesLongHeads) {
  DecodeAttention attention;
  attention.H = attention.G = 1;
  attention.K = 264;
  EXPECT_THROW(decode_attention({}, attention, 0, nullptr), std::invalid_argument);
}

template <class Float>
using CudaDecodeBegin = KernelTest<Float>;
TYPED_TEST_SUITE(CudaDecodeBegin, KernelTypes);

TYPED_TEST(CudaDecodeBegin, LooksUpTheTokenAndTurnsByThePosition) {
  constexpr int64_t D = 300, half = 40;
  const auto table = random_array<TypeParam>(7 * D, 1);
  const std::vector<double> frequencies = frequencies_of(half);
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
    const int64_t N = 4;
    auto logits = random_array<float>(N * V, 1);
    const auto set = [&](int64_t n, int64_t id, float value) { logits[n * V + id] = value; };
    for (const int64_t id : {V / 3, V / 2, V - 1}) set(0, id, 9);
    for (int64_t id = 0; id < V; ++id) {
      set(1, id, id == V / 2 ? -0.0f : id > V / 2 ? 0.0f : -1.0f);  // equal
      set(2, id, -INFINITY);
      set(3, id, -3 - std::abs(logits[3 * V + id]));
    }
    set(3, V - 1, -2.5f);
    const std::vector<int64_t> want = {V / 3, V / 2, 0, V - 1};

    std::vector<DecodeState> states(static_cast<size_t>(N));
    for (int64_t n = 0; n < N; ++n) {
      states[n].start = 10 * n;
      states[n].position = 10 * n + 1;
    }
    std::vector<int64_t> output(static_cast<size_t>(3 * N), -1);
    std::vector<int64_t> scratch(static_cast<size_t>(decode_greedy_scratch(N) / 8 + 1));
    for (int64_t step = 1; step < 5; ++step) {  // the output wraps; the scratch serves again
      decode_greedy({N, states.data()}, {V, logits.data(), 3, output.data(), scratch.data()});
      for (int64_t n = 0; n < N; ++n) {
        EXPECT_EQ(states[n].token, want[n]) << V << ", stream " << n;
        EXPECT_EQ(states[n].position, 10 * n + 1 + step);
        EXPECT_EQ(output[3 * n + step % 3], want[n]);
        output[3 * n + step % 3] = -1;
        EXPECT_EQ(std::count(output.begin(), output.begin() + 3 * (n + 1), -1), 3 * (n + 1));
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
