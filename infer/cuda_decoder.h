// The next token of N independent streams on a GPU: a fixed sequence of launches, recorded once as
// a CUDA graph and replayed for every token. The counterpart of Decoder (infer/decoder.h), with
// which its results agree up to rounding.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Event.h>

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "infer/decoder.h"
#include "infer/kv_cache.h"
#include "model/cuda.h"
#include "model/kernels/cuda/decode_kernels.h"
#include "model/kernels/cuda/decode_layers.h"
#include "model/transformer.h"

namespace basin {

class CudaDecoder {
 public:
  /// `model` (fp32 or bf16) and the caches, one for each stream, must outlive the decoder. Kernels
  /// are the plugin's, and then launches become graphs, unless a test brings its own. Q8 as for
  /// Decoder.
  CudaDecoder(const Transformer& model,
              std::vector<KvCache*> caches,
              DecodeWeights weights = DecodeWeights::kModel,
              const kernels::DecodeKernels* kernels = nullptr);

  /// False for ALiBi too, and for heads and norms that its kernels have no room for.
  static bool supports(const Transformer& model);

  /// ids[n] is the next token of stream n, whose cache advances by it. Logits fp32 (N, V) on the
  /// device, valid until the next call.
  const at::Tensor& step(std::span<const int64_t> ids);
  /// The same, `steps` times, each likeliest next token being fed in turn: int64 (N, steps) on the
  /// CPU, what followed each token that was fed. Throws std::runtime_error when the largest logit is
  /// not finite.
  at::Tensor greedy(std::span<const int64_t> ids, int64_t steps);

  int64_t weight_bytes() const { return weight_bytes_; }  // that a step reads
  bool is_one_launch() const { return one_launch_.has_value(); }  // all layers

 private:
  struct Layer {
    // qkv and, with a parallel residual, up; then what adds to the residual stream, in order.
    kernels::DecodeProduct qkv, out, up, down;
    at::Tensor sink_logit = {};  // fp32 (H) or undefined
  };
  enum class End { kLogits, kGreedy };

  kernels::WeightMatrix matrix(const std::string& name, DecodeWeights format);
  kernels::DecodeNorm norm(const at::Tensor& weight, const at::Tensor& bias);
  void make_room();
  void make_products(DecodeWeights weights);
  void chain_products();
  void make_one_launch(DecodeWeights weights);
  const float* keep(const at::Tensor& x);
  void upload(std::span<const int64_t> ids);
  bool stands_at(std::span<const int64_t> ids) const;
  void launch_layers(const kernels::DecodeBatch& batch);
  void launch(End end);
  void replay(std::optional<CudaGraph>& graph, End end);
  at::Tensor take_output(int64_t count);

  const Transformer& model_;
  std::vector<KvCache*> caches_;
  const kernels::DecodeKernels& kernels_;
  const bool records_;  // launches become graphs
  const bool parallel_residual_;
  int64_t weight_bytes_ = 0;
  std::vector<at::Tensor> owned_;  // what products and norms point to, where it is not the model's
  std::vector<Layer> layers_;
  kernels::DecodeProduct head_;
  std::optional<kernels::DecodeLayers> one_launch_;
  kernels::DecodeEmbedding embedding_;
  kernels::DecodeAttention attention_;
  kernels::DecodeGreedy greedy_;
  at::Tensor states_;  // int64 (N, words of a DecodeState), on the device
  at::Tensor h_, angles_, qkv_, attended_, activated_, logits_;  // fp32 (N, ..)
  at::Tensor output_;         // int64 (N, kOutput), round and round
  int64_t output_begin_ = 0;  // where the next token that is read lies
  at::Tensor host_output_;    // int64 (N * kOutput), pinned
  std::optional<c10::Event> copied_;  // the output, to the host; not in tests
  bool is_ahead_ = false;             // the step behind on_device_ has been launched
  at::Tensor attention_scratch_, greedy_scratch_;
  std::vector<std::pair<int64_t, int64_t>> on_device_;  // position and next token, as states_ has
  std::optional<CudaGraph> logits_graph_, greedy_graph_;
};

}  // namespace basin
