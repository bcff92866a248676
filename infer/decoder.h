// The fast way to take the next token through a model on the CPU: one for each of N independent
// streams, every weight read once for all of them. Nothing is allocated and no LibTorch op runs in
// a step. Transformer::decode with the same caches is the plain reference, and what runs elsewhere.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "infer/kv_cache.h"
#include "model/kernels/decode.h"
#include "model/transformer.h"

namespace basin {

/// How the matrices lie in memory while decoding: as the model has them (fp32 or bf16), or in 8
/// bits (blocks of 32 with a scale each, llama.cpp's Q8_0).
enum class DecodeWeights { kModel, kQ8 };

/// A matrix (rows, columns) in 8 bits, on the CPU, as kernels::WeightMatrix wants it: int8 values,
/// and fp16 bits of the scales with padding behind them. Throws std::invalid_argument unless
/// columns come in whole blocks, and std::runtime_error, with the matrix' `name`, for weights that
/// are not finite or too large for an fp16 scale.
struct Q8Weights {
  at::Tensor values, scales;
};
Q8Weights quantize_q8(const at::Tensor& weight, const std::string& name);

/// Rounds the matrices that DecodeWeights::kQ8 keeps in 8 bits to those 8 bits, in the model itself
/// (a bf16 model rounds them once more): prompts, which go through the model, then see the weights
/// that single tokens see. Throws as Decoder does.
void round_to_q8(Transformer& model);

class Decoder {
 public:
  /// `model` must outlive the decoder, be on the CPU and fp32 or bf16 (`supports`). Norms, residual
  /// stream and sums are fp32. Q8 needs matrices whose rows are multiples of 32: others throw
  /// std::invalid_argument.
  explicit Decoder(const Transformer& model, DecodeWeights weights = DecodeWeights::kModel);

  static bool supports(const Transformer& model);

  /// ids[n] is the next token of the stream in *caches[n], which advances by it. Returns the logits
  /// (N, V), valid until the next step. Ids must lie in the vocabulary.
  std::span<const float> step(std::span<const int64_t> ids, std::span<KvCache* const> caches);

  /// Bytes of weights that a step reads.
  int64_t weight_bytes() const;

 private:
  struct Norm {
    at::Tensor weight, bias;  // fp32 (D); bias undefined for RMSNorm
  };
  struct Layer {
    Norm attention_norm, mlp_norm;  // the latter without weight where both read the same
    kernels::WeightMatrix qkv, out, up, down;
    at::Tensor sink_logit;  // fp32 (H) or undefined
  };
  // One thread's place in a step, and what only it writes.
  struct Worker {
    int64_t index = 0, count = 1;
    float *h = nullptr, *normed = nullptr, *mlp_normed = nullptr, *stats = nullptr,
          *scratch = nullptr;
  };

  kernels::WeightMatrix matrix(const std::string& name, DecodeWeights format);
  void make_room(int64_t streams);
  const float* place_alibi(int64_t stream, const KvCache& cache);
  void run(const Worker& worker, std::span<const int64_t> ids, std::span<KvCache* const> caches);
  void embed(const Worker& worker, std::span<const int64_t> ids) const;
  void normalize(const Worker& worker, const Norm& norm, const float* delta, float* y) const;
  void product(const Worker& worker,
               const kernels::WeightMatrix& w,
               const float* x,
               float* y) const;
  void up(const Worker& worker, const Layer& layer, const float* x);
  void attend(const Worker& worker, int64_t layer, std::span<KvCache* const> caches);

  const Transformer& model_;
  std::vector<double> frequencies_;
  std::vector<Layer> layers_;
  kernels::WeightMatrix head_;
  Norm final_norm_;
  at::Tensor embedding_;
  std::vector<at::Tensor> owned_;  // what the matrices point to, where it is not the model's own
  int64_t streams_ = 0;            // N of the running step
  int64_t room_ = 0, room_slots_ = 0;  // streams and cache slots that the buffers below suffice for
  std::vector<kernels::StreamStep> steps_;
  at::Tensor shared_, private_, angles_;  // fp32
  at::Tensor alibi_;                      // fp32 (streams, H, room_slots_), undefined without ALiBi
  float *qkv_ = nullptr, *attended_ = nullptr, *up_ = nullptr, *activated_ = nullptr,
        *delta_ = nullptr, *mlp_delta_ = nullptr, *logits_ = nullptr;  // in shared_: (N, ..)
};

}  // namespace basin
