// What a block of decode_layers.cu knows: its arguments, its shared memory, its place in the
// cluster, and the steps (phases) between two meetings of all clusters.
#pragma once

#include <cooperative_groups.h>

#include "model/kernels/cuda/decode_lanes.cuh"
#include "model/kernels/cuda/decode_launch.cuh"
#include "model/kernels/cuda/decode_layers.h"

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
constexpr int kElements = 8;  // of a pack

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

constexpr int kLanesOfRow = 8;    // where a row is spread over lanes, a pack each
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

#endif

}  // namespace
}  // namespace basin::kernels
