// Blocked product after Goto and van de Geijn (Anatomy of High-Performance Matrix Multiplication,
// 2008). Both operands are repacked into panels that a register tile of c reads in order: 14 rows
// of a, 32 of b, each word a pair of neighbours in depth, as vdpbf16ps takes them. The operand with
// fewer rows is packed once for all threads; of the other, each thread packs as many panels as fit
// its second cache and multiplies them with all of the first.
#include "model/kernels/gemm.h"

#include <cpuid.h>
#include <immintrin.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "model/kernels/cpu/bf16_instruction.h"
#include "model/kernels/cpu/parallel.h"

namespace basin::kernels {
namespace {

constexpr int64_t kRows = 14;  // of a tile: 28 sums, two vectors of b and one of a are 31 registers
constexpr int64_t kColumns = 32;
constexpr int64_t kTile = kRows * kColumns;
constexpr int64_t kMostDepth = 4608;  // summed in registers at once
constexpr int64_t kCache =
    448 << 10;  // bytes of a thread's own panels in use at once, of a second cache of 1 MiB
constexpr int64_t kAhead = 16;  // rows that are fetched before they are packed or multiplied
constexpr int64_t kPacked =
    2 << 20;  // bytes that it packs at once: wide pieces of each row of a transposed operand

int64_t ceil_div(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

// How a product is cut.
struct Cut {
  int64_t depths, depth, words;  // runs of depth, elements and words of one
  int64_t row_panels, column_panels;
  bool own_rows;  // threads share b and pack panels of a for themselves, or the reverse

  Cut(int64_t M, int64_t N, int64_t K)
      : depths(ceil_div(K, kMostDepth)),
        depth(ceil_div(ceil_div(K, depths), 2) * 2),
        words(depth / 2),
        row_panels(ceil_div(M, kRows)),
        column_panels(ceil_div(N, kColumns)),
        own_rows(N <= M) {}

  int64_t shared_panels() const { return own_rows ? column_panels : row_panels; }
  int64_t own_panels() const { return own_rows ? row_panels : column_panels; }
  int64_t shared_words() const { return shared_panels() * words * (own_rows ? kColumns : kRows); }
  int64_t own_words() const { return words * (own_rows ? kRows : kColumns); }  // of one panel
  int64_t sums() const { return depths > 1 ? row_panels * column_panels * kTile : 0; }
};

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

// Panels [begin, end) of kWidth rows, `depth` elements from k0 on -> (end - begin, words, kWidth).
// Rows beyond the last are left as they are: they reach only elements of c that do not exist.
template <int64_t kWidth>
void pack(const GemmOperand& x,
          int64_t rows,
          int64_t begin,
          int64_t end,
          int64_t k0,
          int64_t depth,
          int64_t words,
          uint32_t* to) {
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

// The same as one row of c (stride N), for tiles that are whole and want neither a bias nor other
// sums.
void multiply_to_c(const uint32_t* a, const uint32_t* b, int64_t words, int64_t N, Bf16* c) {
  multiply(
      a, b, words, [&](const Sums& sum) __attribute__((always_inline)) {
#pragma GCC unroll 14
        for (int64_t i = 0; i < kRows; ++i)
          _mm512_storeu_si512(c + i * N,
                              reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(sum[i][1], sum[i][0])));
      });
}

void add(const float* from, float* tile) {
  for (int64_t i = 0; i < kTile; i += 16)
    _mm512_store_ps(tile + i, _mm512_add_ps(_mm512_load_ps(tile + i), _mm512_load_ps(from + i)));
}

// The tile at (row, column), with the bias -> c.
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

// One of `threads` that run a product together.
class Worker {
 public:
  Worker(const Gemm& call, const Cut& cut, float* workspace, int64_t thread, int64_t threads)
      : call_(call),
        cut_(cut),
        shared_(reinterpret_cast<uint32_t*>(workspace)),
        sums_(workspace + cut.shared_words()),
        thread_(thread),
        threads_(threads) {}

  // Packs this thread's part of what all share, for run `d` of the depth.
  void pack_shared(int64_t d) const {
    const int64_t begin = share(cut_.shared_panels(), thread_),
                  end = share(cut_.shared_panels(), thread_ + 1);
    pack_panels(!cut_.own_rows, begin, end, d, shared_ + begin * shared_panel_words());
  }

  // Multiplies this thread's part of the other operand with all of it.
  void multiply_own(int64_t d) const {
    const int64_t begin = share(cut_.own_panels(), thread_),
                  end = share(cut_.own_panels(), thread_ + 1);
    for_blocks(begin, end, kPacked, [&](int64_t first_packed, int64_t last_packed) {
      uint32_t* own =
          scratch<Line>((last_packed - first_packed) * cut_.own_words() / 16 + 1)->words;
      pack_panels(cut_.own_rows, first_packed, last_packed, d, own);
      for_blocks(first_packed, last_packed, kCache, [&](int64_t from, int64_t to) {
        for (int64_t s = 0; s < cut_.shared_panels(); ++s)
          for (int64_t o = from; o < to; ++o)
            multiply_tile(d,
                          s,
                          o,
                          shared_ + s * shared_panel_words(),
                          own + (o - first_packed) * cut_.own_words());
      });
    });
  }

 private:
  struct alignas(64) Line {
    uint32_t words[16];
  };

  // body(from, to) over equal parts of own panels that fit in `bytes`.
  template <class Body>
  void for_blocks(int64_t begin, int64_t end, int64_t bytes, const Body& body) const {
    const int64_t fit = std::max<int64_t>(1, bytes / 4 / cut_.own_words()),
                  blocks = ceil_div(end - begin, fit);
    for (int64_t block = 0; block < blocks; ++block)
      body(begin + (end - begin) * block / blocks, begin + (end - begin) * (block + 1) / blocks);
  }

  int64_t shared_panel_words() const { return cut_.shared_words() / cut_.shared_panels(); }
  int64_t share(int64_t panels, int64_t thread) const { return panels * thread / threads_; }
  int64_t depth_of(int64_t d) const { return std::min(cut_.depth, call_.K - d * cut_.depth); }

  void pack_panels(bool of_a, int64_t begin, int64_t end, int64_t d, uint32_t* to) const {
    if (of_a) {
      pack<kRows>(call_.a, call_.M, begin, end, d * cut_.depth, depth_of(d), cut_.words, to);
    } else {
      pack<kColumns>(call_.b, call_.N, begin, end, d * cut_.depth, depth_of(d), cut_.words, to);
    }
  }

  void multiply_tile(int64_t d,
                     int64_t shared_panel,
                     int64_t own_panel,
                     const uint32_t* shared,
                     const uint32_t* own) const {
    const int64_t i = cut_.own_rows ? own_panel : shared_panel,
                  j = cut_.own_rows ? shared_panel : own_panel;
    const int64_t row = i * kRows, column = j * kColumns, words = ceil_div(depth_of(d), 2);
    const uint32_t *a = cut_.own_rows ? own : shared, *b = cut_.own_rows ? shared : own;
    const bool last = d + 1 == cut_.depths;
    // c is fetched while the tile is summed.
    for (int64_t r = row; last && r < std::min(call_.M, row + kRows); ++r)
      __builtin_prefetch(call_.c + r * call_.N + column, 1);
    if (cut_.depths == 1 && call_.bias == nullptr && row + kRows <= call_.M &&
        column + kColumns <= call_.N)
      return multiply_to_c(a, b, words, call_.N, call_.c + row * call_.N + column);
    alignas(64) float tile[kTile];
    multiply_to_tile(a, b, words, tile);
    float* sums = sums_ + (i * cut_.column_panels + j) * kTile;
    if (d > 0) add(sums, tile);
    if (last) {
      finish(call_, row, column, tile);
    } else {
      std::memcpy(sums, tile, sizeof(tile));
    }
  }

  const Gemm& call_;
  const Cut& cut_;
  uint32_t* shared_;  // (shared panels, words, rows of a panel), of one run of the depth
  float* sums_;       // tiles of the runs before; nothing where there is one
  int64_t thread_, threads_;
};

}  // namespace

bool has_gemm() {
  static const bool fits = [] {
    unsigned a = 0, b = 0, c = 0, d = 0;
    const bool amx_bf16 = __get_cpuid_count(7, 0, &a, &b, &c, &d) != 0 && (d >> 22 & 1) != 0;
    return __builtin_cpu_supports("avx512bw") && !amx_bf16;
  }();
  return has_bf16_instruction && fits;
}

int64_t gemm_workspace(int64_t M, int64_t N, int64_t K) {
  const Cut cut(M, N, K);
  return cut.shared_words() + cut.sums();
}

void gemm(const Gemm& call, float* workspace) {
  const Cut cut(call.M, call.N, call.K);
  const auto work = [&](int64_t thread, int64_t threads, const auto& wait) {
    const Worker worker(call, cut, workspace, thread, threads);
    for (int64_t d = 0; d < cut.depths; ++d) {
      worker.pack_shared(d);
      wait();
      worker.multiply_own(d);
      if (d + 1 < cut.depths) wait();
    }
  };
  if (parts_for(call.M * call.N, call.K) == 1) return work(0, 1, [] {});
#pragma omp parallel
  {
    work(omp_get_thread_num(), omp_get_num_threads(), [] {
#pragma omp barrier
    });
  }
}

}  // namespace basin::kernels
