// A decoding step of N independent streams on a GPU: launches that a CUDA graph captures once and
// replays for every token. What changes from token to token, position and id, lies in device memory
// (DecodeState); nothing is allocated; the host passes only what stays. One stream, or up to eight,
// read each weight once. Activations and sums are fp32, y and h included. All pointers are to the
// device.
//
// A step: decode_begin; for each layer decode_product (norm, qkv), decode_attention, and the other
// products, which add to the residual stream h themselves; the head's product; decode_greedy or
// decode_advance. Launches overlap: each loads its weights while the one before still runs. So
// weights, norms, biases and sinks' logits must have been written before decode_begin was launched.
#pragma once

#include <cstdint>

#include "model/kernels/decode.h"

namespace basin::kernels {

/// One stream, an element of an array in device memory. The host writes it when a stream begins or
/// moves; a step reads it and moves `position` (and `token`, when greedy) on. Sinks and ring as in
/// infer/kv_cache.h.
struct DecodeState {
  int64_t position = 0;                     // tokens of the stream so far, sinks included
  int64_t token = 0;                        // id of the next one, in the vocabulary
  int64_t start = 0;                        // where decode_greedy's output begins, a position
  int64_t origin = 0;                       // added to the position that the ring is rotated at
  int64_t sinks = 0, recent = 1;            // S, R; the cache has S + R + 1 slots
  void *keys = nullptr, *values = nullptr;  // (L, G, S + R + 1, K), keys rotated
};

struct DecodeBatch {
  int64_t streams = 0;  // N
  DecodeState* states = nullptr;
};

struct DecodeEmbedding {
  WeightType type = WeightType::kF32;  // or kBf16
  const void* table = nullptr;         // (V, D)
  int64_t D = 0;
  int64_t half = 0;                     // rotary / 2, 0: nothing rotates
  const double* frequencies = nullptr;  // (half), model/rope.h
};

/// h (N, D) = the tokens' rows. angles (N, 4, half) = cosines and sines at the true position, then
/// at the sinks' distance; computed in double and reduced before the sine.
void decode_begin(const DecodeBatch& batch,
                  const DecodeEmbedding& embedding,
                  float* h,
                  float* angles);

/// weight null: no norm. The bias may be null.
struct DecodeNorm {
  const float *weight = nullptr, *bias = nullptr;  // (columns)
  bool is_rms = true;                              // RMSNorm or LayerNorm
  float eps = 0;
};

/// What becomes of a row's sum. kSwiglu: the matrix is (2F, D), gate first, and y (N, F) is
/// silu(gate) * up; the others have y (N, rows). kGelu: erf form.
enum class DecodeEpilogue { kStore, kAdd, kGelu, kSwiglu };

/// What a launch asks for ahead, so that memory is never idle: weights of the launches after it.
struct DecodeBytes {
  const void* data = nullptr;
  int64_t size = 0;
};

/// y[n, r] (+)= epilogue(w[r] . norm(x[n]) + bias[r]), and with `also` (same rows; not with a norm)
/// the sum of both products: attention and MLP of a parallel residual.
struct DecodeProduct {
  WeightMatrix w;
  const float* x = nullptr;  // (N, columns)
  float* y = nullptr;
  DecodeEpilogue epilogue = DecodeEpilogue::kStore;
  DecodeNorm norm = {};
  WeightMatrix also = {};         // rows 0: none
  const float* also_x = nullptr;  // (N, also.columns)
  DecodeBytes next[2] = {};       // of two products side by side, the first one's count
};

/// One launch for every eight streams (fewer where a norm's columns fill shared memory). Columns
/// that are no multiple of 16 bytes work, slowly. Throws std::invalid_argument for a norm over more
/// than decode_most_norm_columns and for Q8 of other columns than blocks of 32.
void decode_product(int64_t streams, const DecodeProduct& product);
/// Two products side by side in one launch. Weights of the same type.
void decode_products(int64_t streams, const DecodeProduct& a, const DecodeProduct& b);

/// What the current device's shared memory allows: 19284 on an H100, 8360 on GeForce cards.
int64_t decode_most_norm_columns();

constexpr int64_t kMostDecodeHeadSize = 256;

struct DecodeAttention {
  int64_t H = 0, G = 0, K = 0;          // query heads, key/value heads, head size
  int64_t rotary = 0;                   // rotated dimensions of a head, even, 0: none
  int64_t most_slots = 0;               // of any stream's cache
  WeightType cache = WeightType::kF32;  // or kBf16
  const float* qkv = nullptr;           // (N, (H + 2G) K), unrotated
  const float* angles = nullptr;        // decode_begin's
  float* out = nullptr;                 // (N, H K)
  void* scratch = nullptr;              // decode_attention_scratch bytes, zero before the first use
};

/// Stores the new token's key and value into its slot of the layer's cache, then attends over the
/// sinks and the ring. sink_logit (H) or null: one more term of the softmax's denominator.
void decode_attention(const DecodeBatch& batch,
                      const DecodeAttention& attention,
                      int64_t layer,
                      const float* sink_logit);
/// For `streams` streams; all layers share it.
int64_t decode_attention_scratch(int64_t streams, const DecodeAttention& attention);

struct DecodeGreedy {
  int64_t V = 0;
  const float* logits = nullptr;  // (N, V)
  int64_t capacity = 0;           // 0: no output
  int64_t* output = nullptr;  // (N, capacity): what follows position p, at (p - start) % capacity
  void* scratch = nullptr;    // decode_greedy_scratch bytes, zero before the first use
};

/// In the output, instead of a token, where the largest logit is not finite; a NaN counts as larger
/// than any other. The state then gets some token of the vocabulary.
constexpr int64_t kNotFinite = -1;

/// The next token is the one with the largest logit, of equals the lowest id; it goes to the state
/// and to the output, and the position moves on.
void decode_greedy(const DecodeBatch& batch, const DecodeGreedy& greedy);
int64_t decode_greedy_scratch(int64_t streams);

/// Only the position moves on: somebody else picks the token.
void decode_advance(const DecodeBatch& batch);

}  // namespace basin::kernels
