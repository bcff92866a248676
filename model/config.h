// The shape of a model, in Hugging Face's key names. Families are data: `model_type` picks norms, MLP, biases and tensor names.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "configs/fields.h"

namespace basin {

enum class ModelType { kLlama, kGptNeox };
template <>
inline constexpr std::string_view kEnumNames<ModelType>[] = {"llama", "gpt_neox"};

enum class SinkKind { kNone, kToken, kZero, kLogit };
template <>
inline constexpr std::string_view kEnumNames<SinkKind>[] = {"none", "token", "zero", "logit"};

/// The attention sink (design: "The sink, exactly").
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
  bool use_parallel_residual = true; // gpt_neox only
  bool attention_bias = true;        // gpt_neox only
  bool tie_word_embeddings = false;
  double initializer_range = 0.02;
  SinkConfig sink;

  template <class Self, class Visitor>
  static void visit_fields(Self& self, Visitor&& visit) {
    visit("model_type", self.model_type, Field{.doc = "llama (RMSNorm, SwiGLU, grouped queries) or gpt_neox (LayerNorm, GELU, biases: Pythia)"});
    visit("vocab_size", self.vocab_size, Field{.doc = "rows of the embedding; 0: from the data's tokenizer", .min = 0, .max = 1 << 24});
    visit("hidden_size", self.hidden_size, Field{.doc = "width of the residual stream", .min = 8, .max = 65536});
    visit("num_hidden_layers", self.num_hidden_layers, Field{.doc = "decoder blocks", .min = 1, .max = 1024});
    visit("num_attention_heads", self.num_attention_heads, Field{.doc = "query heads", .min = 1, .max = 1024});
    visit("num_key_value_heads", self.num_key_value_heads, Field{.doc = "key and value heads, llama only; 0: as many as query heads", .min = 0, .max = 1024});
    visit("head_dim", self.head_dim, Field{.doc = "size of a head; 0: hidden_size / num_attention_heads", .min = 0, .max = 512});
    visit("intermediate_size", self.intermediate_size, Field{.doc = "width of the MLP", .min = 8, .max = 1 << 20});
    visit("norm_eps", self.norm_eps, Field{.doc = "epsilon of the norms", .min = 1e-12, .max = 1e-1});
    visit("rope_theta", self.rope_theta, Field{.doc = "base of the rotary frequencies", .min = 1, .max = 1e12});
    visit("partial_rotary_factor", self.partial_rotary_factor, Field{.doc = "share of each head that rotates", .min = 0, .max = 1});
    visit("use_parallel_residual", self.use_parallel_residual, Field{.doc = "gpt_neox: attention and MLP read the same residual"});
    visit("attention_bias", self.attention_bias, Field{.doc = "gpt_neox: biases in the attention's linear layers"});
    visit("tie_word_embeddings", self.tie_word_embeddings, Field{.doc = "the head shares the embedding's weight"});
    visit("initializer_range", self.initializer_range, Field{.doc = "standard deviation of the initial weights, llama only (gpt_neox: small-init and wang-init)", .min = 1e-6, .max = 1});
    visit("sink", self.sink, Field{.doc = "the attention sink"});
  }
  std::vector<std::string> problems() const;

  // Derived numbers are functions, never stored.
  int64_t heads() const { return num_attention_heads; }
  int64_t kv_heads() const { return num_key_value_heads > 0 ? num_key_value_heads : num_attention_heads; }
  int64_t head_size() const { return head_dim > 0 ? head_dim : hidden_size / num_attention_heads; }
  int64_t rotary_size() const;       // dimensions of a head that rotate, even
  int64_t qkv_size() const { return (heads() + 2 * kv_heads()) * head_size(); }
  bool is_llama() const { return model_type == ModelType::kLlama; }
};

}  // namespace basin
