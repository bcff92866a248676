// CPU kernels of a decoding step: a few rows of activations (one per stream) meet every weight
// once. Activations and sums are fp32; 8-bit weights, and bf16 ones where the processor multiplies
// bf16, meet activations rounded to 16 bits. No kernel starts threads: the caller gives each of its
// threads a range. Tested against fp64.
#pragma once

#include <cstdint>

#include "model/kernels/kernels.h"

namespace basin::kernels {

enum class WeightType { kF32, kBf16, kQ8 };

constexpr int64_t kQ8Block = 32;  // consecutive weights of a row that share a scale

/// A weight matrix (rows, columns), row by row. kQ8: int8 values, and one fp16 scale for each block
/// of kQ8Block of them (the numbers of llama.cpp's Q8_0, values and scales apart); columns is a
/// multiple of kQ8Block then, and `scales` has kQ8ScalePadding readable elements behind its end.
struct WeightMatrix {
  WeightType type = WeightType::kF32;
  int64_t rows = 0, columns = 0;
  const void* data = nullptr;        // float, Bf16 or int8_t
  const uint16_t* scales = nullptr;  // fp16 bits (rows, columns / kQ8Block), kQ8 only
  const float* bias = nullptr;       // (rows) or null
};

constexpr int64_t kQ8ScalePadding = 16;

/// y[n, r] = w[r] . x[n] + bias[r] for rows r in [begin, end); x (count, columns), y (count, rows).
void matvec(
    const WeightMatrix& w, int64_t begin, int64_t end, int64_t count, const float* x, float* y);

/// w (n) -> values and scales of its n / kQ8Block blocks: scale = max |w| / 127 as fp16, value =
/// round(w / scale). Of finite weights only.
void quantize_q8(int64_t n, const float* w, int8_t* values, uint16_t* scales);

/// y = silu(gate) * up, n elements each.
void swiglu_elements(int64_t n, const float* gate, const float* up, float* y);
/// y = gelu(x), erf form.
void gelu_elements(int64_t n, const float* x, float* y);

/// One token of one stream as one layer sees it: what its query attends to lies in slots
/// [0, sinks + ring) of the cache, its own key and value (written first) among them.
struct StreamStep {
  int64_t H, G, K;      // query heads, key/value heads, head size
  int64_t rotary;       // rotated dimensions of a head, even, 0: none
  int64_t slots;        // of the cache: keys and values are (G, slots, K)
  int64_t sinks, ring;  // slots in use
  int64_t slot;         // where the new key and value go; rotated as a sink when slot < sinks
  const float *cos_ring, *sin_ring;  // (rotary / 2) at the true position
  const float *cos_sink, *sin_sink;  // (rotary / 2) at the sinks' distance
  const float* sink_logit;           // (H) or null
  const float* alibi = nullptr;      // (H, slots), added to the scores of the slots in use, or null
};

/// What it reads and writes.
template <class Float>
struct StreamMemory {
  const float* qkv;      // ((H + 2G) K), unrotated
  Float *keys, *values;  // of the cache, one layer
  float* scratch;        // stream_scratch(s) floats of the calling thread
  float* out;            // (H K)
};

/// Key/value head g and its H / G query heads.
template <class Float>
void stream_attention(const StreamStep& s, int64_t g, const StreamMemory<Float>& memory);

int64_t stream_scratch(const StreamStep& s);

/// Largest of n >= 1 logits; NaN if any is.
float largest_logit(int64_t n, const float* logits);
/// weights = exp((logits - largest) * factor), in [0, 1].
void sampling_weights(int64_t n, const float* logits, float largest, float factor, float* weights);
/// Of the weights that are not less than `least`.
struct WeightsAbove {
  double sum = 0;
  int64_t count = 0;
};
WeightsAbove sum_weights(int64_t n, const float* weights, float least);
/// Weights less than `least` become 0.
void drop_weights_below(int64_t n, float least, float* weights);

}  // namespace basin::kernels
