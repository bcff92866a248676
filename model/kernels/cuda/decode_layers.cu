// A layer is a chain of short dependent steps, and what a step of a launch of its own costs is mostly
// waiting. Here the blocks of a head stay in their cluster: rows of qkv and of the MLP's first
// matrix, whose results all of them get through shared memory; attention over an eighth of the
// cache each; then their rows of both output matrices, for the columns that this head and its share
// of the MLP contribute. Only those sums, one vector for each head, go through global memory.
//
// Nothing that does not depend on the token is waited for: a matrix' weights for the next layer are
// asked for (into registers) as soon as those of this one are used up, and so are the next layer's
// keys and values (into shared memory).
#include "model/kernels/cuda/decode_layers.h"

#include <cooperative_groups.h>

#include "model/kernels/cuda/decode_lanes.cuh"
#include "model/kernels/cuda/decode_launch.cuh"

namespace basin::kernels {
namespace {

namespace groups = cooperative_groups;

constexpr int kBlocks = 8;  // of a cluster
constexpr int kThreads = 256, kWarps = kThreads / kWarp;
constexpr int kClusterWarps = kBlocks * kWarps;
constexpr int kHead = 64;        // K: a row of q, k and v for each warp of the cluster
constexpr int kRows = 7;         // rows of a warp in a phase, at most: 3 and those of the MLP
constexpr int kMostUnits = 256;  // of the MLP, of a cluster
constexpr int kMostD = 1024, kMostSlots = 256, kMostLayers = 64;
constexpr int kElements = 8;                    // of a pack

struct Arguments {
  const DecodeLayer* layers;
  const DecodeState* state;
  const float* angles;
  float *h, *sums;  // sums (2, H, D): what each cluster adds, for this phase and the one before
  unsigned long long* arrivals;
  int L, D, F, H, G, rotary, units;  // units: of the MLP, of a cluster
  float eps;
  bool is_rms, is_swiglu, is_parallel;
};

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900

constexpr int kLanesOfRow = 8;     // where a row is spread over lanes, a pack each
constexpr float kLeast = -1e30f;  // below every score, and finite

struct Partial {  // a softmax over some slots
  float top, sum, out[kHead];
};

struct Memory {
  alignas(16) float x[2][kMostD];  // normalized: for attention, for the MLP
  alignas(16) float qkv[3][kHead];
  alignas(16) float units[kMostUnits];
  alignas(16) float attended[kHead];
  alignas(16) float q_ring[kHead];
  alignas(16) float q_sink[kHead];
  float cosines[2][kHead];  // the ring's and the sinks': cosines, then sines
  Partial of_warps[kWarps], of_blocks[kBlocks];
  float space[kWarp];
  DecodeLayer layers[kMostLayers];
};

// One step between two meetings.
struct Phase {
  int layer;
  bool attends, has_mlp;
};
__device__ int phases_of(const Arguments& a) {
  return a.is_parallel ? a.L : 2 * a.L;
}
__device__ Phase phase_of(const Arguments& a, int p) {
  if (a.is_parallel) return {p, true, true};
  return {p / 2, p % 2 == 0, p % 2 == 1};
}

__device__ int head() {
  return static_cast<int>(blockIdx.x) / kBlocks;
}
__device__ int rank() {
  return static_cast<int>(blockIdx.x) % kBlocks;
}
__device__ int cluster_warp() {
  return rank() * kWarps + warp_index();
}

// What meets a pack of weights, from shared memory.
struct Eight {
  float4 low, high;
};
__device__ Eight load_eight(const float* from) {
  return {reinterpret_cast<const float4*>(from)[0], reinterpret_cast<const float4*>(from)[1]};
}
__device__ float dot(uint32_t two, float x, float y, float sum) {
  return sum + from_bits(two << 16) * x + from_bits(two & 0xFFFF0000u) * y;
}
__device__ float dot(const Words& pack, const Eight& x, float sum) {
  sum = dot(pack.values[0], x.low.x, x.low.y, sum);
  sum = dot(pack.values[1], x.low.z, x.low.w, sum);
  sum = dot(pack.values[2], x.high.x, x.high.y, sum);
  return dot(pack.values[3], x.high.z, x.high.w, sum);
}

__device__ Words load_pack(const Bf16* from) {
  return stream_words(reinterpret_cast<const unsigned char*>(from));
}

// Rows of the phase's first matrices, one after another by the cluster's warps: q, k and v of the
// head, then units of the MLP (all gates, then all ups).
template <int kPacks>
struct RowWeights {
  Words packs[kRows][kPacks];
  float bias;                     // of row lane % 8
  float4 norm[2], norm_bias[2];   // of the thread's elements of h

  // Row r: its matrix and place; null: none.
  static __device__ const Bf16* row(const Arguments& a, const DecodeLayer& layer, const Phase& phase, int r, const float** bias) {
    *bias = nullptr;
    const int warp = cluster_warp(), attention_rows = phase.attends ? 3 : 0;
    if (r < attention_rows) {
      const int group = head() / (a.H / a.G),
                at = (r == 0 ? head() : r == 1 ? a.H + group : a.H + a.G + group) * kHead + warp;
      if (layer.qkv_bias) *bias = layer.qkv_bias + at;
      return layer.qkv + static_cast<int64_t>(at) * a.D;
    }
    if (!phase.has_mlp) return nullptr;
    r -= attention_rows;
    const int rounds = (a.units + kClusterWarps - 1) / kClusterWarps;
    const bool is_up = a.is_swiglu && r >= rounds;
    if (is_up) r -= rounds;
    const int unit = warp + r * kClusterWarps, at = head() * a.units + unit;
    if (r >= rounds || unit >= a.units || at >= a.F) return nullptr;
    const int of_matrix = is_up ? a.F + at : at;
    if (layer.up_bias) *bias = layer.up_bias + of_matrix;
    return layer.up + static_cast<int64_t>(of_matrix) * a.D;
  }

  __device__ void load(const Arguments& a, const Memory& memory, int p) {
    const Phase phase = phase_of(a, p);
    const DecodeLayer& layer = memory.layers[phase.layer];
    const float* own_bias = nullptr;
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const float* row_bias;
      const Bf16* from = row(a, layer, phase, r, &row_bias);
      if (lane_index() % 8 == r) own_bias = row_bias;
#pragma unroll
      for (int i = 0; i < kPacks; ++i)
        packs[r][i] = from ? load_pack(from + (i * kWarp + lane_index()) * kElements) : Words{};
    }
    bias = own_bias ? *own_bias : 0.0f;
    const int i = static_cast<int>(threadIdx.x);
    if (4 * i >= a.D) return;
    const auto four = [i](const float* from) {
      return from ? reinterpret_cast<const float4*>(from)[i] : float4{0, 0, 0, 0};
    };
    if (phase.attends) norm[0] = four(layer.attention_norm), norm_bias[0] = four(layer.attention_norm_bias);
    if (phase.has_mlp) norm[1] = four(layer.mlp_norm), norm_bias[1] = four(layer.mlp_norm_bias);
  }

  // Lane l has the sum of row l % 8.
  __device__ float multiply(const Phase& phase, const Memory& memory) const {
    float sums[8] = {};
#pragma unroll
    for (int i = 0; i < kPacks; ++i) {
      const int at = (i * kWarp + lane_index()) * kElements;
      const Eight for_mlp = load_eight(memory.x[1] + at), first = phase.attends ? load_eight(memory.x[0] + at) : for_mlp;
#pragma unroll
      for (int r = 0; r < kRows; ++r) sums[r] = dot(packs[r][i], r < 3 ? first : for_mlp, sums[r]);
    }
    return gathered_sum(sums) + bias;
  }
};

// The block's D / 8 rows of the phase's output matrices: eight lanes a row, four rows a warp.
template <int kPacks>
struct ColumnWeights {
  static constexpr int kDown = kMostUnits / kElements / kLanesOfRow;
  Words out[kPacks], down[kPacks][kDown];
  float out_bias[kPacks], down_bias[kPacks];  // apart, so that no load waits for another

  static __device__ int row(const Arguments& a, int round) {
    return rank() * (a.D / kBlocks) + (round * kWarps + warp_index()) * (kWarp / kLanesOfRow) + lane_index() / kLanesOfRow;
  }
  static __device__ int lane() { return lane_index() % kLanesOfRow; }

  __device__ void load(const Arguments& a, const Memory& memory, int p) {
    const Phase phase = phase_of(a, p);
    const DecodeLayer& layer = memory.layers[phase.layer];
#pragma unroll
    for (int round = 0; round < kPacks; ++round) {
      const int64_t at = row(a, round);
      out[round] = {};
      if (phase.attends) out[round] = load_pack(layer.out + at * a.H * kHead + head() * kHead + lane() * kElements);
#pragma unroll
      for (int i = 0; i < kDown; ++i) {
        const int unit = (i * kLanesOfRow + lane()) * kElements, column = head() * a.units + unit;
        const bool is_there = phase.has_mlp && unit < a.units && column < a.F;
        down[round][i] = is_there ? load_pack(layer.down + at * a.F + column) : Words{};
      }
      const bool is_first = head() == 0;
      out_bias[round] = is_first && phase.attends && layer.out_bias ? layer.out_bias[at] : 0.0f;
      down_bias[round] = is_first && phase.has_mlp && layer.down_bias ? layer.down_bias[at] : 0.0f;
    }
  }

  // to (D): what the cluster adds to the residual stream.
  __device__ void multiply(const Arguments& a, const Memory& memory, float* to) const {
    float sums[kPacks];
    const Eight attended = load_eight(memory.attended + lane() * kElements);
#pragma unroll
    for (int round = 0; round < kPacks; ++round) sums[round] = dot(out[round], attended, 0);
#pragma unroll
    for (int i = 0; i < kDown; ++i) {
      const Eight units = load_eight(memory.units + (i * kLanesOfRow + lane()) * kElements);
#pragma unroll
      for (int round = 0; round < kPacks; ++round) sums[round] = dot(down[round][i], units, sums[round]);
    }
#pragma unroll
    for (int distance = 1; distance < kLanesOfRow; distance *= 2)
#pragma unroll
      for (float& sum : sums) sum += __shfl_xor_sync(0xffffffffu, sum, distance);
    if (lane() != 0) return;
#pragma unroll
    for (int round = 0; round < kPacks; ++round) to[row(a, round)] = sums[round] + out_bias[round] + down_bias[round];
  }
};

// All blocks of all clusters meet: each arrives once a phase, and none is far ahead. The counter
// never goes back, so that it needs no reset between launches.
struct Meeting {
  unsigned long long* arrivals;
  unsigned long long target = 0;

  __device__ void arrive(unsigned long long of_launch) {
    __syncthreads();
    if (threadIdx.x != 0) return;
    __threadfence();
    const unsigned long long before = atomicAdd(arrivals, 1ull);
    if (target == 0) target = before / of_launch * of_launch;
    target += gridDim.x;
  }
  __device__ void wait() const {
    if (threadIdx.x == 0) {
      unsigned long long seen;
      do {
        asm volatile("ld.acquire.gpu.global.u64 %0, [%1];" : "=l"(seen) : "l"(arrivals) : "memory");
      } while (seen < target);
    }
    __syncthreads();
  }
};

// The block's slots of the cache and where they are kept until their turn.
struct Slots {
  int64_t begin, count, slot, sinks;  // slot: the new token's, from the cache's begin
  const Bf16 *keys, *values;          // of layer 0 and the head's group
  int64_t layer_size;                 // elements from one layer to the next
  Bf16* kept;                         // (2, 2, capacity, K): layers in turn, keys and values
  int64_t capacity;

  __device__ Bf16* kept_keys(int layer) const { return kept + (layer % 2) * 2 * capacity * kHead; }
  __device__ Bf16* kept_values(int layer) const { return kept_keys(layer) + capacity * kHead; }

  __device__ void fetch(int layer) const {
    const Bf16 *from_keys = keys + layer * layer_size + begin * kHead,
               *from_values = values + layer * layer_size + begin * kHead;
    for (int64_t i = threadIdx.x; i < count * kHead / kElements; i += kThreads) {
      copy_async(kept_keys(layer) + i * kElements, from_keys + i * kElements);
      copy_async(kept_values(layer) + i * kElements, from_values + i * kElements);
    }
  }
  static __device__ void copy_async(Bf16* to, const Bf16* from) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(static_cast<unsigned>(__cvta_generic_to_shared(to))), "l"(from) : "memory");
  }
  static __device__ void commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
  static __device__ void wait_for_all_but_one() { asm volatile("cp.async.wait_group 1;" ::: "memory"); }
};

__device__ Slots slots_of(const Arguments& a, const DecodeState& state, Bf16* kept, int64_t capacity) {
  const int64_t S = state.sinks, ring = state.recent + 1, t = state.position, used = min(t + 1, S + ring),
                share = (used + kBlocks - 1) / kBlocks, begin = min(rank() * share, used);
  const int64_t of_group = (S + ring) * kHead, first = head() / (a.H / a.G) * of_group;
  return {begin,
          min(share, used - begin),
          t < S ? t : S + (t - S) % ring,
          min(t + 1, S),
          static_cast<const Bf16*>(state.keys) + first,
          static_cast<const Bf16*>(state.values) + first,
          a.G * of_group,
          kept,
          capacity};
}

// The thread's four elements of h -> memory.x, for the norms of the phase.
template <int kPacks>
__device__ void normalize(const Arguments& a, const Phase& phase, const RowWeights<kPacks>& rows, const float4& h, Memory& memory) {
  const int i = static_cast<int>(threadIdx.x);
  const bool is_mine = 4 * i < a.D;
  const float count = static_cast<float>(a.D);
  float mean = 0;
  if (!a.is_rms) mean = block_sum(h.x + h.y + h.z + h.w, memory.space) / count;
  const float4 d = is_mine ? float4{h.x - mean, h.y - mean, h.z - mean, h.w - mean} : float4{0, 0, 0, 0};
  const float squares = block_sum(d.x * d.x + d.y * d.y + d.z * d.z + d.w * d.w, memory.space);
  const float scale = rsqrtf(squares / count + a.eps);
  if (is_mine)
#pragma unroll
    for (int n = 0; n < 2; ++n) {
      if (n == 0 ? !phase.attends : !phase.has_mlp) continue;
      const float4 w = rows.norm[n], b = rows.norm_bias[n];
      reinterpret_cast<float4*>(memory.x[n])[i] = {d.x * scale * w.x + b.x, d.y * scale * w.y + b.y, d.z * scale * w.z + b.z, d.w * scale * w.w + b.w};
    }
  __syncthreads();
}

// Sums of rows, from the lanes that have them to every block of the cluster: q, k, v and the units.
__device__ void share_rows(const Arguments& a, const Phase& phase, float sum, Memory& memory) {
  const groups::cluster_group cluster = groups::this_cluster();
  const int attention_rows = phase.attends ? 3 : 0, rounds = (a.units + kClusterWarps - 1) / kClusterWarps, r = lane_index() % 8;
  const float up = __shfl_sync(0xffffffffu, sum, (r + rounds) % 8);
  float* to = nullptr;
  if (r < attention_rows) {
    to = &memory.qkv[r][cluster_warp()];
  } else if (phase.has_mlp && r - attention_rows < rounds) {
    const int unit = cluster_warp() + (r - attention_rows) * kClusterWarps;
    if (unit < a.units) to = &memory.units[unit];
    const bool is_there = head() * a.units + unit < a.F;
    sum = !is_there ? 0.0f : a.is_swiglu ? sum / (1 + __expf(-sum)) * up : sum * normcdff(sum);
  }
  if (!to) return;
#pragma unroll
  for (int i = 0; i < 2; ++i) *cluster.map_shared_rank(to, 2 * (lane_index() / 8) + i) = sum;
}

// The query as ring and sinks see it; the new key and value go to the kept slots, and to the cache.
__device__ void rotate(const Arguments& a, const Slots& slots, int layer, Memory& memory) {
  const int i = static_cast<int>(threadIdx.x);
  if (i < kHead) {
    const int half = a.rotary / 2, j = partner_of(i, half);
    const Turn ring = turn_of(i, half, memory.cosines[0]), sinks = turn_of(i, half, memory.cosines[1]);
    constexpr float kScale = 0.125f;  // 1 / sqrt(K)
    memory.q_ring[i] = kScale * turned(ring, memory.qkv[0][i], memory.qkv[0][j]);
    memory.q_sink[i] = kScale * turned(sinks, memory.qkv[0][i], memory.qkv[0][j]);
    const int64_t place = slots.slot - slots.begin;
    if (place >= 0 && place < slots.count) {
      const Turn turn = slots.slot < slots.sinks ? sinks : ring;
      const Bf16 key = narrow<Bf16>(turned(turn, memory.qkv[1][i], memory.qkv[1][j])), value = narrow<Bf16>(memory.qkv[2][i]);
      slots.kept_keys(layer)[place * kHead + i] = key;
      slots.kept_values(layer)[place * kHead + i] = value;
      if (head() % (a.H / a.G) == 0) {
        const int64_t at = layer * slots.layer_size + slots.slot * kHead + i;
        const_cast<Bf16*>(slots.keys)[at] = key;
        const_cast<Bf16*>(slots.values)[at] = value;
      }
    }
  }
  __syncthreads();
}

// A group of eight lanes takes a slot, a pack each.
struct Running {
  float top = kLeast, sum = 0;
  float out[kElements] = {};

  __device__ void rescale(float larger) {
    const float factor = __expf(top - larger);
    top = larger;
    sum *= factor;
#pragma unroll
    for (float& x : out) x *= factor;
  }
  __device__ void join(int distance) {
    rescale(fmaxf(top, __shfl_xor_sync(0xffffffffu, top, distance)));
    sum += __shfl_xor_sync(0xffffffffu, sum, distance);
#pragma unroll
    for (float& x : out) x += __shfl_xor_sync(0xffffffffu, x, distance);
  }
};

__device__ void attend(const Slots& slots, int layer, Memory& memory) {
  constexpr int kAhead = 5, kGroups = kThreads / kLanesOfRow;  // 160 slots: an eighth of 1024 and the new one at once
  const int lane = lane_index() % kLanesOfRow, group = static_cast<int>(threadIdx.x) / kLanesOfRow, count = static_cast<int>(slots.count);
  const Bf16 *keys = slots.kept_keys(layer) + lane * kElements, *values = slots.kept_values(layer) + lane * kElements;
  const Eight q_ring = load_eight(memory.q_ring + lane * kElements), q_sink = load_eight(memory.q_sink + lane * kElements);
  Running running;
  for (int base = 0; base < count; base += kAhead * kGroups) {
    float scores[kAhead], largest = running.top;
#pragma unroll
    for (int u = 0; u < kAhead; ++u) {
      const int i = base + u * kGroups + group;
      const Words key = *reinterpret_cast<const Words*>(keys + min(i, count - 1) * kHead);
      float score = dot(key, slots.begin + i < slots.sinks ? q_sink : q_ring, 0);
#pragma unroll
      for (int distance = 1; distance < kLanesOfRow; distance *= 2) score += __shfl_xor_sync(0xffffffffu, score, distance);
      scores[u] = i < count ? score : -INFINITY;
      largest = fmaxf(largest, scores[u]);
    }
    running.rescale(largest);
#pragma unroll
    for (int u = 0; u < kAhead; ++u) {
      const int i = base + u * kGroups + group;
      const Words value = *reinterpret_cast<const Words*>(values + min(i, count - 1) * kHead);
      const float weight = __expf(scores[u] - largest);
      running.sum += weight;
#pragma unroll
      for (int j = 0; j < kElements; ++j) {
        const uint32_t two = value.values[j / 2];
        running.out[j] += weight * from_bits(j % 2 == 0 ? two << 16 : two & 0xFFFF0000u);
      }
    }
  }
  running.join(8);
  running.join(16);
  Partial& to = memory.of_warps[warp_index()];
  if (lane_index() == 0) to.top = running.top, to.sum = running.sum;
  if (lane_index() < kLanesOfRow)
#pragma unroll
    for (int j = 0; j < kElements; ++j) to.out[lane * kElements + j] = running.out[j];
  __syncthreads();
}

// Element i of the joint softmax of `count` partials and a logit without a value.
struct Joint {
  float top, sum, out;
};
__device__ Joint join(const Partial* partials, int i, float logit) {
  float top = fmaxf(logit, kLeast);
#pragma unroll
  for (int c = 0; c < kBlocks; ++c) top = fmaxf(top, partials[c].top);
  Joint joint{top, __expf(logit - top), 0};
#pragma unroll
  for (int c = 0; c < kBlocks; ++c) {
    const float weight = __expf(partials[c].top - top);
    joint.sum += weight * partials[c].sum;
    joint.out += weight * partials[c].out[i];
  }
  return joint;
}
static_assert(kWarps == kBlocks);

// memory.attended: the head's attention, in every block of the cluster.
__device__ void share_attention(const DecodeLayer& layer, Memory& memory) {
  const groups::cluster_group cluster = groups::this_cluster();
  const int i = static_cast<int>(threadIdx.x) % kHead, quarter = static_cast<int>(threadIdx.x) / kHead;
  const Joint warps = join(memory.of_warps, i, -INFINITY);
#pragma unroll
  for (int k = 0; k < 2; ++k) {
    Partial* to = cluster.map_shared_rank(&memory.of_blocks[rank()], 2 * quarter + k);
    to->out[i] = warps.out;
    if (i == 0) to->top = warps.top, to->sum = warps.sum;
  }
  cluster.sync();
  if (threadIdx.x < kHead) {
    const Joint all = join(memory.of_blocks, i, layer.sink_logit ? layer.sink_logit[head()] : -INFINITY);
    memory.attended[i] = all.out / all.sum;
  }
  __syncthreads();
}

// The thread's four elements: h, and what the clusters added in the phase before.
__device__ void add_sums(const Arguments& a, int p, float4& h) {
  const int i = static_cast<int>(threadIdx.x);
  if (4 * i >= a.D) return;
  const float4* sums = reinterpret_cast<const float4*>(a.sums + static_cast<int64_t>(p % 2) * a.H * a.D) + i;
#pragma unroll 12
  for (int c = 0; c < a.H; ++c) {
    const float4 v = __ldcg(sums + static_cast<int64_t>(c) * (a.D / 4));
    h = {h.x + v.x, h.y + v.y, h.z + v.z, h.w + v.w};
  }
}

template <int kPacks>
__global__ void __cluster_dims__(kBlocks, 1, 1) __launch_bounds__(kThreads, 1)
    layers_kernel(const __grid_constant__ Arguments a, int64_t capacity) {
  __shared__ Memory memory;
  let_next_start();
  for (int i = static_cast<int>(threadIdx.x); i < a.L * static_cast<int>(sizeof(DecodeLayer) / sizeof(uint64_t)); i += kThreads)
    reinterpret_cast<uint64_t*>(memory.layers)[i] = reinterpret_cast<const uint64_t*>(a.layers)[i];
  for (int i = static_cast<int>(threadIdx.x); i < kMostUnits; i += kThreads) memory.units[i] = 0;
  for (int i = static_cast<int>(threadIdx.x); i < kHead; i += kThreads) memory.attended[i] = 0;
  __syncthreads();
  RowWeights<kPacks> rows;
  ColumnWeights<kPacks> columns;
  rows.load(a, memory, 0);
  columns.load(a, memory, 0);
  groups::this_cluster().sync();  // all blocks run: their shared memory can be written
  await_inputs();

  const int i = static_cast<int>(threadIdx.x), phases = phases_of(a);
  const Slots slots = slots_of(a, *a.state, shared_memory<Bf16>(), capacity);
  slots.fetch(0);
  Slots::commit();
  if (i < a.rotary) memory.cosines[0][i] = a.angles[i], memory.cosines[1][i] = a.angles[a.rotary + i];
  float4 h = 4 * i < a.D ? reinterpret_cast<const float4*>(a.h)[i] : float4{0, 0, 0, 0};
  Meeting meeting{a.arrivals};
  for (int p = 0; p < phases; ++p) {
    const Phase phase = phase_of(a, p);
    if (phase.attends) {
      if (phase.layer + 1 < a.L) slots.fetch(phase.layer + 1);
      Slots::commit();
    }
    if (p > 0) {
      meeting.wait();
      add_sums(a, p - 1, h);
    }
    normalize<kPacks>(a, phase, rows, h, memory);
    share_rows(a, phase, rows.multiply(phase, memory), memory);
    if (phase.attends) Slots::wait_for_all_but_one();
    groups::this_cluster().sync();
    if (p + 1 < phases) rows.load(a, memory, p + 1);  // not sooner: a barrier waits for loads
    if (phase.attends) {
      rotate(a, slots, phase.layer, memory);
      attend(slots, phase.layer, memory);
      share_attention(memory.layers[phase.layer], memory);
    }
    columns.multiply(a, memory, a.sums + (static_cast<int64_t>(p % 2) * a.H + head()) * a.D);
    meeting.arrive(static_cast<unsigned long long>(phases) * gridDim.x);
    if (p + 1 < phases) columns.load(a, memory, p + 1);
  }
  if (blockIdx.x != 0) return;
  meeting.wait();
  add_sums(a, phases - 1, h);
  if (4 * i < a.D) reinterpret_cast<float4*>(a.h)[i] = h;
}

#else  // no clusters: never launched
template <int kPacks>
__global__ void layers_kernel(const __grid_constant__ Arguments, int64_t) {}
#endif

using Kernel = void (*)(Arguments, int64_t);
Kernel kernel_for(int64_t D) {
  switch (D / 256) {
    case 1:
      return layers_kernel<1>;
    case 2:
      return layers_kernel<2>;
    case 3:
      return layers_kernel<3>;
    default:
      return layers_kernel<4>;
  }
}

int64_t units_of(const DecodeLayers& l) {
  return blocks_for(l.F, l.H * kElements) * kElements;
}
int64_t slots_of_block(const DecodeLayers& l) {
  return blocks_for(l.most_slots, kBlocks);
}
int kept_bytes(const DecodeLayers& l) {
  return static_cast<int>(4 * slots_of_block(l) * kHead * static_cast<int64_t>(sizeof(Bf16)));
}

bool fits(const DecodeLayers& l) {
  const int64_t rounds = blocks_for(units_of(l), kClusterWarps), mlp_rows = l.is_swiglu ? 2 * rounds : rounds;
  return l.K == kHead && l.D % 256 == 0 && l.D <= kMostD && l.F % kElements == 0 && l.L <= kMostLayers && l.rotary <= kHead &&
         units_of(l) <= kMostUnits && slots_of_block(l) <= kMostSlots && (l.is_parallel ? 3 + mlp_rows : mlp_rows) <= kRows;
}

}  // namespace

bool takes_decode_layers(const DecodeLayers& l) {
  if (!fits(l) || device_attribute(cudaDevAttrComputeCapabilityMajor) < 9) return false;
  const Kernel kernel = kernel_for(l.D);
  allow_shared_memory(kernel, kept_bytes(l));
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(l.H * kBlocks));
  config.blockDim = dim3(kThreads);
  config.dynamicSmemBytes = static_cast<size_t>(kept_bytes(l));
  cudaLaunchAttribute cluster{};
  cluster.id = cudaLaunchAttributeClusterDimension;
  cluster.val.clusterDim = {kBlocks, 1, 1};
  config.attrs = &cluster;
  config.numAttrs = 1;
  int clusters = 0;  // that run at once: all must, since they wait for each other
  return cudaOccupancyMaxActiveClusters(&clusters, kernel, &config) == cudaSuccess && clusters >= l.H;
}

int64_t decode_layers_scratch(const DecodeLayers& l) {
  return 16 + 2 * l.H * l.D * static_cast<int64_t>(sizeof(float));
}

void decode_layers(const DecodeLayers& l) {
  const auto small = [](int64_t x) { return static_cast<int>(x); };
  const Arguments arguments{l.layers,
                            l.state,
                            l.angles,
                            l.h,
                            reinterpret_cast<float*>(static_cast<char*>(l.scratch) + 16),
                            static_cast<unsigned long long*>(l.scratch),
                            small(l.L),
                            small(l.D),
                            small(l.F),
                            small(l.H),
                            small(l.G),
                            small(l.rotary),
                            small(units_of(l)),
                            l.eps,
                            l.is_rms,
                            l.is_swiglu,
                            l.is_parallel};
  launch_early(kernel_for(l.D), dim3(static_cast<unsigned>(l.H * kBlocks)), dim3(kThreads), kept_bytes(l), arguments, slots_of_block(l));
}

}  // namespace basin::kernels
