// RMSNorm and LayerNorm with the residual add in front, a block for a row. The statistics are those
// of h as it is stored, so that backward, which reads h back, differentiates the function that
// forward computed. Global memory is read once: what is needed again waits in shared memory, where
// every thread reads only what it wrote itself. That bounds D: 16384 is fine for bf16, 8192 for
// fp32.
#include "model/kernels/cuda/column_sums.cuh"
#include "model/kernels/cuda/packs.cuh"

namespace basin::kernels {

namespace {

constexpr int kMostThreads = 512;

template <class Float>
struct NormForward {
  int64_t D;
  float eps;
  const Float *x, *delta, *weight, *bias;
  Float *h, *y;
  float* stats;
};

template <class Float>
struct NormBackward {
  int64_t rows, D;
  const Float *h, *weight;
  const float* stats;
  const Float *dy, *dh_in;
  Float* dx;
  float *dweight_parts, *dbias_parts;  // (blocks, D), dbias_parts null without bias
};

// The elements of a row that belong to this thread.
template <int kWidth>
struct Share {
  int64_t first = int64_t{threadIdx.x} * kWidth, step = int64_t{blockDim.x} * kWidth;
};

// Keeps h in `kept` and, if it is a sum, stores it. Returns the thread's part of the sum of squares
// (RMSNorm), or of elements.
template <bool kRms, int kWidth, class Float>
__device__ float read_row(const NormForward<Float>& a, int64_t at, Float* kept) {
  const Share<kWidth> share;
  float sum = 0;
  for (int64_t i = share.first; i < a.D; i += share.step) {
    float h[kWidth], delta[kWidth];
    load(a.x + at + i, h);
    if (a.delta) {
      load(a.delta + at + i, delta);
      for (int j = 0; j < kWidth; ++j) h[j] = widen(narrow<Float>(h[j] + delta[j]));
      store(h, a.h + at + i);
    }
    store(h, kept + i);
    for (int j = 0; j < kWidth; ++j) sum += kRms ? h[j] * h[j] : h[j];
  }
  return sum;
}

template <int kWidth, class Float>
__device__ float squares_about(float mean, int64_t D, const Float* kept) {
  const Share<kWidth> share;
  float sum = 0;
  for (int64_t i = share.first; i < D; i += share.step) {
    float h[kWidth];
    load(kept + i, h);
    for (int j = 0; j < kWidth; ++j) sum += (h[j] - mean) * (h[j] - mean);
  }
  return sum;
}

template <bool kRms, int kWidth, class Float>
__global__ void __launch_bounds__(kMostThreads) norm_row(NormForward<Float> a) {
  __shared__ float space[kWarp];
  Float* const kept = shared_memory<Float>();  // (D)
  const Share<kWidth> share;
  const int64_t at = blockIdx.x * a.D;
  const float count = static_cast<float>(a.D);
  float mean = 0, sum = block_sum(read_row<kRms, kWidth>(a, at, kept), space);
  if constexpr (!kRms) {
    mean = sum / count;
    sum = block_sum(squares_about<kWidth>(mean, a.D, kept), space);
  }
  const float scale = 1.0f / sqrtf(sum / count + a.eps);
  if (threadIdx.x == 0) {
    a.stats[2 * int64_t{blockIdx.x}] = mean;
    a.stats[2 * int64_t{blockIdx.x} + 1] = scale;
  }
  for (int64_t i = share.first; i < a.D; i += share.step) {
    float h[kWidth], weight[kWidth], bias[kWidth] = {};
    load(kept + i, h);
    load(a.weight + i, weight);
    if (a.bias) load(a.bias + i, bias);
    for (int j = 0; j < kWidth; ++j) h[j] = (h[j] - mean) * scale * weight[j] + bias[j];
    store(h, a.y + at + i);
  }
}

// What a block of norm_gradient keeps in shared memory, each (D).
template <class Float>
struct Kept {
  __device__ Kept(const NormBackward<Float>& a)
      : dweight(shared_memory<float>()),
        dbias(a.dbias_parts ? dweight + a.D : nullptr),
        h(reinterpret_cast<Float*>(dweight + (dbias ? 2 : 1) * a.D)),
        dy(h + a.D) {}
  static int bytes(int64_t D, bool with_bias) {
    return static_cast<int>(D * ((with_bias ? 2 : 1) * sizeof(float) + 2 * sizeof(Float)));
  }
  float *dweight, *dbias;  // sums over the block's rows
  Float *h, *dy;           // the row
};

struct RowGradient {
  float along, mean;  // sums over a row of g n and of g
};

// Reads a row, keeps it, and adds it to dweight and dbias. Returns the thread's part of the sums.
template <bool kRms, int kWidth, class Float>
__device__ RowGradient read_gradient(const NormBackward<Float>& a, int64_t row, Kept<Float>& kept) {
  const Share<kWidth> share;
  const int64_t at = row * a.D;
  const float center = a.stats[2 * row], scale = a.stats[2 * row + 1];
  RowGradient sums{0, 0};
  for (int64_t i = share.first; i < a.D; i += share.step) {
    float h[kWidth], dy[kWidth], weight[kWidth], total[kWidth];
    load(a.h + at + i, h);
    load(a.dy + at + i, dy);
    load(a.weight + i, weight);
    load(kept.dweight + i, total);
    store(h, kept.h + i);
    store(dy, kept.dy + i);
    for (int j = 0; j < kWidth; ++j) {
      const float product = dy[j] * ((h[j] - center) * scale);
      total[j] += product;
      sums.along += product * weight[j];
      if constexpr (!kRms) sums.mean += dy[j] * weight[j];
    }
    store(total, kept.dweight + i);
    if (!kept.dbias) continue;
    load(kept.dbias + i, total);
    for (int j = 0; j < kWidth; ++j) total[j] += dy[j];
    store(total, kept.dbias + i);
  }
  return sums;
}

// With n = (h - mean) * r and g = dy * weight: dx = r * (g - n * mean(g n) - mean(g)), the last
// term for LayerNorm only. `means`: mean(g n) and mean(g).
template <int kWidth, class Float>
__device__ void write_gradient(const NormBackward<Float>& a,
                               int64_t row,
                               const Kept<Float>& kept,
                               const RowGradient& means) {
  const Share<kWidth> share;
  const int64_t at = row * a.D;
  const float center = a.stats[2 * row], scale = a.stats[2 * row + 1];
  for (int64_t i = share.first; i < a.D; i += share.step) {
    float h[kWidth], dy[kWidth], weight[kWidth], dx[kWidth] = {};
    load(kept.h + i, h);
    load(kept.dy + i, dy);
    load(a.weight + i, weight);
    if (a.dh_in) load(a.dh_in + at + i, dx);
    for (int j = 0; j < kWidth; ++j) {
      const float n = (h[j] - center) * scale;
      dx[j] += scale * (dy[j] * weight[j] - n * means.along - means.mean);
    }
    store(dx, a.dx + at + i);
  }
}

template <bool kRms, int kWidth, class Float>
__global__ void __launch_bounds__(kMostThreads) norm_gradient(NormBackward<Float> a) {
  __shared__ float space[kWarp];
  const Share<kWidth> share;
  Kept<Float> kept(a);
  const float zeros[kWidth] = {}, count = static_cast<float>(a.D);
  for (int64_t i = share.first; i < a.D; i += share.step) {
    store(zeros, kept.dweight + i);
    if (kept.dbias) store(zeros, kept.dbias + i);
  }
  for (int64_t row = blockIdx.x; row < a.rows; row += gridDim.x) {
    RowGradient sums = read_gradient<kRms, kWidth>(a, row, kept);
    sums.along = block_sum(sums.along, space) / count;
    if constexpr (!kRms) sums.mean = block_sum(sums.mean, space) / count;
    write_gradient<kWidth>(a, row, kept, sums);
  }
  const int64_t to = blockIdx.x * a.D;
  for (int64_t i = share.first; i < a.D; i += share.step) {
    float total[kWidth];
    load(kept.dweight + i, total);
    store(total, a.dweight_parts + to + i);
    if (!kept.dbias) continue;
    load(kept.dbias + i, total);
    store(total, a.dbias_parts + to + i);
  }
}

// The same where a thread has one pack of a row: everything stays in registers, and the next row is
// on its way while this one is summed up.
template <bool kRms, int kWidth, class Float>
__global__ void __launch_bounds__(kMostThreads) norm_gradient_in_registers(NormBackward<Float> a) {
  __shared__ float space[kWarp];
  using Row = Pack<Float, kWidth>;
  const int64_t i = int64_t{threadIdx.x} * kWidth;
  const bool is_mine = i < a.D;
  const float count = static_cast<float>(a.D);
  const auto load_row = [&](const Float* from, int64_t row) {
    return is_mine && from && row < a.rows ? *reinterpret_cast<const Row*>(from + row * a.D + i)
                                           : Row{};
  };
  float weight[kWidth] = {}, dweight[kWidth] = {}, dbias[kWidth] = {};
  if (is_mine) load(a.weight + i, weight);
  int64_t row = blockIdx.x;
  Row h = load_row(a.h, row), dy = load_row(a.dy, row), dh = load_row(a.dh_in, row);
  for (; row < a.rows; row += gridDim.x) {
    const int64_t next = row + gridDim.x;
    const Row next_h = load_row(a.h, next), next_dy = load_row(a.dy, next),
              next_dh = load_row(a.dh_in, next);
    const float center = a.stats[2 * row], scale = a.stats[2 * row + 1];
    float n[kWidth], g[kWidth], along = 0, mean = 0;
    for (int j = 0; j < kWidth; ++j) {
      const float d = widen(dy.values[j]);
      n[j] = is_mine ? (widen(h.values[j]) - center) * scale : 0.0f;
      g[j] = d * weight[j];
      dweight[j] += d * n[j];
      dbias[j] += d;
      along += g[j] * n[j];
      if constexpr (!kRms) mean += g[j];
    }
    along = block_sum(along, space) / count;
    if constexpr (!kRms) mean = block_sum(mean, space) / count;
    for (int j = 0; j < kWidth; ++j)
      g[j] = widen(dh.values[j]) + scale * (g[j] - n[j] * along - mean);
    if (is_mine) store(g, a.dx + row * a.D + i);
    h = next_h, dy = next_dy, dh = next_dh;
  }
  if (!is_mine) return;
  store(dweight, a.dweight_parts + blockIdx.x * a.D + i);
  if (a.dbias_parts) store(dbias, a.dbias_parts + blockIdx.x * a.D + i);
}

int64_t row_threads(int64_t D, int width) {
  return threads_for(blocks_for(D, width == 1 ? 4 : width), kMostThreads);
}

// About as many blocks as an H100 holds at once, and at least 8 rows for each, so that the partial
// sums stay small beside the rows. The same on every GPU, so that sums are, too.
int64_t gradient_blocks(int64_t rows, int64_t threads) {
  constexpr int64_t kProcessors = 132, kThreadsEach = 1024;
  return std::min(blocks_for(rows, 8),
                  kProcessors * std::max<int64_t>(4, blocks_for(kThreadsEach, threads)));
}

}  // namespace

template <class Float>
void norm_forward(int64_t rows,
                  int64_t D,
                  bool is_rms,
                  float eps,
                  const Float* x,
                  const Float* delta,
                  const Float* weight,
                  const Float* bias,
                  Float* h,
                  Float* y,
                  float* stats) {
  const NormForward<Float> a{D, eps, x, delta, weight, bias, h, y, stats};
  with_width<Float>(packable<Float>(D, x, delta, weight, bias, h, y), [&](auto width) {
    launch(is_rms ? &norm_row<true, width(), Float> : &norm_row<false, width(), Float>,
           dim3(rows),
           dim3(row_threads(D, width)),
           static_cast<int>(D * sizeof(Float)),
           a);
  });
}

template <class Float>
void norm_backward(int64_t rows,
                   int64_t D,
                   bool is_rms,
                   const Float* h,
                   const Float* weight,
                   const float* stats,
                   const Float* dy,
                   const Float* dh_in,
                   Float* dx,
                   float* dweight,
                   float* dbias) {
  with_width<Float>(packable<Float>(D, h, weight, dy, dh_in, dx), [&](auto width) {
    const int64_t threads = row_threads(D, width), blocks = gradient_blocks(rows, threads);
    const Scratch parts(blocks * 2 * D * static_cast<int64_t>(sizeof(float)));
    float *dweight_parts = parts.as<float>(),
          *dbias_parts = dbias ? dweight_parts + blocks * D : nullptr;
    const NormBackward<Float> a{
        rows, D, h, weight, stats, dy, dh_in, dx, dweight_parts, dbias_parts};
    const bool in_registers = width > 1 && threads * width >= D;
    const auto kernel = in_registers ? (is_rms ? &norm_gradient_in_registers<true, width(), Float>
                                               : &norm_gradient_in_registers<false, width(), Float>)
                                     : (is_rms ? &norm_gradient<true, width(), Float>
                                               : &norm_gradient<false, width(), Float>);
    const int shared = in_registers ? 0 : Kept<Float>::bytes(D, dbias != nullptr);
    launch(kernel, dim3(blocks), dim3(threads), shared, a);
    sum_columns(blocks, D, dweight_parts, dweight);
    if (dbias) sum_columns(blocks, D, dbias_parts, dbias);
  });
}

template decltype(norm_forward<float>) norm_forward<float>;
template decltype(norm_forward<Bf16>) norm_forward<Bf16>;
template decltype(norm_backward<float>) norm_backward<float>;
template decltype(norm_backward<Bf16>) norm_backward<Bf16>;

}  // namespace basin::kernels
