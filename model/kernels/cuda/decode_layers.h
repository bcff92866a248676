// All layers of a decoding step in one launch, for one stream in bf16 on GPUs with thread block
// clusters (sm_90 on): a cluster for each query head, and one meeting of all clusters a layer (two
// without a parallel residual). Elsewhere the launches of decode.h do the same work.
#pragma once

#include "model/kernels/cuda/decode.h"

namespace basin::kernels {

/// Pointers to device memory; biases may be null.
struct DecodeLayer {
  const Bf16 *qkv, *out, *up, *down;  // ((H + 2G) K, D), (D, H K), (F or 2F, D), (D, F)
  const float *qkv_bias, *out_bias, *up_bias, *down_bias;
  const float *attention_norm, *attention_norm_bias, *mlp_norm, *mlp_norm_bias;  // (D)
  const float* sink_logit;                                                       // (H) or null
};

struct DecodeLayers {
  int64_t L = 0, D = 0, F = 0;
  int64_t H = 0, G = 0, K = 0;
  int64_t rotary = 0, most_slots = 0;  // as in DecodeAttention
  bool is_rms = true, is_swiglu = true, is_parallel = false;
  float eps = 0;
  const DecodeLayer* layers = nullptr;  // (L), in device memory
  DecodeState* state = nullptr;
  const float* angles = nullptr;  // decode_begin's
  float* h = nullptr;             // (D), decode_begin's; becomes the residual stream behind all layers
  void* scratch = nullptr;        // decode_layers_scratch bytes, zero before the first use
};

/// Whether decode_layers takes these sizes on the current device.
bool takes_decode_layers(const DecodeLayers& layers);
void decode_layers(const DecodeLayers& layers);
int64_t decode_layers_scratch(const DecodeLayers& layers);

}  // namespace basin::kernels
