#include <bit>

#include "model/kernels/cuda/attention.h"
#include "model/kernels/cuda/column_sums.cuh"
#include "model/kernels/cuda/packs.cuh"

namespace basin::kernels {

namespace {

constexpr int kThreads = 256;

// Rotates pairs (i, i + half) of the first 2 half elements of each head; the rest is copied.
struct Rotation {
  __device__ Rotation at(int64_t t) const { return {cos + t * half, sin + t * half, half}; }
  const float *cos, *sin;  // (half) of one position, or (T, half)
  int half;
};

// The heads of one position, shared by the block's threads. direction: 1, or -1 to undo.
template <int kWidth, class Float>
__device__ void rotate_heads(int heads,
                             int K,
                             const Rotation& rotation,
                             float direction,
                             const Float* from_heads,
                             Float* to_heads) {
  const int half = rotation.half, pairs = half / kWidth, items = (K - half) / kWidth;
  for (int work = static_cast<int>(threadIdx.x); work < heads * items;
       work += static_cast<int>(blockDim.x)) {
    const int head = work / items, item = work % items;
    const Float* from = from_heads + head * K;
    Float* to = to_heads + head * K;
    if (item >= pairs) {
      *reinterpret_cast<Pack<Float, kWidth>*>(to + half + item * kWidth) =
          *reinterpret_cast<const Pack<Float, kWidth>*>(from + half + item * kWidth);
      continue;
    }
    const int i = item * kWidth;
    float x[kWidth], y[kWidth], cos[kWidth], sin[kWidth];
    load(from + i, x);
    load(from + half + i, y);
    load(rotation.cos + i, cos);
    load(rotation.sin + i, sin);
    for (int j = 0; j < kWidth; ++j) {
      const float first = x[j], turn = direction * sin[j];
      x[j] = first * cos[j] - y[j] * turn;
      y[j] = y[j] * cos[j] + first * turn;
    }
    store(x, to + i);
    store(y, to + half + i);
  }
}

// Heads and head size in 32 bits, which is what a position of them fits in.
struct Heads {
  explicit Heads(const AttentionShape& s)
      : H(static_cast<int>(s.H)), G(static_cast<int>(s.G)), K(static_cast<int>(s.K)) {}
  int H, G, K;
};

template <int kWidth, class Float>
__global__ void rotary_split_position(
    int64_t T, Heads n, Rotation rotation, const Float* qkv, Float* qk) {
  const int64_t position = blockIdx.x;
  rotate_heads<kWidth>(n.H + n.G,
                       n.K,
                       rotation.at(position % T),
                       1.0f,
                       qkv + position * (n.H + 2 * n.G) * n.K,
                       qk + position * (n.H + n.G) * n.K);
}

template <int kWidth, class Float>
__global__ void rotary_merge_position(
    int64_t T, Heads n, Rotation rotation, SplitGradient<Float> gradient, Float* dqkv) {
  const int64_t position = blockIdx.x, queries = position * n.H * n.K, keys = position * n.G * n.K;
  const Rotation here = rotation.at(position % T), none{nullptr, nullptr, 0};
  Float* to = dqkv + position * (n.H + 2 * n.G) * n.K;
  rotate_heads<kWidth>(n.H, n.K, here, -1.0f, gradient.dq + queries, to);
  rotate_heads<kWidth>(n.G, n.K, here, -1.0f, gradient.dk + keys, to + n.H * n.K);
  rotate_heads<kWidth>(n.G, n.K, none, 1.0f, gradient.dv + keys, to + (n.H + n.G) * n.K);
}

// Whether heads can be rotated in packs of Float.
template <class Float, class... Pointers>
bool rotatable(const AttentionShape& s, const Pointers*... pointers) {
  return packable<Float>(s.K, pointers...) && packable<Float>(s.rotary / 2);
}

Rotation rotation_of(const AttentionShape& s, const float* cos, const float* sin) {
  return {cos, sin, static_cast<int>(s.rotary / 2)};
}

// Threads for `heads` heads of a position.
dim3 rotary_threads(const AttentionShape& s, int64_t heads, int width) {
  return dim3(threads_for(heads * (s.K - s.rotary / 2) / width, kThreads));
}

constexpr int kTile = 16;  // positions of a block: lse is read in whole sectors of memory

// The positions of one sequence that a block works on; their heads lie together in out.
struct Tile {
  __device__ explicit Tile(const AttentionShape& s)
      : sequence(blockIdx.x / tiles(s)),
        begin(blockIdx.x % tiles(s) * kTile),
        rows(static_cast<int>((s.T - begin < kTile ? s.T - begin : kTile) * s.H)),
        offset((sequence * s.T + begin) * s.H * s.K) {}
  __device__ __host__ static int64_t tiles(const AttentionShape& s) {
    return (s.T + kTile - 1) / kTile;
  }
  /// Where lse has row r of the tile, rows in the order of out: position, then head.
  __device__ int64_t lse_index(const AttentionShape& s, int64_t r) const {
    return (sequence * s.H + r % s.H) * s.T + begin + r / s.H;
  }
  int64_t sequence, begin;
  int rows;        // positions times heads
  int64_t offset;  // of the tile in out
};

__device__ inline float log_add_exp(float a, float b) {
  const float larger = fmaxf(a, b), smaller = fminf(a, b);
  return larger + log1pf(expf(smaller - larger));
}

template <int kWidth, class Float>
__global__ void fold_sink_tile(AttentionShape s, const float* sink_logit, Float* out, float* lse) {
  float* const factors = shared_memory<float>();  // (rows)
  const Tile tile(s);
  const int positions = tile.rows / static_cast<int>(s.H), H = static_cast<int>(s.H);
  for (int i = static_cast<int>(threadIdx.x); i < tile.rows; i += static_cast<int>(blockDim.x)) {
    const int r = i % positions * H + i / positions;  // positions first: neighbours in lse
    const int64_t at = tile.lse_index(s, r);
    const float with_sink = log_add_exp(lse[at], sink_logit[r % H]);
    factors[r] = expf(lse[at] - with_sink);
    lse[at] = with_sink;
  }
  __syncthreads();
  const int K = static_cast<int>(s.K), step = static_cast<int>(blockDim.x) * kWidth;
  for (int i = static_cast<int>(threadIdx.x) * kWidth; i < tile.rows * K; i += step) {
    float x[kWidth];
    load(out + tile.offset + i, x);
    for (int j = 0; j < kWidth; ++j) x[j] *= factors[i / K];
    store(x, out + tile.offset + i);
  }
}

// `lanes` threads share a row, a power of two up to a warp. parts (blocks, H).
template <int kWidth, class Float>
__global__ void sink_gradient_tile(AttentionShape s,
                                   FoldedSink<Float> folded,
                                   int lanes,
                                   float* parts) {
  float* const terms = shared_memory<float>();  // (rows)
  const Tile tile(s);
  const int lane = static_cast<int>(threadIdx.x) % lanes,
            step = static_cast<int>(blockDim.x) / lanes;
  for (int first = 0; first < tile.rows; first += step) {  // warps stay together for the shuffles
    const int r = first + static_cast<int>(threadIdx.x) / lanes;
    float dot = 0;
    for (int64_t i = lane * kWidth; r < tile.rows && i < s.K; i += lanes * kWidth) {
      float out[kWidth], dout[kWidth];
      load(folded.out + tile.offset + r * s.K + i, out);
      load(folded.dout + tile.offset + r * s.K + i, dout);
      for (int j = 0; j < kWidth; ++j) dot += out[j] * dout[j];
    }
    for (int distance = lanes / 2; distance > 0; distance /= 2)
      dot += __shfl_xor_sync(0xffffffffu, dot, distance);
    if (lane == 0 && r < tile.rows)
      terms[r] = -expf(folded.sink_logit[r % s.H] - folded.lse[tile.lse_index(s, r)]) * dot;
  }
  __syncthreads();
  for (int64_t h = threadIdx.x; h < s.H; h += blockDim.x) {
    float sum = 0;
    for (int64_t r = h; r < tile.rows; r += s.H) sum += terms[r];
    parts[blockIdx.x * s.H + h] = sum;
  }
}

}  // namespace

template <class Float>
void rotary_split(
    const AttentionShape& s, const Float* qkv, const float* cos, const float* sin, Float* qk) {
  with_width<Float>(rotatable<Float>(s, qkv, cos, sin, qk), [&](auto width) {
    launch(&rotary_split_position<width(), Float>,
           dim3(s.B * s.T),
           rotary_threads(s, s.H + s.G, width),
           0,
           s.T,
           Heads(s),
           rotation_of(s, cos, sin),
           qkv,
           qk);
  });
}

template <class Float>
void rotary_merge(const AttentionShape& s,
                  const SplitGradient<Float>& g,
                  const float* cos,
                  const float* sin,
                  Float* dqkv) {
  with_width<Float>(rotatable<Float>(s, g.dq, g.dk, g.dv, cos, sin, dqkv), [&](auto width) {
    launch(&rotary_merge_position<width(), Float>,
           dim3(s.B * s.T),
           rotary_threads(s, s.H, width),
           0,
           s.T,
           Heads(s),
           rotation_of(s, cos, sin),
           g,
           dqkv);
  });
}

template <class Float>
void fold_sink(const AttentionShape& s, const float* sink_logit, Float* out, float* lse) {
  with_width<Float>(packable<Float>(s.K, out), [&](auto width) {
    launch(&fold_sink_tile<width(), Float>,
           dim3(s.B * Tile::tiles(s)),
           dim3(kThreads),
           static_cast<int>(kTile * s.H * sizeof(float)),
           s,
           sink_logit,
           out,
           lse);
  });
}

template <class Float>
void sink_logit_gradient(const AttentionShape& s,
                         const FoldedSink<Float>& folded,
                         float* dsink_logit) {
  const int64_t blocks = s.B * Tile::tiles(s);
  const Scratch parts(blocks * s.H * static_cast<int64_t>(sizeof(float)));
  with_width<Float>(packable<Float>(s.K, folded.out, folded.dout), [&](auto width) {
    const auto items = static_cast<unsigned>(std::min<int64_t>(kWarp, blocks_for(s.K, width)));
    launch(&sink_gradient_tile<width(), Float>,
           dim3(blocks),
           dim3(kThreads),
           static_cast<int>(kTile * s.H * sizeof(float)),
           s,
           folded,
           std::bit_ceil(items),
           parts.as<float>());
  });
  sum_columns(blocks, s.H, parts.as<float>(), dsink_logit);
}

template decltype(rotary_split<float>) rotary_split<float>;
template decltype(rotary_split<Bf16>) rotary_split<Bf16>;
template decltype(rotary_merge<float>) rotary_merge<float>;
template decltype(rotary_merge<Bf16>) rotary_merge<Bf16>;
template decltype(fold_sink<float>) fold_sink<float>;
template decltype(fold_sink<Bf16>) fold_sink<Bf16>;
template decltype(sink_logit_gradient<float>) sink_logit_gradient<float>;
template decltype(sink_logit_gradient<Bf16>) sink_logit_gradient<Bf16>;

}  // namespace basin::kernels
