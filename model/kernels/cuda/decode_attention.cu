// Attention of one token for each stream over its streaming cache. The slots of a head are shared
// out to blocks, within a block to warps and within a warp to groups of lanes, eight elements a
// lane; each keeps a softmax of its own, and they are joined at the end. Nobody waits for the new
// key to reach memory: every block that needs it rotates it again, one of them stores it.
// Query heads that share keys read them through L2.
#include "model/kernels/cuda/decode.h"
#include "model/kernels/cuda/decode_lanes.cuh"
#include "model/kernels/cuda/decode_launch.cuh"

namespace basin::kernels {
namespace {

constexpr int kThreads = 128, kWarps = kThreads / kWarp;
constexpr int kMostK = 256, kPerLane = 8, kMostBlocks = 64;
constexpr int kAhead = 4;         // slots of a lane whose loads are under way together
constexpr float kLeast = -1e30f;  // below every score, and finite: differences of it are numbers

struct AttendArguments {
  const DecodeState* states;
  const float *qkv, *angles, *sink_logit;
  float* out;
  unsigned* counters;  // (N, H)
  float* partials;     // (N, H, gridDim.x, 2 + K)
  int64_t layer;
  int H, G, K, rotary;
  int heads_per_group;
  int lanes_log;  // of the lanes that share a row of K
  int slots_log;  // of a block's slots
};

// A softmax over some of the slots: 2 + K numbers, the largest score, the sum of exp(score - it),
// and the values weighted so.
__device__ int partial_size(int K) {
  return 2 + K;
}

template <class Float>
struct BlockMemory {
  alignas(16) float q_ring[kMostK];
  alignas(16) float q_sink[kMostK];
  float k_ring[kMostK], k_sink[kMostK], v[kMostK];  // the new token's
  alignas(16) Float key[kMostK];                    // as the cache has them
  alignas(16) Float value[kMostK];
  float partials[kWarps * (2 + kMostK)];
  float weights[kMostBlocks];
};

// The block's stream, query head and key/value head.
__device__ int64_t stream() {
  return blockIdx.z;
}
__device__ int head() {
  return static_cast<int>(blockIdx.y);
}
__device__ int group_of(const AttendArguments& a) {
  return head() / a.heads_per_group;
}

// What this block attends to: slots [begin, end).
template <class Float>
struct Place {
  int64_t begin, end, used;  // used: slots of the stream in use
  int64_t sinks, slot;       // slot: the new token's
  Float *keys, *values;      // (slots, K), of the group
};

template <class Float>
__device__ Place<Float> find_place(const AttendArguments& a, const DecodeState& state) {
  const int64_t S = state.sinks, ring = state.recent + 1, t = state.position;
  Place<Float> p;
  p.used = std::min(t + 1, S + ring);
  p.sinks = std::min(t + 1, S);
  p.slot = t < S ? t : S + (t - S) % ring;
  p.begin = static_cast<int64_t>(blockIdx.x) << a.slots_log;
  p.end = std::min(p.begin + (1 << a.slots_log), p.used);
  const int64_t first = (a.layer * a.G + group_of(a)) * (S + ring) * a.K;
  p.keys = static_cast<Float*>(state.keys) + first;
  p.values = static_cast<Float*>(state.values) + first;
  return p;
}

// Fetches the block's keys and values into L2 while the launch before still runs. A hint: what it
// finds in the state need not be up to date.
template <class Float>
__device__ void prefetch(const Place<Float>& p, int K) {
  const int64_t row = K * static_cast<int64_t>(sizeof(Float));
  prefetch_lines(p.keys, p.begin * row, p.end * row, threadIdx.x, kThreads);
  prefetch_lines(p.values, p.begin * row, p.end * row, threadIdx.x, kThreads);
}

// The query, scaled, and the new key, both rotated for the ring and for the sinks; the new value.
template <class Float>
__device__ void rotate(const AttendArguments& a, BlockMemory<Float>& memory) {
  const int K = a.K, half = a.rotary / 2, heads = a.H + 2 * a.G;
  const float *to_ring = a.angles + stream() * 4 * half, *to_sinks = to_ring + 2 * half;
  const float *token = a.qkv + stream() * heads * K, *q = token + head() * K,
              *k = token + (a.H + group_of(a)) * K, *v = k + a.G * K;
  const float scale = rsqrtf(static_cast<float>(K));
#pragma unroll 1
  for (int i = static_cast<int>(threadIdx.x); i < K; i += kThreads) {
    const int j = partner_of(i, half);
    const Turn ring = turn_of(i, half, to_ring), sinks = turn_of(i, half, to_sinks);
    const float q_i = scale * q[i], q_j = scale * q[j], k_i = k[i], k_j = k[j], v_i = v[i];
    memory.q_ring[i] = turned(ring, q_i, q_j);
    memory.q_sink[i] = turned(sinks, q_i, q_j);
    memory.k_ring[i] = turned(ring, k_i, k_j);
    memory.k_sink[i] = turned(sinks, k_i, k_j);
    memory.v[i] = v_i;
  }
}

// The new key and value as the cache has them. One head of each group stores them there.
template <class Float>
__device__ void add_new_slot(const AttendArguments& a,
                             const Place<Float>& p,
                             BlockMemory<Float>& memory) {
  const bool stores = head() % a.heads_per_group == 0;
  const float* k = p.slot < p.sinks ? memory.k_sink : memory.k_ring;
#pragma unroll 1
  for (int i = static_cast<int>(threadIdx.x); i < a.K; i += kThreads) {
    memory.key[i] = narrow<Float>(k[i]);
    memory.value[i] = narrow<Float>(memory.v[i]);
    if (!stores) continue;
    p.keys[p.slot * a.K + i] = memory.key[i];
    p.values[p.slot * a.K + i] = memory.value[i];
  }
}

// Elements [first, first + 8) of a row of K, those beyond K zero. kPacked: K is a multiple of 8.
template <bool kPacked, class Float>
__device__ void load_lane(const Float* row, int first, int K, float (&to)[kPerLane]) {
  if constexpr (kPacked) {
    constexpr int kSize = Pack<Float>::kSize;
    Pack<Float> packs[kPerLane / kSize] = {};
    if (first < K)
#pragma unroll
      for (int j = 0; j < kPerLane / kSize; ++j)
        packs[j] = reinterpret_cast<const Pack<Float>*>(row + first)[j];
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) to[i] = widen(packs[i / kSize].values[i % kSize]);
  } else {
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) to[i] = first + i < K ? widen(row[first + i]) : 0.0f;
  }
}

// A lane's share of a softmax: all lanes of a group have the same top and sum.
struct Running {
  float top = kLeast, sum = 0;
  float out[kPerLane] = {};

  // Before weights relative to `larger` are added.
  __device__ void rescale(float larger) {
    const float factor = __expf(top - larger);
    top = larger;
    sum *= factor;
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) out[i] *= factor;
  }
  __device__ void join(int distance) {
    rescale(fmaxf(top, __shfl_xor_sync(0xffffffffu, top, distance)));
    sum += __shfl_xor_sync(0xffffffffu, sum, distance);
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) out[i] += __shfl_xor_sync(0xffffffffu, out[i], distance);
  }
};

// The warp's slots of the block: group by group of lanes, kAhead slots at a time.
template <bool kPacked, class Float>
__device__ Running attend(const AttendArguments& a,
                          const Place<Float>& p,
                          const BlockMemory<Float>& memory) {
  const int K = a.K, lanes = 1 << a.lanes_log, thread = static_cast<int>(threadIdx.x),
            first = (thread & (lanes - 1)) * kPerLane, groups = kThreads >> a.lanes_log,
            group = thread >> a.lanes_log;
  float q_ring[kPerLane], q_sink[kPerLane];
  load_lane<kPacked>(memory.q_ring, first, K, q_ring);
  load_lane<kPacked>(memory.q_sink, first, K, q_sink);
  Running running;
  for (int64_t base = p.begin; base < p.end; base += groups * kAhead) {
    float keys[kAhead][kPerLane], values[kAhead][kPerLane], scores[kAhead];
#pragma unroll
    for (int u = 0; u < kAhead; ++u) {
      const int64_t slot = std::min(base + u * groups + group, p.end - 1);
      const bool is_new = slot == p.slot;
      load_lane<kPacked>(is_new ? memory.key : p.keys + slot * K, first, K, keys[u]);
      load_lane<kPacked>(is_new ? memory.value : p.values + slot * K, first, K, values[u]);
    }
    float largest = running.top;
#pragma unroll
    for (int u = 0; u < kAhead; ++u) {
      const int64_t slot = base + u * groups + group;
      float score = 0;
#pragma unroll
      for (int i = 0; i < kPerLane; ++i)
        score += (slot < p.sinks ? q_sink[i] : q_ring[i]) * keys[u][i];
      for (int distance = 1; distance < lanes; distance *= 2)
        score += __shfl_xor_sync(0xffffffffu, score, distance);
      scores[u] = slot < p.end ? score : -INFINITY;
      largest = fmaxf(largest, scores[u]);
    }
    running.rescale(largest);
#pragma unroll
    for (int u = 0; u < kAhead; ++u) {
      const float weight = __expf(scores[u] - largest);
      running.sum += weight;
#pragma unroll
      for (int i = 0; i < kPerLane; ++i) running.out[i] += weight * values[u][i];
    }
  }
  for (int distance = lanes; distance < kWarp; distance *= 2) running.join(distance);
  return running;
}

// The warp's result, as a partial in shared memory.
__device__ void write_partial(const Running& running, int K, float* partials) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  float* to = partials + static_cast<int>(threadIdx.x) / kWarp * partial_size(K);
  if (lane == 0) {
    to[0] = running.top;
    to[1] = running.sum;
  }
  if (lane * kPerLane < K)
#pragma unroll
    for (int i = 0; i < kPerLane; ++i)
      if (lane * kPerLane + i < K) to[2 + lane * kPerLane + i] = running.out[i];
}

// What joins partials: each one's weight in shared memory, the joint top and sum, with the sink's
// logit (-inf: none). For the whole block.
struct Joint {
  float top, sum;
};
__device__ Joint
join_partials(const volatile float* partials, int count, int K, float logit, float* weights) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp, size = partial_size(K);
  float top = fmaxf(logit, kLeast), sum = 0;
#pragma unroll 2
  for (int c = lane; c < count; c += kWarp) top = fmaxf(top, partials[c * size]);
  top = warp_max(top);
#pragma unroll 2
  for (int c = lane; c < count; c += kWarp) {
    const float weight = __expf(partials[c * size] - top);
    sum += weight * partials[c * size + 1];
    if (threadIdx.x < kWarp) weights[c] = weight;
  }
  sum = warp_sum(sum) + __expf(logit - top);
  __syncthreads();
  return {top, sum};
}

// to[i] = factor * sum of the weighted partials.
__device__ void add_partials(const volatile float* partials,
                             int count,
                             int K,
                             const float* weights,
                             float factor,
                             float* to) {
#pragma unroll 1
  for (int i = static_cast<int>(threadIdx.x); i < K; i += kThreads) {
    float sum = 0;
#pragma unroll 4
    for (int c = 0; c < count; ++c) sum += weights[c] * partials[c * partial_size(K) + 2 + i];
    to[i] = factor * sum;
  }
}

// Blocks: shares of the slots, query heads, streams.
template <class Float, bool kPacked>
__global__ void __launch_bounds__(kThreads) attend_kernel(const AttendArguments a) {
  __shared__ BlockMemory<Float> memory;
  let_next_start();
  const int K = a.K;
  const float logit = a.sink_logit ? a.sink_logit[head()] : -INFINITY;
  prefetch(find_place<Float>(a, a.states[stream()]), K);
  await_inputs();
  const DecodeState state = a.states[stream()];  // on its way while the block rotates
  rotate(a, memory);
  const Place<Float> p = find_place<Float>(a, state);
  if (p.begin >= p.end) return;
  if (p.slot >= p.begin && p.slot < p.end) add_new_slot(a, p, memory);
  __syncthreads();
  write_partial(attend<kPacked>(a, p, memory), K, memory.partials);
  __syncthreads();

  const int blocks = static_cast<int>((p.used - 1) >> a.slots_log) + 1;  // that have slots
  const int64_t row = stream() * a.H + head();
  float* out = a.out + row * K;
  const Joint warps =
      join_partials(memory.partials, kWarps, K, blocks == 1 ? logit : -INFINITY, memory.weights);
  if (blocks == 1)
    return add_partials(memory.partials, kWarps, K, memory.weights, 1 / warps.sum, out);

  float* of_head = a.partials + row * gridDim.x * partial_size(K);
  float* mine = of_head + blockIdx.x * partial_size(K);
  add_partials(memory.partials, kWarps, K, memory.weights, 1, mine + 2);
  if (threadIdx.x == 0) {
    mine[0] = warps.top;
    mine[1] = warps.sum;
  }
  if (!is_last_block(a.counters + row, static_cast<unsigned>(blocks))) return;
  const Joint all = join_partials(of_head, blocks, K, logit, memory.weights);
  add_partials(of_head, blocks, K, memory.weights, 1 / all.sum, out);
}

int log_of(int64_t least) {
  int log = 0;
  while (int64_t{1} << log < least) ++log;
  return log;
}
// 64 slots a block are one round of loads for heads of 64.
int log_of_slots(int64_t most_slots) {
  return std::max(6, log_of(blocks_for(most_slots, kMostBlocks)));
}
int64_t blocks_of(int64_t most_slots) {
  return blocks_for(most_slots, int64_t{1} << log_of_slots(most_slots));
}
int64_t counter_bytes(int64_t streams, int64_t H) {
  return blocks_for(streams * H * static_cast<int64_t>(sizeof(unsigned)), 16) * 16;
}

}  // namespace

int64_t decode_attention_scratch(int64_t streams, const DecodeAttention& a) {
  return counter_bytes(streams, a.H) +
         streams * a.H * blocks_of(a.most_slots) * (2 + a.K) * static_cast<int64_t>(sizeof(float));
}

void decode_attention(const DecodeBatch& batch,
                      const DecodeAttention& a,
                      int64_t layer,
                      const float* sink_logit) {
  if (a.K > kMostK || a.H % a.G != 0)
    throw std::invalid_argument(
        "decoding on a GPU takes heads of up to 256, and query heads that "
        "are a multiple of the key/value heads");
  const auto small = [](int64_t x) { return static_cast<int>(x); };
  AttendArguments arguments{batch.states,
                            a.qkv,
                            a.angles,
                            sink_logit,
                            a.out,
                            static_cast<unsigned*>(a.scratch),
                            nullptr,
                            layer,
                            small(a.H),
                            small(a.G),
                            small(a.K),
                            small(a.rotary),
                            small(a.H / a.G),
                            log_of(blocks_for(a.K, kPerLane)),
                            log_of_slots(a.most_slots)};
  arguments.partials =
      reinterpret_cast<float*>(static_cast<char*>(a.scratch) + counter_bytes(batch.streams, a.H));
  const bool packed = a.K % kPerLane == 0;
  const auto kernel = a.cache == WeightType::kBf16
                          ? (packed ? attend_kernel<Bf16, true> : attend_kernel<Bf16, false>)
                          : (packed ? attend_kernel<float, true> : attend_kernel<float, false>);
  const dim3 grid(static_cast<unsigned>(blocks_of(a.most_slots)),
                  static_cast<unsigned>(a.H),
                  static_cast<unsigned>(batch.streams));
  launch_early(kernel, grid, dim3(kThreads), 0, arguments);
}

}  // namespace basin::kernels
