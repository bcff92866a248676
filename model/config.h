// The shape of a model, in Hugging Face's key names. Families are data: `model_type` picks norms, MLP, biases and tensor names.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "configs/fields.h"

namespace basin {

enum class ModelType { kLlama, kGptNeox, kMistral, kQwen2, kMpt, kFalcon };
template <>
inline constexpr std::string_view kEnumNames<ModelType>[] = {"llama", "gpt_neox", "mistral", "qwen2", "mpt", "falcon"};

enum class RopeType { kDefault, kLinear, kLlama3 };
template <>
inline constexpr std::string_view kEnumNames<RopeType>[] = {"default", "linear", "llama3"};

/// How the rotary frequencies of a trained model were stretched to longer texts (model/rope.h).
struct RopeScaling {
  RopeType rope_type = RopeType::kDefault;
  double factor = 1;                                 // linear and llama3: frequencies are divided by it
  double low_freq_factor = 1, high_freq_factor = 4;  // llama3
  int64_t original_max_position_embeddings = 8192;   // llama3

  template <class Self, class Visitor>
  static void visit_fields(Self& self, Visitor&& visit) {
    visit("rope_type", self.rope_type, Field{.doc = "default, linear or llama3: how the rotary frequencies are stretched"});
    visit("factor", self.factor, Field{.doc = "linear and llama3: by how much", .min = 1, .max = 1e6});
    visit("low_freq_factor", self.low_freq_factor, Field{.doc = "llama3: waves longer than the original length over this are stretched by all of the factor", .min = 1e-3, .max = 1e6});
    visit("high_freq_factor", self.high_freq_factor, Field{.doc = "llama3: waves shorter than the original length over this are left as they are", .min = 1e-3, .max = 1e6});
    visit("original_max_position_embeddings", self.original_max_position_embeddings, Field{.doc = "llama3: the original length, in positions", .min = 1, .max = 1 << 30});
  }
  std::vector<std::string> problems() const;
};

enum class SinkKind { kNone, kToken, kZero, kLogit };
template <>
inline constexpr std::string_view kEnumNames<SinkKind>[] = {"none", "token", "zero", "logit"};

/// Where the attention goes that nothing in the text asks for. token: learnable tokens in front of every sample,
/// fed and never predicted; zero, logit: 1 or exp(a learnable scalar of the head) more in the softmax's denominator.
struct SinkConfig {
  SinkKind kind = SinkKind::kToken;
  int64_t count = 1;                 // sink tokens in front of every sample; kind `token` only
  std::vector<int64_t> token_ids;    // embedding rows of the sinks; empty: 1, 3, 4, 5, the ids that `prepare` reserves

  template <class Self, class Visitor>
  static void visit_fields(Self& self, Visitor&& visit) {
    visit("kind", self.kind, Field{.doc = "none, token (learnable tokens in front of every sample), zero (SoftMax1) or logit (learnable scalar per head)"});
    visit("count", self.count, Field{.doc = "sink tokens in front of every sample, kind token only", .min = 1, .max = 4});
    visit("token_ids", self.token_ids, Field{.doc = "embedding rows of the sink tokens; empty: the ids that prepare reserves (1, 3, 4, 5)", .min = 0});
  }
  std::vector<std::string> problems() const;

  /// Positions that the sink takes in front of a sample: `count` for kind token, else 0.
  int64_t tokens() const { return kind == SinkKind::kToken ? count : 0; }
  /// Whether it is a constant in the softmax's denominator (zero, logit), which no other software computes.
  bool in_denominator() const { return kind == SinkKind::kZero || kind == SinkKind::kLogit; }
  /// The `tokens()` ids to feed, in order.
  std::vector<int64_t> ids() const;
};

struct ModelConfig {
  ModelType model_type = ModelType::kLlama;
  int64_t vocab_size = 0;            // 0: take it from the data's tokenizer
  int64_t hidden_size = 128;
  int64_t num_hidden_layers = 4;
  int64_t num_attention_heads = 4;
  int64_t num_key_value_heads = 0;   // 0: num_attention_heads
  int64_t head_dim = 0;              // 0: hidden_size / num_attention_heads
  int64_t intermediate_size = 384;
  double norm_eps = 1e-5;            // rms_norm_eps or layer_norm_eps on disk
  double rope_theta = 10000;
  double partial_rotary_factor = 1;  // share of the head that rotates
  RopeScaling rope_scaling;
  bool alibi = false;                // falcon only; mpt always has it
  int64_t sliding_window = 0;        // mistral and qwen2: positions that a token may attend to, itself included; 0: all
  bool use_parallel_residual = true; // gpt_neox and falcon (there parallel_attn)
  int64_t num_ln_in_parallel_attn = 1;  // falcon with a parallel residual: 2 when attention and MLP have a norm each
  bool attention_bias = true;        // gpt_neox only
  bool bias = false;                 // falcon only
  bool tie_word_embeddings = false;
  double initializer_range = 0.02;
  SinkConfig sink;

  template <class Self, class Visitor>
  static void visit_fields(Self& self, Visitor&& visit) {
    visit("model_type", self.model_type, Field{.doc = "llama (RMSNorm, SwiGLU, grouped queries), mistral, qwen2 (with q, k, v biases), gpt_neox (LayerNorm, GELU, biases: Pythia), mpt (ALiBi) or falcon (one or more key heads, parallel)"});
    visit("vocab_size", self.vocab_size, Field{.doc = "rows of the embedding; 0: from the data's tokenizer", .min = 0, .max = 1 << 24});
    visit("hidden_size", self.hidden_size, Field{.doc = "width of the residual stream", .min = 8, .max = 65536});
    visit("num_hidden_layers", self.num_hidden_layers, Field{.doc = "decoder blocks", .min = 1, .max = 1024});
    visit("num_attention_heads", self.num_attention_heads, Field{.doc = "query heads", .min = 1, .max = 1024});
    visit("num_key_value_heads", self.num_key_value_heads, Field{.doc = "key and value heads; 0: as many as query heads, as gpt_neox and mpt always have", .min = 0, .max = 1024});
    visit("head_dim", self.head_dim, Field{.doc = "size of a head; 0: hidden_size / num_attention_heads", .min = 0, .max = 512});
    visit("intermediate_size", self.intermediate_size, Field{.doc = "width of the MLP", .min = 8, .max = 1 << 20});
    visit("norm_eps", self.norm_eps, Field{.doc = "epsilon of the norms", .min = 1e-12, .max = 1e-1});
    visit("rope_theta", self.rope_theta, Field{.doc = "base of the rotary frequencies", .min = 1, .max = 1e12});
    visit("partial_rotary_factor", self.partial_rotary_factor, Field{.doc = "share of each head that rotates", .min = 0, .max = 1});
    visit("rope_scaling", self.rope_scaling, Field{.doc = "how the rotary frequencies are stretched"});
    visit("alibi", self.alibi, Field{.doc = "falcon: ALiBi instead of rotation (mpt always has it)"});
    visit("sliding_window", self.sliding_window, Field{.doc = "mistral and qwen2: positions that the model attends to at most; 0: all", .min = 0, .max = 1 << 30});
    visit("use_parallel_residual", self.use_parallel_residual, Field{.doc = "gpt_neox and falcon: attention and MLP read the same residual"});
    visit("num_ln_in_parallel_attn", self.num_ln_in_parallel_attn, Field{.doc = "falcon: norms of a parallel block", .min = 1, .max = 2});
    visit("attention_bias", self.attention_bias, Field{.doc = "gpt_neox: biases in the attention's linear layers"});
    visit("bias", self.bias, Field{.doc = "falcon: biases in all linear layers"});
    visit("tie_word_embeddings", self.tie_word_embeddings, Field{.doc = "the head shares the embedding's weight"});
    visit("initializer_range", self.initializer_range, Field{.doc = "standard deviation of the initial weights (gpt_neox: small-init and wang-init)", .min = 1e-6, .max = 1});
    visit("sink", self.sink, Field{.doc = "the attention sink"});
  }
  std::vector<std::string> problems() const;

  // Derived numbers are functions, never stored.
  int64_t heads() const { return num_attention_heads; }
  int64_t kv_heads() const { return num_key_value_heads > 0 ? num_key_value_heads : num_attention_heads; }
  int64_t head_size() const { return head_dim > 0 ? head_dim : hidden_size / num_attention_heads; }
  int64_t rotary_size() const;       // dimensions of a head that rotate, even; 0 with ALiBi
  int64_t qkv_size() const { return (heads() + 2 * kv_heads()) * head_size(); }

  // What the family and its keys come to: all that the network, its decoders and its costs ask.
  bool uses_alibi() const;           // positions are biases of the scores (model/alibi.h); else rotation
  bool rms_norm() const;             // else LayerNorm
  bool norm_bias() const;
  bool gated_mlp() const;            // SwiGLU, else GELU
  bool qkv_bias() const;
  bool attention_out_bias() const;
  bool mlp_bias() const;
  bool parallel_residual() const;    // attention and MLP read the same residual
  bool has_mlp_norm() const;         // false: the MLP reads attention's norm
  /// Throws std::invalid_argument when `positions` that see each other are more than the model's own sliding window.
  void require_window(int64_t positions) const;
};

}  // namespace basin
