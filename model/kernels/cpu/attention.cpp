// Attention with fp32 arithmetic for every instruction set that Highway dispatches to, and the
// driver that shares the work items out to threads.
#include <hwy/aligned_allocator.h>
#include <omp.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

#include "model/kernels/cpu/attention_plan.h"
#include "model/kernels/cpu/parallel.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "model/kernels/cpu/attention.cpp"
// foreach_target.h has to come first.
// clang-format off
#include <hwy/foreach_target.h>
#include <hwy/highway.h>
#include <hwy/contrib/math/math-inl.h>
// clang-format on

HWY_BEFORE_NAMESPACE();
#include "model/kernels/cpu/attention_backward-inl.h"
#include "model/kernels/cpu/attention_forward-inl.h"
#include "model/kernels/cpu/attention_stream-inl.h"

namespace basin::kernels::HWY_NAMESPACE {

void forward_item_float(const ForwardCall<float>& call, const WorkItem& item) {
  Forward<FloatWords, float>(call, item).run();
}
void forward_item_bf16(const ForwardCall<Bf16>& call, const WorkItem& item) {
  Forward<FloatWords, Bf16>(call, item).run();
}
void backward_item_float(const BackwardCall<float>& call, const WorkItem& item) {
  Backward<FloatWords, float>(call, item).run();
}
void backward_item_bf16(const BackwardCall<Bf16>& call, const WorkItem& item) {
  Backward<FloatWords, Bf16>(call, item).run();
}
void stream_item_float(const StreamChunk<float>& chunk, const WorkItem& item) {
  StreamForward<FloatWords, float>(chunk, item).run();
}
void stream_item_bf16(const StreamChunk<Bf16>& chunk, const WorkItem& item) {
  StreamForward<FloatWords, Bf16>(chunk, item).run();
}
void store_tokens_f32(const StreamChunk<float>& chunk, int64_t g, int64_t begin, int64_t end) {
  store_tokens(chunk, g, begin, end);
}
void store_tokens_bf16(const StreamChunk<Bf16>& chunk, int64_t g, int64_t begin, int64_t end) {
  store_tokens(chunk, g, begin, end);
}
const char* target_name() {
  return hwy::TargetName(HWY_TARGET);
}

}  // namespace basin::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace basin::kernels {

HWY_EXPORT(forward_item_float);
HWY_EXPORT(forward_item_bf16);
HWY_EXPORT(backward_item_float);
HWY_EXPORT(backward_item_bf16);
HWY_EXPORT(stream_item_float);
HWY_EXPORT(stream_item_bf16);
HWY_EXPORT(store_tokens_f32);
HWY_EXPORT(store_tokens_bf16);
HWY_EXPORT(target_name);

float* scratch(Buffer which, int64_t floats) {
  struct Memory {
    hwy::AlignedFreeUniquePtr<float[]> floats;
    int64_t size = 0;
  };
  thread_local std::array<Memory, static_cast<size_t>(Buffer::kCount)> buffers;
  Memory& memory = buffers[static_cast<size_t>(which)];
  if (memory.size < floats) {
    memory.floats = hwy::AllocateAligned<float>(static_cast<size_t>(floats));
    memory.size = floats;
  }
  return memory.floats.get();
}

namespace {

int64_t parts_of(const AttentionShape& s) {
  constexpr int64_t kTokens = 64;  // of a part at least: a tile of keys
  return parts_per_item(s.B * s.G, (s.T + kTokens - 1) / kTokens, omp_get_max_threads());
}

template <class Call, class Item>
void run_items(const AttentionShape& shape, const Call& call, Item item, int64_t parts) {
  const int64_t count = shape.B * shape.G * parts, G = shape.G;
#pragma omp parallel for schedule(dynamic)
  for (int64_t i = 0; i < count; ++i)
    item(call, WorkItem{i / parts / G, i / parts % G, i % parts, parts});
}

ForwardItem<float> pick_forward(const float*) {
  return HWY_DYNAMIC_DISPATCH(forward_item_float);
}
ForwardItem<Bf16> pick_forward(const Bf16*) {
  const auto item = dot_kernels().forward;
  return item ? item : HWY_DYNAMIC_DISPATCH(forward_item_bf16);
}
BackwardItem<float> pick_backward(const float*) {
  return HWY_DYNAMIC_DISPATCH(backward_item_float);
}
BackwardItem<Bf16> pick_backward(const Bf16*) {
  const auto item = dot_kernels().backward;
  return item ? item : HWY_DYNAMIC_DISPATCH(backward_item_bf16);
}

StreamItem<float> pick_stream(const float*) {
  return HWY_DYNAMIC_DISPATCH(stream_item_float);
}
StreamItem<Bf16> pick_stream(const Bf16*) {
  const auto item = dot_kernels().stream;
  return item ? item : HWY_DYNAMIC_DISPATCH(stream_item_bf16);
}

void store(float x, float* to) {
  *to = x;
}
void store(float x, Bf16* to) {  // rounds to nearest even
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  to->bits = static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

/// dqkv's queries = sum over parts, in order.
template <class Float>
void sum_dq_parts(const BackwardCall<Float>& call, int64_t parts) {
  const AttentionShape& s = call.shape;
  const int64_t rows = s.B * s.T, n = s.H * s.K, stride = (s.H + 2 * s.G) * s.K;
#pragma omp parallel for
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t i = 0; i < n; ++i) {
      float sum = 0;
      for (int64_t part = 0; part < parts; ++part)
        sum += call.dq_parts[(part * rows + row) * n + i];
      store(sum, call.dqkv + row * stride + i);
    }
  }
}

}  // namespace

template <class Float>
void attention_forward(const AttentionShape& shape,
                       const Float* qkv,
                       const float* cos,
                       const float* sin,
                       const float* sink_logit,
                       const float* slopes,
                       Float* out,
                       float* lse) {
  run_items(shape,
            ForwardCall<Float>{shape, qkv, cos, sin, sink_logit, slopes, out, lse},
            pick_forward(qkv),
            parts_of(shape));
}

template <class Float>
void attention_backward(const AttentionShape& shape,
                        const Float* qkv,
                        const float* cos,
                        const float* sin,
                        const float* sink_logit,
                        const float* slopes,
                        const Float* out,
                        const float* lse,
                        const Float* dout,
                        Float* dqkv,
                        float* dsink_logit) {
  const int64_t parts = parts_of(shape);
  float* dq_parts = parts > 1 ? scratch(Buffer::kQueryGradientParts,
                                        parts * shape.B * shape.T * shape.H * shape.K)
                              : nullptr;
  double* dsink_parts =
      dsink_logit ? reinterpret_cast<double*>(scratch(Buffer::kSinkParts, 2 * shape.B * shape.H))
                  : nullptr;
  const BackwardCall<Float> call{
      shape, qkv, cos, sin, sink_logit, slopes, out, lse, dout, dqkv, dq_parts, dsink_parts};
  run_items(shape, call, pick_backward(qkv), parts);
  if (parts > 1) sum_dq_parts(call, parts);
  for (int64_t h = 0; dsink_logit && h < shape.H; ++h) {
    double sum = 0;
    for (int64_t b = 0; b < shape.B; ++b) sum += dsink_parts[b * shape.H + h];
    dsink_logit[h] = static_cast<float>(sum);
  }
}

// Sinks are stored before the queries read them from the cache, the ring's tokens after they have
// been read from the chunk: the ring's old entries are still wanted.
template <class Float>
void attention_stream(const StreamChunk<Float>& chunk) {
  const auto store_new = BASIN_PICK(Float, store_tokens);
  const int64_t skip = std::clamp<int64_t>(chunk.sinks - chunk.position, 0, chunk.T);
  for (int64_t g = 0; g < chunk.G; ++g) store_new(chunk, g, 0, skip);
  const AttentionShape shape{1, chunk.T, chunk.H, chunk.G, chunk.K, chunk.rotary};
  run_items(shape, chunk, pick_stream(chunk.qkv), parts_of(shape));
#pragma omp parallel for
  for (int64_t g = 0; g < chunk.G; ++g)
    store_new(chunk, g, std::max(skip, chunk.T - (chunk.recent + 1)), chunk.T);
}

template decltype(attention_stream<float>) attention_stream<float>;
template decltype(attention_stream<Bf16>) attention_stream<Bf16>;
template decltype(attention_forward<float>) attention_forward<float>;
template decltype(attention_forward<Bf16>) attention_forward<Bf16>;
template decltype(attention_backward<float>) attention_backward<float>;
template decltype(attention_backward<Bf16>) attention_backward<Bf16>;

const char* instruction_set() {
  return dot_kernels().forward ? "AVX3+BF16" : HWY_DYNAMIC_DISPATCH(target_name)();
}

}  // namespace basin::kernels
#endif
