// What the attention kernels of all instruction sets share: the arguments of a call, the work items
// that run in parallel, scratch memory. Plain C++, compiled for the baseline instruction set.
#pragma once

#include <cstdint>

#include "model/kernels/kernels.h"

namespace basin::kernels {

inline constexpr float kLog2E = 1.4426950408889634f,
                       kLog2 = 0.6931471805599453f;  // 1 / log 2, log 2

/// Arguments of attention_forward (kernels.h).
template <class Float>
struct ForwardCall {
  AttentionShape shape;
  const Float* qkv;
  const float *cos, *sin, *sink_logit, *slopes;
  Float* out;
  float* lse;
};

/// Arguments of attention_backward (kernels.h), and where the parts of a split item leave what has
/// to be summed afterwards.
template <class Float>
struct BackwardCall {
  AttentionShape shape;
  const Float* qkv;
  const float *cos, *sin, *sink_logit, *slopes;
  const Float* out;
  const float* lse;
  const Float* dout;
  Float* dqkv;
  float* dq_parts;      // (parts, B, T, H K), used when an item has more than one part
  double* dsink_parts;  // (B, H) or null
};

/// One unit of parallel work: the query heads that share key/value head g of sample b; of these,
/// part `part` of `parts` (forward: every parts-th block of queries; backward: every parts-th block
/// of keys).
struct WorkItem {
  int64_t b, g, part, parts;
};

/// Into how many parts each of `items` equal items is split for `threads` threads: as few as leave
/// less than an eighth of the threads' time idle, else those that leave the least; `most` at most.
/// Every part packs the item's keys again, so more cost more. Reductions keep their order for a
/// shape and a thread count.
inline int64_t parts_per_item(int64_t items, int64_t most, int64_t threads) {
  int64_t best = 1, best_rounds = (items + threads - 1) / threads;  // of all threads at once
  for (int64_t parts = 1; parts <= most; ++parts) {
    const int64_t rounds = (items * parts + threads - 1) / threads;
    if (8 * items * parts >= 7 * rounds * threads) return parts;
    if (parts * best_rounds > best * rounds) best = parts, best_rounds = rounds;
  }
  return best;
}

template <class Float>
using StreamItem = void (*)(const StreamChunk<Float>&, const WorkItem&);
template <class Float>
using ForwardItem = void (*)(const ForwardCall<Float>&, const WorkItem&);
template <class Float>
using BackwardItem = void (*)(const BackwardCall<Float>&, const WorkItem&);

/// The AVX512-BF16 kernels of attention_bf16.cpp; null where the processor or the build has none.
struct DotKernels {
  ForwardItem<Bf16> forward = nullptr;
  BackwardItem<Bf16> backward = nullptr;
  StreamItem<Bf16> stream = nullptr;
};
DotKernels dot_kernels();

/// Scratch buffers of a thread, by use. A buffer keeps its memory from call to call and grows when
/// asked for more; its contents are undefined.
enum class Buffer {
  kKeyRows,
  kKeyPairs,
  kValueRows,
  kValuePairs,
  kSinkKeyRows,
  kSinkValuePairs,
  kRows,
  kWords,
  kQueryByWord,
  kQueryByRow,
  kDoutByWord,
  kDoutByRow,
  kScores,
  kProbabilityRows,
  kGradientRows,
  kPairs,
  kTile,
  kKeyGradient,
  kValueGradient,
  kStatistics,
  kQueryGradientParts,
  kSinkParts,
  kCount
};

/// At least `floats` floats, 64-byte aligned, of the calling thread.
float* scratch(Buffer which, int64_t floats);

}  // namespace basin::kernels
