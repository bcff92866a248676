// Rows of weights times a few vectors, in one block: what decode_product.cu's kernel is made of. A
// warp takes a few rows at once, so that each vector it reads meets all of them; where rows are few
// and long, several warps of a block share them. Some packs of weights a lane are always under
// way: the next ones are loaded before a row's sums are gathered.
#pragma once

#include "model/kernels/cuda/decode.h"
#include "model/kernels/cuda/decode_lanes.cuh"
#include "model/kernels/cuda/decode_launch.cuh"

namespace basin::kernels {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / kWarp;
constexpr int kMostVectors = 8;
constexpr int rows_of_warp(int vectors) {
  return vectors <= 2 ? 2 : 4;
}
// Packs of each of its rows that a lane has under way.
constexpr int packs_ahead(int vectors) {
  return vectors <= 2 ? 4 : vectors <= 4 ? 2 : 1;
}
// Blocks that a multiprocessor has registers for.
constexpr int blocks_of_processor(int vectors) {
  return vectors == 1 ? 3 : 2;
}

constexpr int elements_of_pack(WeightType type) {
  return type == WeightType::kF32 ? 4 : type == WeightType::kBf16 ? 8 : 16;
}

struct Term {
  const unsigned char* data;
  const uint16_t* scales;
  const float *bias, *x;
  int columns, packs;  // packs of a row
};

// One product. The rows of both terms count as one long row, `a` first.
struct Job {
  Term a, b;  // b without columns: none
  DecodeNorm norm;
  float* y;
  DecodeEpilogue epilogue;
  int rows, outputs;  // of the matrix; of y
  int vectors;
  int groups;       // of the rows that a warp takes at once
  int sharing_log;  // of the number of warps that share a group, up to kWarps
  bool in_packs;    // rows of whole, aligned packs
  bool staged;      // the vectors go to shared memory first
};
struct Jobs {
  Job first, second;
  int first_blocks;
  DecodeBytes next[2];
};

// A finite fp16: its exponent moves from fp16's bias to fp32's.
__device__ float from_fp16(uint16_t bits) {
  const uint32_t magnitude = bits & 0x7FFFu, sign = bits & 0x8000u;
  return from_bits(sign << 16 | magnitude << 13) * 0x1p112f;
}

// Weights 4q to 4q + 3 of a pack.
template <WeightType kType>
__device__ void unpack(const Words& pack, int q, float scale, float (&to)[4]) {
  if constexpr (kType == WeightType::kF32) {
#pragma unroll
    for (int i = 0; i < 4; ++i) to[i] = from_bits(pack.values[i]);
  } else if constexpr (kType == WeightType::kBf16) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const uint32_t two = pack.values[2 * q + i / 2];
      to[i] = from_bits(i % 2 == 0 ? two << 16 : two & 0xFFFF0000u);
    }
  } else {
#pragma unroll
    for (int i = 0; i < 4; ++i)
      to[i] = scale * static_cast<float>(static_cast<int8_t>(pack.values[q] >> (8 * i) & 0xFFu));
  }
}

// Row r of a group; rows past the end repeat the last. SwiGLU's groups are half gates, half ups.
template <int kRows>
__device__ int64_t row_of(const Job& job, int group, int r) {
  if (job.epilogue != DecodeEpilogue::kSwiglu) return std::min(group * kRows + r, job.rows - 1);
  constexpr int kUnits = kRows / 2;
  const int unit = std::min(group * kUnits + r % kUnits, job.outputs - 1);
  return unit + (r < kUnits ? 0 : job.outputs);
}

// Where a block's warp is in its work. All warps of a block take the same steps.
struct Cursor {
  int turn;   // groups before the block's first one
  int first;  // packs of the row before this round
};

// The block's vectors, (vectors, stride), in shared memory or where they were.
struct Vectors {
  const float *a, *b;
  int a_stride, b_stride;
};

// What a warp does: rounds of packs over its groups of rows.
template <WeightType kType, int kVectors>
struct Rows {
  static constexpr int kRows = rows_of_warp(kVectors), kAhead = packs_ahead(kVectors),
                       kSums = kRows * kVectors, kElements = elements_of_pack(kType);
  const Job& job;
  Words packs[kRows][kAhead];
  uint16_t scales[kRows][kAhead];
  float sums[kSums] = {};      // (kVectors, kRows)
  float bias = 0, before = 0;  // of the lane's own output: what finish adds, fetched early

  __device__ explicit Rows(const Job& job_in) : job(job_in) {}

  __device__ int group(int turn) const { return turn + (warp_index() >> job.sharing_log); }
  __device__ int sharing() const { return 1 << job.sharing_log; }
  // The warp's part of the group's rows, among those that share it.
  __device__ int part() const { return warp_index() & (sharing() - 1); }
  __device__ int pack(int first, int u) const {
    return first + (u * sharing() + part()) * kWarp + lane_index();
  }
  __device__ int round() const { return kAhead * sharing() * kWarp; }
  __device__ int all_packs() const { return job.a.packs + job.b.packs; }

  // The weights of a round, and with its first round a group's bias.
  __device__ void load(const Cursor& at) {
    if (at.first == 0) load_bias(at.turn);
#pragma unroll
    for (int u = 0; u < kAhead; ++u) {
      int p = pack(at.first, u);
      if (p >= all_packs()) {
#pragma unroll
        for (int r = 0; r < kRows; ++r) packs[r][u] = {};
        continue;
      }
      const bool in_b = p >= job.a.packs;
      if (in_b) p -= job.a.packs;
      const unsigned char* data = in_b ? job.b.data : job.a.data;
      const uint16_t* all_scales = in_b ? job.b.scales : job.a.scales;
      const int row_packs = in_b ? job.b.packs : job.a.packs;
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        const int64_t i = row_of<kRows>(job, group(at.turn), r) * row_packs + p;
        packs[r][u] = stream_words(data + i * 16);
        if constexpr (kType == WeightType::kQ8) scales[r][u] = all_scales[i * kElements / kQ8Block];
      }
    }
  }

  // Packs beyond the row are zero: for few vectors it is quicker to multiply them too, as without
  // branches all loads go out at once.
  __device__ void multiply(const Cursor& at, const Vectors& x) {
#pragma unroll
    for (int u = 0; u < kAhead; ++u) {
      int p = pack(at.first, u);
      if (kVectors > 2 && p >= all_packs()) continue;
      p = std::min(p, all_packs() - 1);
      const bool in_b = p >= job.a.packs;
      if (in_b) p -= job.a.packs;
      add_pack(u, (in_b ? x.b : x.a) + p * kElements, in_b ? x.b_stride : x.a_stride);
    }
  }

  // The lane's u-th packs of all rows times what they meet of each vector.
  __device__ void add_pack(int u, const float* x, int stride) {
#pragma unroll
    for (int q = 0; q < kElements / 4; ++q) {
      float w[kRows][4];
#pragma unroll
      for (int r = 0; r < kRows; ++r)
        unpack<kType>(
            packs[r][u], q, kType == WeightType::kQ8 ? from_fp16(scales[r][u]) : 1.0f, w[r]);
#pragma unroll
      for (int n = 0; n < kVectors; ++n) {
        const float* of_n = x + static_cast<int64_t>(std::min(n, job.vectors - 1)) * stride + 4 * q;
        const Pack<float> values = *reinterpret_cast<const Pack<float>*>(of_n);
#pragma unroll
        for (int r = 0; r < kRows; ++r)
#pragma unroll
          for (int i = 0; i < 4; ++i) sums[n * kRows + r] += w[r][i] * values.values[i];
      }
    }
  }

  // Rows of other lengths: element by element.
  template <class Float>
  __device__ void add_elements(int turn, const Term& term, const float* x, int stride) {
    for (int i = part() * kWarp + lane_index(); i < term.columns; i += sharing() * kWarp)
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        const int64_t row = row_of<kRows>(job, group(turn), r);
        const float w = widen(reinterpret_cast<const Float*>(term.data)[row * term.columns + i]);
#pragma unroll
        for (int n = 0; n < kVectors; ++n)
          sums[n * kRows + r] +=
              w * x[static_cast<int64_t>(std::min(n, job.vectors - 1)) * stride + i];
      }
  }

  // Lanes are (vector, row of the group), as often as they fit.
  __device__ int own_row() const {
    return lane_index() % kRows;
  }
  // Where the lane's sum goes; null where nothing does.
  __device__ float* output(int turn) const {
    constexpr int kUnits = kRows / 2;
    const bool is_swiglu = job.epilogue == DecodeEpilogue::kSwiglu;
    const int n = lane_index() / kRows, r = own_row(),
              place = group(turn) * (is_swiglu ? kUnits : kRows) + r;
    if (n >= job.vectors || place >= job.outputs || (is_swiglu && r >= kUnits)) return nullptr;
    return job.y + static_cast<int64_t>(n) * job.outputs + place;
  }

  __device__ void load_bias(int turn) {
    const int64_t row = row_of<kRows>(job, group(turn), own_row());
    bias = (job.a.bias ? job.a.bias[row] : 0) + (job.b.bias ? job.b.bias[row] : 0);
  }
  __device__ void load_before(int turn) {
    const float* y = output(turn);
    before = y && job.epilogue == DecodeEpilogue::kAdd ? *y : 0;
  }

  // The group's sums, gathered from the lanes and warps, go to y. For the whole block.
  __device__ void finish(int turn, float group_bias) {
    __shared__ float of_warps[kWarps][kWarp];
    float sum = gathered_sum(sums);
    if (sharing() > 1) {
      of_warps[warp_index()][lane_index()] = sum;
      __syncthreads();
      if (part() == 0)
#pragma unroll 1
        for (int other = 1; other < sharing(); ++other)
          sum += of_warps[warp_index() + other][lane_index()];
      __syncthreads();
    }
    if (part() == 0) store(turn, sum + group_bias);
#pragma unroll
    for (float& s : sums) s = 0;
  }

  __device__ void store(int turn, float sum) const {
    const float up = __shfl_xor_sync(0xffffffffu, sum, kRows / 2);
    float* y = output(turn);
    if (!y) return;
    switch (job.epilogue) {
      case DecodeEpilogue::kStore:
      case DecodeEpilogue::kAdd:
        *y = before + sum;
        break;
      case DecodeEpilogue::kGelu:
        *y = sum * normcdff(sum);
        break;
      case DecodeEpilogue::kSwiglu:
        *y = sum / (1 + __expf(-sum)) * up;
        break;
    }
  }
};

}  // namespace
}  // namespace basin::kernels
