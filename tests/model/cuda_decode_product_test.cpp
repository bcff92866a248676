// The products of a decoding step on a GPU against fp64: all weights, norms and epilogues.
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

}  // namespace
}  // namespace basin::kernels
