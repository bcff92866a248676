// Attention of a head by the blocks of its cluster, an eighth of the cache each.
#pragma once

#include "model/kernels/cuda/decode_layers_shared.cuh"

namespace basin::kernels {
namespace {

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900

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
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(
                     static_cast<unsigned>(__cvta_generic_to_shared(to))),
                 "l"(from)
                 : "memory");
  }
  static __device__ void commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
  static __device__ void wait_for_all_but_one() {
    asm volatile("cp.async.wait_group 1;" ::: "memory");
  }
};

__device__ Slots slots_of(const Arguments& a,
                          const DecodeState& state,
                          Bf16* kept,
                          int64_t capacity) {
  const int64_t S = state.sinks, ring = state.recent + 1, t = state.position,
                used = min(t + 1, S + ring), share = (used + kBlocks - 1) / kBlocks,
                begin = min(rank() * share, used);
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

// The query as ring and sinks see it; the new key and value go to the kept slots, and to the cache.
__device__ void rotate(const Arguments& a, const Slots& slots, int layer, Memory& memory) {
  const int i = static_cast<int>(threadIdx.x);
  if (i < kHead) {
    const int half = a.rotary / 2, j = partner_of(i, half);
    const Turn ring = turn_of(i, half, memory.cosines[0]),
               sinks = turn_of(i, half, memory.cosines[1]);
    constexpr float kScale = 0.125f;  // 1 / sqrt(K)
    memory.q_ring[i] = kScale * turned(ring, memory.qkv[0][i], memory.qkv[0][j]);
    memory.q_sink[i] = kScale * turned(sinks, memory.qkv[0][i], memory.qkv[0][j]);
    const int64_t place = slots.slot - slots.begin;
    if (place >= 0 && place < slots.count) {
      const Turn turn = slots.slot < slots.sinks ? sinks : ring;
      const Bf16 key = narrow<Bf16>(turned(turn, memory.qkv[1][i], memory.qkv[1][j])),
                 value = narrow<Bf16>(memory.qkv[2][i]);
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
  constexpr int kAhead = 5,
                kGroups =
                    kThreads / kLanesOfRow;  // 160 slots: an eighth of 1024 and the new one at once
  const int lane = lane_index() % kLanesOfRow, group = static_cast<int>(threadIdx.x) / kLanesOfRow,
            count = static_cast<int>(slots.count);
  const Bf16 *keys = slots.kept_keys(layer) + lane * kElements,
             *values = slots.kept_values(layer) + lane * kElements;
  const Eight q_ring = load_eight(memory.q_ring + lane * kElements),
              q_sink = load_eight(memory.q_sink + lane * kElements);
  Running running;
  for (int base = 0; base < count; base += kAhead * kGroups) {
    float scores[kAhead], largest = running.top;
#pragma unroll
    for (int u = 0; u < kAhead; ++u) {
      const int i = base + u * kGroups + group;
      const Words key = *reinterpret_cast<const Words*>(keys + min(i, count - 1) * kHead);
      float score = dot(key, slots.begin + i < slots.sinks ? q_sink : q_ring, 0);
#pragma unroll
      for (int distance = 1; distance < kLanesOfRow; distance *= 2)
        score += __shfl_xor_sync(0xffffffffu, score, distance);
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
  const int i = static_cast<int>(threadIdx.x) % kHead,
            quarter = static_cast<int>(threadIdx.x) / kHead;
  const Joint warps = join(memory.of_warps, i, -INFINITY);
#pragma unroll
  for (int k = 0; k < 2; ++k) {
    Partial* to = cluster.map_shared_rank(&memory.of_blocks[rank()], 2 * quarter + k);
    to->out[i] = warps.out;
    if (i == 0) to->top = warps.top, to->sum = warps.sum;
  }
  cluster.sync();
  if (threadIdx.x < kHead) {
    const Joint all =
        join(memory.of_blocks, i, layer.sink_logit ? layer.sink_logit[head()] : -INFINITY);
    memory.attended[i] = all.out / all.sum;
  }
  __syncthreads();
}

#endif

}  // namespace
}  // namespace basin::kernels
