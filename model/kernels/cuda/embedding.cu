// Scatter-add of gradient rows into the embedding table, without atomics: rows are sorted by id,
// and each run of one id is summed in the order of the rows. Runs are cut into chunks, so that a
// very frequent id keeps many blocks busy; the sums of its pieces are added up afterwards, in
// order. Nothing here waits for the device: the number of launches and their sizes depend on n and
// D only.
#include <limits>

#include "model/kernels/cuda/packs.cuh"

#ifdef __CUDACC__
#include <cub/device/device_radix_sort.cuh>
#else
#include <algorithm>
#include <numeric>
#endif

namespace basin::kernels {

namespace {

constexpr int kThreads = 256;
constexpr int kChunk = 32;  // rows
constexpr int kBatch = 4;   // rows that a thread has under way at once

/// Rows by id, and in their order within each id.
struct SortedRows {
  uint32_t *ids, *rows;  // (n)
};

template <class Float>
struct EmbeddingGradient {
  int64_t n, D;
  SortedRows sorted;
  const Float* dy;
  float* dweight;
  float* parts;  // (chunks, 2, D): sums of the run that comes from the chunk before, and of the run
                 // that begins here and goes on in the next
};

__global__ void number_rows(int64_t n, const int64_t* ids, SortedRows unsorted) {
  const int64_t i = first_element<1>();
  if (i >= n) return;
  unsorted.ids[i] = static_cast<uint32_t>(ids[i]);
  unsorted.rows[i] = static_cast<uint32_t>(i);
}

void stable_sort_by_id(int64_t n, const SortedRows& from, const SortedRows& to) {
#ifdef __CUDACC__
  const auto sort = [&](void* space, size_t& bytes) {
    check(cub::DeviceRadixSort::SortPairs(space,
                                          bytes,
                                          from.ids,
                                          to.ids,
                                          from.rows,
                                          to.rows,
                                          static_cast<int>(n),
                                          0,
                                          32,
                                          current_stream()));
  };
  size_t bytes = 0;
  sort(nullptr, bytes);  // says how much it needs
  const Scratch space(static_cast<int64_t>(bytes));
  sort(space.as<void>(), bytes);
#else
  std::iota(to.rows, to.rows + n, 0u);
  std::stable_sort(
      to.rows, to.rows + n, [&](uint32_t a, uint32_t b) { return from.ids[a] < from.ids[b]; });
  for (int64_t i = 0; i < n; ++i) to.ids[i] = from.ids[to.rows[i]];
#endif
}

template <int kWidth>
__device__ void add_to(float* to, const float (&sum)[kWidth]) {
  float total[kWidth];
  load(to, total);
  for (int j = 0; j < kWidth; ++j) total[j] += sum[j];
  store(total, to);
}

// The sum of the chunk's rows of one id goes to the table if the whole run lies in the chunk.
template <int kWidth, class Float>
__device__ void put_sum(const EmbeddingGradient<Float>& a,
                        uint32_t id,
                        int64_t column,
                        const float (&sum)[kWidth]) {
  const int64_t chunk = blockIdx.x, begin = chunk * kChunk, end = begin + kChunk;
  const bool comes = begin > 0 && a.sorted.ids[begin - 1] == id,
             goes_on = end < a.n && a.sorted.ids[end] == id;
  if (comes || goes_on)
    store(sum, a.parts + (2 * chunk + (comes ? 0 : 1)) * a.D + column);
  else
    add_to(a.dweight + id * a.D + column, sum);
}

template <int kWidth, class Float>
__global__ void __launch_bounds__(kThreads) add_chunk(EmbeddingGradient<Float> a) {
  const int64_t begin = int64_t{blockIdx.x} * kChunk,
                end = begin + kChunk < a.n ? begin + kChunk : a.n;
  for (int64_t column = int64_t{threadIdx.x} * kWidth; column < a.D;
       column += int64_t{blockDim.x} * kWidth) {
    float sum[kWidth] = {};
    for (int64_t first = begin; first < end; first += kBatch) {
      float rows[kBatch][kWidth];
      for (int b = 0; b < kBatch; ++b)
        if (first + b < end) load(a.dy + a.sorted.rows[first + b] * a.D + column, rows[b]);
      for (int b = 0; b < kBatch; ++b) {
        const int64_t k = first + b;
        if (k >= end) break;
        for (int j = 0; j < kWidth; ++j) sum[j] += rows[b][j];
        const uint32_t id = a.sorted.ids[k];
        if (k + 1 < end && a.sorted.ids[k + 1] == id) continue;
        put_sum(a, id, column, sum);
        for (int j = 0; j < kWidth; ++j) sum[j] = 0;
      }
    }
  }
}

// The end of the run of `id` that goes on at `begin`.
__device__ inline int64_t run_end(const uint32_t* ids, int64_t begin, int64_t n, uint32_t id) {
  int64_t end = n;
  while (begin < end) {
    const int64_t middle = begin + (end - begin) / 2;
    if (ids[middle] == id)
      begin = middle + 1;
    else
      end = middle;
  }
  return end;
}

// A block for each chunk; there is work where a run begins that goes on in the next chunk.
template <int kWidth, class Float>
__global__ void __launch_bounds__(kThreads) add_cut_run(EmbeddingGradient<Float> a) {
  const int64_t chunk = blockIdx.x, begin = chunk * kChunk, end = begin + kChunk;
  const uint32_t* ids = a.sorted.ids;
  if (end >= a.n || ids[end] != ids[end - 1]) return;
  const uint32_t id = ids[end];
  if (begin > 0 && ids[begin - 1] == id) return;  // another chunk's
  const int64_t last_chunk = (run_end(ids, end, a.n, id) - 1) / kChunk;
  for (int64_t column = int64_t{threadIdx.x} * kWidth; column < a.D;
       column += int64_t{blockDim.x} * kWidth) {
    float sum[kWidth], part[kWidth];
    load(a.parts + (2 * chunk + 1) * a.D + column, sum);
    for (int64_t next = chunk + 1; next <= last_chunk; ++next) {
      load(a.parts + 2 * next * a.D + column, part);
      for (int j = 0; j < kWidth; ++j) sum[j] += part[j];
    }
    add_to(a.dweight + id * a.D + column, sum);
  }
}

}  // namespace

template <class Float>
void embedding_backward(int64_t n, int64_t D, const int64_t* ids, const Float* dy, float* dweight) {
  if (n == 0) return;
  if (n > std::numeric_limits<int>::max())
    throw std::length_error("embedding_backward: " + std::to_string(n) + " rows, at most 2^31 - 1");
  const int64_t chunks = blocks_for(n, kChunk), word = sizeof(uint32_t);
  const Scratch numbers(4 * n * word), parts(2 * chunks * D * word);
  uint32_t* at = numbers.as<uint32_t>();
  const SortedRows unsorted{at, at + n}, sorted{at + 2 * n, at + 3 * n};
  launch(&number_rows, dim3(blocks_for(n, kThreads)), dim3(kThreads), 0, n, ids, unsorted);
  stable_sort_by_id(n, unsorted, sorted);
  const EmbeddingGradient<Float> a{n, D, sorted, dy, dweight, parts.as<float>()};
  with_width<Float>(packable<Float>(D, dy, dweight), [&](auto width) {
    const dim3 threads(threads_for(blocks_for(D, width), kThreads));
    launch(&add_chunk<width(), Float>, dim3(chunks), threads, 0, a);
    launch(&add_cut_run<width(), Float>, dim3(chunks), threads, 0, a);
  });
}

template decltype(embedding_backward<float>) embedding_backward<float>;
template decltype(embedding_backward<Bf16>) embedding_backward<Bf16>;

}  // namespace basin::kernels
