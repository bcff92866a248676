// The weights of a phase, in registers before they are wanted: rows whose results the cluster
// shares, and columns of the output matrices.
#pragma once

#include "model/kernels/cuda/decode_layers_shared.cuh"

namespace basin::kernels {
namespace {

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900

// Rows of the phase's first matrices, one after another by the cluster's warps: q, k and v of the
// head, then units of the MLP (all gates, then all ups).
template <int kPacks>
struct RowWeights {
  Words packs[kRows][kPacks];
  float bias;                    // of row lane % 8
  float4 norm[2], norm_bias[2];  // of the thread's elements of h

  // Row r: its matrix and place; null: none.
  static __device__ const Bf16* row(
      const Arguments& a, const DecodeLayer& layer, const Phase& phase, int r, const float** bias) {
    *bias = nullptr;
    const int warp = cluster_warp(), attention_rows = phase.attends ? 3 : 0;
    if (r < attention_rows) {
      const int group = head() / (a.H / a.G), at = (r == 0   ? head()
                                                    : r == 1 ? a.H + group
                                                             : a.H + a.G + group) *
                                                       kHead +
                                                   warp;
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
    if (phase.attends)
      norm[0] = four(layer.attention_norm), norm_bias[0] = four(layer.attention_norm_bias);
    if (phase.has_mlp) norm[1] = four(layer.mlp_norm), norm_bias[1] = four(layer.mlp_norm_bias);
  }

  // Lane l has the sum of row l % 8.
  __device__ float multiply(const Phase& phase, const Memory& memory) const {
    float sums[8] = {};
#pragma unroll
    for (int i = 0; i < kPacks; ++i) {
      const int at = (i * kWarp + lane_index()) * kElements;
      const Eight for_mlp = load_eight(memory.x[1] + at),
                  first = phase.attends ? load_eight(memory.x[0] + at) : for_mlp;
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
    return rank() * (a.D / kBlocks) + (round * kWarps + warp_index()) * (kWarp / kLanesOfRow) +
           lane_index() / kLanesOfRow;
  }
  static __device__ int lane() { return lane_index() % kLanesOfRow; }

  __device__ void load(const Arguments& a, const Memory& memory, int p) {
    const Phase phase = phase_of(a, p);
    const DecodeLayer& layer = memory.layers[phase.layer];
#pragma unroll
    for (int round = 0; round < kPacks; ++round) {
      const int64_t at = row(a, round);
      out[round] = {};
      if (phase.attends)
        out[round] = load_pack(layer.out + at * a.H * kHead + head() * kHead + lane() * kElements);
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
      for (int round = 0; round < kPacks; ++round)
        sums[round] = dot(down[round][i], units, sums[round]);
    }
#pragma unroll
    for (int distance = 1; distance < kLanesOfRow; distance *= 2)
#pragma unroll
      for (float& sum : sums) sum += __shfl_xor_sync(0xffffffffu, sum, distance);
    if (lane() != 0) return;
#pragma unroll
    for (int round = 0; round < kPacks; ++round)
      to[row(a, round)] = sums[round] + out_bias[round] + down_bias[round];
  }
};

#endif

}  // namespace
}  // namespace basin::kernels
