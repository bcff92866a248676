// Blocked product after Goto and van de Geijn (Anatomy of High-Performance Matrix Multiplication,
// 2008). Both operands are repacked into panels that a register tile of c reads in order. The
// operand with fewer rows is packed once for all threads; of the other, each thread packs as many
// panels as fit its second cache and multiplies them with all of the first. What differs between
// instruction sets is in GemmKernel.
#include "model/kernels/gemm.h"

#include <cpuid.h>

#include <algorithm>
#include <cstring>

#include "model/kernels/cpu/bf16_instruction.h"
#include "model/kernels/cpu/gemm_kernel.h"
#include "model/kernels/cpu/parallel.h"

namespace basin::kernels {
namespace {

constexpr int64_t kPacked =
    2 << 20;  // bytes that are packed at once: wide pieces of each row of a transposed operand

// How a product is cut.
struct Cut {
  int64_t tile;                  // elements
  int64_t depths, depth, words;  // runs of depth, elements and words of one
  int64_t row_panels, column_panels;
  bool own_rows;  // threads share b and pack panels of a for themselves, or the reverse
  int64_t shared_panel_words, own_panel_words;

  Cut(const GemmKernel& kernel, int64_t M, int64_t N, int64_t K)
      : tile(kernel.rows * kernel.columns),
        depths(ceil_div(K, kernel.most_depth)),
        depth(ceil_div(ceil_div(K, depths), kernel.pair) * kernel.pair),
        words(depth / kernel.pair),
        row_panels(ceil_div(M, kernel.rows)),
        column_panels(ceil_div(N, kernel.columns)),
        own_rows(N <= M),
        shared_panel_words(words * (own_rows ? kernel.columns : kernel.rows)),
        own_panel_words(words * (own_rows ? kernel.rows : kernel.columns)) {}

  int64_t shared_panels() const { return own_rows ? column_panels : row_panels; }
  int64_t own_panels() const { return own_rows ? row_panels : column_panels; }
  int64_t sums() const { return depths > 1 ? row_panels * column_panels * tile : 0; }

  /// Words of the shared panels; what comes after them begins a cache line.
  int64_t shared_words() const { return ceil_div(shared_panels() * shared_panel_words, 16) * 16; }
};

// One of `threads` that run a product together.
class Worker {
 public:
  Worker(const GemmKernel& kernel,
         const Gemm& call,
         const Cut& cut,
         float* workspace,
         int64_t thread,
         int64_t threads)
      : kernel_(kernel),
        call_(call),
        cut_(cut),
        shared_(reinterpret_cast<uint32_t*>(workspace)),
        sums_(workspace + cut.shared_words()),
        thread_(thread),
        threads_(threads) {}

  // Packs this thread's part of what all share, for run `d` of the depth.
  void pack_shared(int64_t d) const {
    const int64_t begin = share(cut_.shared_panels(), thread_),
                  end = share(cut_.shared_panels(), thread_ + 1);
    pack_panels(!cut_.own_rows, begin, end, d, shared_ + begin * cut_.shared_panel_words);
  }

  // Multiplies this thread's part of the other operand with all of it.
  void multiply_own(int64_t d) const {
    const int64_t begin = share(cut_.own_panels(), thread_),
                  end = share(cut_.own_panels(), thread_ + 1);
    for_blocks(begin, end, kPacked, [&](int64_t first_packed, int64_t last_packed) {
      uint32_t* own =
          scratch<Line>((last_packed - first_packed) * cut_.own_panel_words / 16 + 1)->words;
      pack_panels(cut_.own_rows, first_packed, last_packed, d, own);
      for_blocks(first_packed, last_packed, kernel_.cache, [&](int64_t from, int64_t to) {
        for (int64_t s = 0; s < cut_.shared_panels(); ++s)
          for (int64_t o = from; o < to; ++o)
            multiply_tile(d,
                          s,
                          o,
                          shared_ + s * cut_.shared_panel_words,
                          own + (o - first_packed) * cut_.own_panel_words);
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
    const int64_t fit = std::max<int64_t>(1, bytes / 4 / cut_.own_panel_words),
                  blocks = ceil_div(end - begin, fit);
    for (int64_t block = 0; block < blocks; ++block)
      body(begin + (end - begin) * block / blocks, begin + (end - begin) * (block + 1) / blocks);
  }

  int64_t share(int64_t panels, int64_t thread) const { return panels * thread / threads_; }
  int64_t depth_of(int64_t d) const { return std::min(cut_.depth, call_.K - d * cut_.depth); }

  void pack_panels(bool of_a, int64_t begin, int64_t end, int64_t d, uint32_t* to) const {
    const Panels panels{
        of_a ? call_.M : call_.N, begin, end, d * cut_.depth, depth_of(d), cut_.words};
    if (of_a) {
      kernel_.pack_a(call_.a, panels, to);
    } else {
      kernel_.pack_b(call_.b, panels, to);
    }
  }

  void multiply_tile(int64_t d,
                     int64_t shared_panel,
                     int64_t own_panel,
                     const uint32_t* shared,
                     const uint32_t* own) const {
    const int64_t i = cut_.own_rows ? own_panel : shared_panel,
                  j = cut_.own_rows ? shared_panel : own_panel;
    const int64_t row = i * kernel_.rows, column = j * kernel_.columns,
                  words = ceil_div(depth_of(d), kernel_.pair);
    const uint32_t *a = cut_.own_rows ? own : shared, *b = cut_.own_rows ? shared : own;
    const bool last = d + 1 == cut_.depths;
    // c is fetched while the tile is summed.
    for (int64_t r = row; last && r < std::min(call_.M, row + kernel_.rows); ++r)
      __builtin_prefetch(call_.c + r * call_.N + column, 1);
    if (cut_.depths == 1 && call_.bias == nullptr && row + kernel_.rows <= call_.M &&
        column + kernel_.columns <= call_.N)
      return kernel_.multiply_to_c(a, b, words, call_.N, call_.c + row * call_.N + column);
    alignas(64) float tile[kLargestTile];
    kernel_.multiply(a, b, words, tile);
    float* sums = sums_ + (i * cut_.column_panels + j) * cut_.tile;
    if (d > 0)
      for (int64_t n = 0; n < cut_.tile; ++n) tile[n] += sums[n];
    if (last) {
      kernel_.finish(call_, row, column, tile);
    } else {
      std::memcpy(sums, tile, static_cast<size_t>(cut_.tile) * sizeof(float));
    }
  }

  const GemmKernel& kernel_;
  const Gemm& call_;
  const Cut& cut_;
  uint32_t* shared_;  // (shared panels, words, rows of a panel), of one run of the depth
  float* sums_;       // tiles of the runs before; nothing where there is one
  int64_t thread_, threads_;
};

}  // namespace

bool has_gemm() {
  static const bool amx_bf16 = [] {
    unsigned a = 0, b = 0, c = 0, d = 0;
    return __get_cpuid_count(7, 0, &a, &b, &c, &d) != 0 && (d >> 22 & 1) != 0;
  }();
  return __builtin_cpu_supports("avx512bw") ? has_bf16_instruction && !amx_bf16 : true;
}

int64_t gemm_workspace(int64_t M, int64_t N, int64_t K) {
  const Cut cut(gemm_kernel(), M, N, K);
  return cut.shared_words() + cut.sums();
}

void gemm(const Gemm& call, float* workspace) {
  const GemmKernel kernel = gemm_kernel();
  const Cut cut(kernel, call.M, call.N, call.K);
  const auto work = [&](int64_t thread, int64_t threads, const auto& wait) {
    const Worker worker(kernel, call, cut, workspace, thread, threads);
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
