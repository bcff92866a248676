// What no single key of a model's configuration can say.
#include "model/config.h"

#include <fmt/core.h>

#include <stdexcept>

namespace basin {
namespace {

// What all models of a family have in common; the keys of ModelConfig say the rest.
struct Traits {
  bool rms_norm, norm_bias, gated_mlp;
  bool one_key_head_each;  // no grouped queries
  bool free_head_dim;      // else hidden_size / num_attention_heads
};

constexpr Traits kLlamaTraits = {.rms_norm = true,
                                 .norm_bias = false,
                                 .gated_mlp = true,
                                 .one_key_head_each = false,
                                 .free_head_dim = true};

// By ModelType.
constexpr Traits kTraits[] = {
    kLlamaTraits,        // llama
    {.rms_norm = false,  // gpt_neox
     .norm_bias = true,
     .gated_mlp = false,
     .one_key_head_each = true,
     .free_head_dim = false},
    kLlamaTraits,        // mistral
    kLlamaTraits,        // qwen2
    {.rms_norm = false,  // mpt
     .norm_bias = false,
     .gated_mlp = false,
     .one_key_head_each = true,
     .free_head_dim = false},
    {.rms_norm = false,  // falcon
     .norm_bias = true,
     .gated_mlp = false,
     .one_key_head_each = false,
     .free_head_dim = false},
};

const Traits& traits(ModelType type) {
  return kTraits[static_cast<size_t>(type)];
}

// As Hugging Face computes it, from which `rotary_size` takes the even part.
int64_t requested_rotary_size(const ModelConfig& config) {
  return static_cast<int64_t>(static_cast<double>(config.head_size()) *
                              config.partial_rotary_factor);
}

void check_heads(const ModelConfig& c, std::vector<std::string>& found) {
  const auto add = [&](std::string line) { found.push_back(std::move(line)); };
  const std::string_view family = enum_name(c.model_type);
  if (c.hidden_size % c.num_attention_heads != 0)
    add(fmt::format("num_attention_heads {} does not divide hidden_size {}",
                    c.num_attention_heads,
                    c.hidden_size));
  if (c.num_attention_heads % c.kv_heads() != 0)
    add(fmt::format("num_key_value_heads {} does not divide num_attention_heads {}",
                    c.kv_heads(),
                    c.num_attention_heads));
  if (traits(c.model_type).one_key_head_each && c.kv_heads() != c.num_attention_heads)
    add(
        fmt::format("num_key_value_heads {}: {} has one key and value head for each of its "
                    "{} query heads; leave it at 0",
                    c.kv_heads(),
                    family,
                    c.num_attention_heads));
  if (!traits(c.model_type).free_head_dim && c.head_size() != c.hidden_size / c.num_attention_heads)
    add(fmt::format("head_dim {}: {} takes hidden_size / num_attention_heads, {}; leave it at 0",
                    c.head_dim,
                    family,
                    c.hidden_size / c.num_attention_heads));
  if (!c.uses_alibi() && requested_rotary_size(c) % 2 != 0)
    add(
        fmt::format("partial_rotary_factor {} rotates {} of {} dimensions of a head: rotary "
                    "dimensions come in pairs, change it or the head's size",
                    c.partial_rotary_factor,
                    requested_rotary_size(c),
                    c.head_size()));
}

// Keys that only some families have: what they would change must not be silently left out.
void check_family(const ModelConfig& c, std::vector<std::string>& found) {
  const auto add = [&](std::string line) { found.push_back(std::move(line)); };
  const std::string_view family = enum_name(c.model_type);
  const bool falcon = c.model_type == ModelType::kFalcon;
  if (c.alibi && !c.uses_alibi()) add(fmt::format("alibi: {} rotates its heads", family));
  if (c.bias && !falcon) add(fmt::format("bias: a key of falcon, not of {}", family));
  if (c.num_ln_in_parallel_attn != 1 && !falcon)
    add(fmt::format("num_ln_in_parallel_attn: a key of falcon, not of {}", family));
  if (c.sliding_window != 0 && c.model_type != ModelType::kMistral &&
      c.model_type != ModelType::kQwen2)
    add(fmt::format("sliding_window: a key of mistral and qwen2, not of {}", family));
  if (c.uses_alibi() && c.rope_scaling.rope_type != RopeType::kDefault)
    found.emplace_back("rope_scaling: ALiBi has no rotary frequencies to stretch");
  if (c.model_type == ModelType::kMpt && c.intermediate_size != 4 * c.hidden_size)
    add(fmt::format("intermediate_size {}: mpt takes 4 times hidden_size, {}",
                    c.intermediate_size,
                    4 * c.hidden_size));
  if (!falcon || c.use_parallel_residual) return;
  if (c.num_ln_in_parallel_attn != 1)
    found.emplace_back("num_ln_in_parallel_attn 2 needs use_parallel_residual: true");
  if (c.kv_heads() != 1 && c.kv_heads() != c.num_attention_heads)
    add(
        fmt::format("num_key_value_heads {}: a falcon without parallel residual has 1 or as many "
                    "as query heads",
                    c.kv_heads()));
}

}  // namespace

std::vector<std::string> RopeScaling::problems() const {
  std::vector<std::string> found;
  if (rope_type == RopeType::kLlama3 && high_freq_factor <= low_freq_factor)
    found.push_back(fmt::format(
        "high_freq_factor {} must exceed low_freq_factor {}", high_freq_factor, low_freq_factor));
  if (rope_type == RopeType::kDefault && factor != 1)
    found.push_back(fmt::format(
        "factor {} has no meaning for rope_type default: leave it out, or use linear or llama3",
        factor));
  return found;
}

int64_t ModelConfig::rotary_size() const {
  return uses_alibi() ? 0 : requested_rotary_size(*this) / 2 * 2;
}

bool ModelConfig::uses_alibi() const {
  return model_type == ModelType::kMpt || (model_type == ModelType::kFalcon && alibi);
}

bool ModelConfig::rms_norm() const {
  return traits(model_type).rms_norm;
}

bool ModelConfig::norm_bias() const {
  return traits(model_type).norm_bias;
}

bool ModelConfig::gated_mlp() const {
  return traits(model_type).gated_mlp;
}

bool ModelConfig::qkv_bias() const {
  return model_type == ModelType::kQwen2 || attention_out_bias();
}

bool ModelConfig::attention_out_bias() const {
  return model_type == ModelType::kGptNeox ? attention_bias
                                           : model_type == ModelType::kFalcon && bias;
}

bool ModelConfig::mlp_bias() const {
  return model_type == ModelType::kGptNeox || (model_type == ModelType::kFalcon && bias);
}

bool ModelConfig::parallel_residual() const {
  return (model_type == ModelType::kGptNeox || model_type == ModelType::kFalcon) &&
         use_parallel_residual;
}

bool ModelConfig::has_mlp_norm() const {
  return model_type != ModelType::kFalcon || !parallel_residual() || num_ln_in_parallel_attn == 2;
}

void ModelConfig::require_window(int64_t positions) const {
  if (sliding_window > 0 && positions > sliding_window)
    throw std::invalid_argument(
        fmt::format("this model attends to {} positions at most (its sliding_window), {} are asked "
                    "for: take a cache of {} entries or fewer (a token attends to itself, too), or "
                    "shorter texts",
                    sliding_window,
                    positions,
                    sliding_window - 1));
}

std::vector<std::string> ModelConfig::problems() const {
  std::vector<std::string> found;
  if (hidden_size < 1 || num_attention_heads < 1) {
    found.push_back(fmt::format("hidden_size {} and num_attention_heads {} must be positive",
                                hidden_size,
                                num_attention_heads));
  } else {
    check_heads(*this, found);
    check_family(*this, found);
  }
  if (vocab_size > 0)
    for (const int64_t id : sink.ids())
      if (id >= vocab_size)
        found.push_back(
            fmt::format("sink token id {} lies outside the vocabulary of {}: set sink.token_ids to "
                        "rows that it has",
                        id,
                        vocab_size));
  return found;
}

}  // namespace basin
