// The panels of a matrix product of bf16 with AVX512-BF16: a word is a pair of neighbours in depth,
// as vdpbf16ps takes them.
#include <immintrin.h>

#include <algorithm>
#include <array>

#include "model/kernels/cpu/gemm_kernel.h"

namespace basin::kernels {
namespace {

constexpr int64_t kRows = 14;  // of a tile: 28 sums, two vectors of b and one of a are 31 registers
constexpr int64_t kColumns = 32;
static_assert(kRows * kColumns <= kLargestTile);
constexpr int64_t kAhead = 16;  // rows that are fetched before they are packed or multiplied

#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,prefetchwt1")

__mmask16 first(int64_t lanes) {
  return static_cast<__mmask16>((1u << lanes) - 1);
}

// 16 rows of 16 words -> the same, transposed.
inline __attribute__((always_inline)) void transpose(__m512i (&r)[16]) {
  __m512i t[16];
  for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
    t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
  }
  for (int i = 0; i < 16; i += 4) {
    r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
    r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
    r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
    r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
  }
  for (int i = 0; i < 4; ++i) {
    t[i] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0x88);
    t[i + 4] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0xdd);
    t[i + 8] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0x88);
    t[i + 12] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0xdd);
  }
  for (int i = 0; i < 8; ++i) {
    r[i] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0x88);
    r[i + 8] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0xdd);
  }
}

// Up to 16 rows whose depth is contiguous -> words (n, kWidth) from `to` on.
template <int64_t kWidth>
void pack_rows(const Bf16* from, int64_t stride, int64_t rows, int64_t depth, uint32_t* to) {
  for (int64_t k = 0; k < depth; k += 32) {
    const int64_t left = std::min<int64_t>(32, depth - k);
    const auto exists = static_cast<__mmask32>(left == 32 ? ~0u : (1u << left) - 1);
    __m512i r[16];
    for (int64_t i = 0; i < 16; ++i)
      r[i] = i < rows ? _mm512_maskz_loadu_epi16(exists, from + i * stride + k)
                      : _mm512_setzero_si512();
    transpose(r);
    for (int64_t i = 0; i < ceil_div(left, 2); ++i)
      _mm512_mask_storeu_epi32(to + (k / 2 + i) * kWidth, first(rows), r[i]);
  }
}

// 0 16 1 17 .. 15 31.
constexpr std::array<uint16_t, 32> kInterleave = [] {
  std::array<uint16_t, 32> order{};
  for (uint16_t i = 0; i < 32; ++i) order[i] = static_cast<uint16_t>(i / 2 + i % 2 * 16);
  return order;
}();

// Neighbours in depth, up to 16 rows of each -> one row of words.
inline __attribute__((always_inline)) void pack_pair(const Bf16* even,
                                                     const Bf16* odd,
                                                     int64_t rows,
                                                     uint32_t* to) {
  const __m256i low = _mm256_maskz_loadu_epi16(first(rows), even);
  const __m256i high =
      odd != nullptr ? _mm256_maskz_loadu_epi16(first(rows), odd) : _mm256_setzero_si256();
  _mm512_mask_storeu_epi32(
      to,
      first(rows),
      _mm512_permutexvar_epi16(_mm512_loadu_si512(kInterleave.data()),
                               _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1)));
}

template <int64_t kWidth>
void pack(const GemmOperand& x, const Panels& panels, uint32_t* to) {
  const auto [rows, begin, end, k0, depth, words] = panels;
  const auto for_strips = [&](int64_t panel, const auto& body) __attribute__((always_inline)) {
    for (int64_t h = 0; h < kWidth; h += 16) {
      const int64_t row = panel * kWidth + h,
                    n = std::min(std::min<int64_t>(16, kWidth - h), rows - row);
      if (n > 0) body(row, n, to + (panel - begin) * words * kWidth + h);
    }
  };
  if (!x.transposed) {
    for (int64_t panel = begin; panel < end; ++panel)
      for_strips(panel, [&](int64_t row, int64_t n, uint32_t* at) {
        pack_rows<kWidth>(x.data + row * x.stride + k0, x.stride, n, depth, at);
      });
    return;
  }
  for (int64_t k = 0; k < depth; k += 2)  // all panels of a pair first: memory is read in its order
    for (int64_t panel = begin; panel < end; ++panel)
      for_strips(panel, [&](int64_t row, int64_t n, uint32_t* at) {
        const Bf16* even = x.data + (k0 + k) * x.stride + row;
        __builtin_prefetch(even + kAhead * x.stride);
        __builtin_prefetch(even + (kAhead + 1) * x.stride);
        pack_pair(even, k + 1 < depth ? even + x.stride : nullptr, n, at + k / 2 * kWidth);
      });
}

using Sums = __m512[kRows][2];

// A panel of a times a panel of b; `use` takes the sums of their tile while they are in registers.
template <class Use>
inline __attribute__((always_inline)) void multiply(const uint32_t* a,
                                                    const uint32_t* b,
                                                    int64_t words,
                                                    const Use& use) {
  Sums sum;
  for (auto& row : sum) row[0] = row[1] = _mm512_setzero_ps();
  for (int64_t w = 0; w < words; ++w) {
    const auto b0 = reinterpret_cast<__m512bh>(_mm512_load_si512(b)),
               b1 = reinterpret_cast<__m512bh>(_mm512_load_si512(b + 16));
    _mm_prefetch(reinterpret_cast<const char*>(b + kAhead * kColumns), _MM_HINT_T0);
    _mm_prefetch(reinterpret_cast<const char*>(b + kAhead * kColumns + 16), _MM_HINT_T0);
#pragma GCC unroll 14
    for (int64_t i = 0; i < kRows; ++i) {
      const auto pair = reinterpret_cast<__m512bh>(_mm512_set1_epi32(static_cast<int>(a[i])));
      sum[i][0] = _mm512_dpbf16_ps(sum[i][0], pair, b0);
      sum[i][1] = _mm512_dpbf16_ps(sum[i][1], pair, b1);
    }
    a += kRows;
    b += kColumns;
  }
  use(sum);
}

void multiply_to_tile(const uint32_t* a, const uint32_t* b, int64_t words, float* tile) {
  multiply(
      a, b, words, [&](const Sums& sum) __attribute__((always_inline)) {
#pragma GCC unroll 14
        for (int64_t i = 0; i < kRows; ++i) {
          _mm512_store_ps(tile + i * kColumns, sum[i][0]);
          _mm512_store_ps(tile + i * kColumns + 16, sum[i][1]);
        }
      });
}

void multiply_to_c(const uint32_t* a, const uint32_t* b, int64_t words, int64_t N, Bf16* c) {
  multiply(
      a, b, words, [&](const Sums& sum) __attribute__((always_inline)) {
#pragma GCC unroll 14
        for (int64_t i = 0; i < kRows; ++i)
          _mm512_storeu_si512(c + i * N,
                              reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(sum[i][1], sum[i][0])));
      });
}

void finish(const Gemm& call, int64_t row, int64_t column, const float* tile) {
  const int64_t rows = std::min(kRows, call.M - row);
  for (int64_t h = 0; h < kColumns && column + h < call.N; h += 16) {
    const __mmask16 exists = first(std::min<int64_t>(16, call.N - column - h));
    __m512 bias = _mm512_setzero_ps();
    if (call.bias != nullptr)
      bias = _mm512_castsi512_ps(_mm512_slli_epi32(
          _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(exists, call.bias + column + h)), 16));
    for (int64_t i = 0; i < rows; ++i)
      _mm256_mask_storeu_epi16(call.c + (row + i) * call.N + column + h,
                               exists,
                               reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(
                                   _mm512_add_ps(_mm512_load_ps(tile + i * kColumns + h), bias))));
  }
}

#pragma GCC pop_options
}  // namespace

GemmKernel gemm_kernel_of_pairs() {
  return {.rows = kRows,
          .columns = kColumns,
          .pair = 2,
          .most_depth = 4608,
          .cache = 448 << 10,  // of a second cache of 1 MiB
          .pack_a = pack<kRows>,
          .pack_b = pack<kColumns>,
          .multiply = multiply_to_tile,
          .multiply_to_c = multiply_to_c,
          .finish = finish};
}

}  // namespace basin::kernels
