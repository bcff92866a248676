// Names, layouts and keys are those that llama.cpp's own converter writes (conversion/*.py there).
#include "infer/gguf_model.h"

#include <ATen/ATen.h>
#include <fmt/core.h>

#include <cmath>
#include <stdexcept>

#include "infer/gguf_tokenizer.h"
#include "model/checkpoint.h"
#include "model/rope.h"

namespace basin {
namespace {

/// How llama.cpp calls a family and what it expects of its files.
struct Architecture {
  const char* name;
  bool separate_qkv = false;       // and gate beside up; else one attn_qkv: all q, all k, all v
  bool neighbours_rotate = false;  // pairs (2i, 2i + 1) of a head rotate together, not halves
  bool rope_freqs = false;         // takes a factor for each rotary frequency
  bool needs_all = false;          // every bias, and the head of a tied model
};

const Architecture& architecture_of(ModelType type) {
  static constexpr Architecture kLlama{
      .name = "llama", .separate_qkv = true, .neighbours_rotate = true, .rope_freqs = true},
      kQwen2{.name = "qwen2", .separate_qkv = true}, kNeox{.name = "gptneox", .needs_all = true},
      kMpt{.name = "mpt"}, kFalcon{.name = "falcon"};
  switch (type) {
    case ModelType::kLlama:
    case ModelType::kMistral:
      return kLlama;
    case ModelType::kQwen2:
      return kQwen2;
    case ModelType::kGptNeox:
      return kNeox;
    case ModelType::kMpt:
      return kMpt;
    case ModelType::kFalcon:
      return kFalcon;
  }
  throw std::logic_error("no such family");
}

int64_t context_length(const LoadedModel& model) {
  return model.trained_tokens + model.model->config().sink.tokens();
}

/// Why llama.cpp would compute something else; empty when it would not.
std::string difference(const LoadedModel& model) {
  const ModelConfig& config = model.model->config();
  const Architecture& arch = architecture_of(config.model_type);
  if (config.sink.kind == SinkKind::kZero || config.sink.kind == SinkKind::kLogit)
    return fmt::format(
        "sink {} has no counterpart in GGUF files: software that reads them has no "
        "constant in the denominator of its softmax",
        enum_name(config.sink.kind));
  if (config.model_type == ModelType::kFalcon &&
      (config.uses_alibi() || config.bias || !config.parallel_residual()))
    return "llama.cpp's falcon rotates, has no biases in its linear layers and adds attention and "
           "MLP up in parallel; this one does not";
  if (!config.uses_alibi() && config.model_type != ModelType::kGptNeox &&
      config.rotary_size() != config.head_size())
    return fmt::format("llama.cpp rotates whole heads of a {}, this one rotates a part of them",
                       arch.name);
  if (config.rope_scaling.rope_type == RopeType::kLlama3 && !arch.rope_freqs)
    return fmt::format("llama.cpp knows rope_type llama3 of a llama only, not of a {}", arch.name);
  if (const int64_t positions = read_max_positions(model.directory); config.sliding_window > 0 && config.sliding_window < positions)
    return fmt::format(
        "llama.cpp lets all {} positions of a {} see each other, this one has a "
        "sliding window of {}",
        positions,
        arch.name,
        config.sliding_window);
  return "";
}

void check_supported(const LoadedModel& model) {
  if (const std::string what = difference(model); !what.empty())
    throw std::invalid_argument(
        fmt::format("{}: {}, and would compute something else: this model has no GGUF file "
                    "(--format hf writes a directory)",
                    model.directory.string(),
                    what));
  if (model.trained_tokens < 1)
    throw std::invalid_argument(
        fmt::format("{}: config.json does not say for how many positions the model was trained "
                    "(max_position_embeddings), which a GGUF file must",
                    model.directory.string()));
}

/// Rows (H, 2, K / 2) -> (H, K / 2, 2): the halves that rotate together become neighbours.
at::Tensor interleave(const at::Tensor& rows, int64_t heads) {
  return rows.reshape({heads, 2, rows.size(0) / heads / 2, -1})
      .transpose(1, 2)
      .reshape(rows.sizes());
}

/// Makes the tensors of one model; names are those of model/transformer.h and of GGUF.
class Tensors {
 public:
  Tensors(const Transformer& model, GgufType matrix_type, std::vector<GgufTensor>& out)
      : model_(model),
        config_(model.config()),
        arch_(architecture_of(config_.model_type)),
        matrix_type_(matrix_type),
        out_(out) {}

  void add_all() {
    add_module("token_embd", "embedding");
    for (int64_t n = 0; n < config_.num_hidden_layers; ++n)
      add_layer(fmt::format("layers.{}.", n), fmt::format("blk.{}.", n));
    add_module("output_norm", "final_norm");
    if (!config_.tie_word_embeddings)
      add_module("output", "head");
    else if (arch_.needs_all)
      add("output.weight", model_.parameter("embedding.weight"));
    if (config_.rope_scaling.rope_type == RopeType::kLlama3)
      add("rope_freqs.weight", rope_factors());
  }

 private:
  void add(const std::string& name, const at::Tensor& rows, int64_t interleaved_heads = 0) {
    GgufType type = rows.dim() > 1 ? matrix_type_ : GgufType::kF32;
    if (type == GgufType::kQ8_0 && rows.size(-1) % kQ8Block != 0)
      type = GgufType::kF16;  // as llama.cpp's converter does
    out_.push_back({name, rows.sizes().vec(), type, [rows, interleaved_heads] {
                      const at::Tensor values = rows.to(at::kCPU);
                      return interleaved_heads > 0 ? interleave(values, interleaved_heads) : values;
                    }});
  }
  /// Weight, and bias where there is one or must be one.
  void add_module(const std::string& name, const std::string& internal) {
    const at::Tensor weight = model_.parameter(internal + ".weight"),
                     bias = model_.parameter(internal + ".bias");
    add(name + ".weight", weight);
    if (bias.defined())
      add(name + ".bias", bias);
    else if (arch_.needs_all && weight.dim() > 1 && name.starts_with("blk."))
      add(name + ".bias", at::zeros({weight.size(0)}));
  }
  void add_layer(const std::string& internal, const std::string& name) {
    add_norms(internal, name);
    if (arch_.separate_qkv)
      add_separate_qkv(internal + "qkv", name);
    else
      add_module(name + "attn_qkv", internal + "qkv");
    add_module(name + "attn_output", internal + "attention_out");
    if (config_.gated_mlp()) {
      const at::Tensor up = model_.parameter(internal + "up.weight");
      const int64_t F = config_.intermediate_size;
      add(name + "ffn_gate.weight", up.narrow(0, 0, F));
      add(name + "ffn_up.weight", up.narrow(0, F, F));
    } else {
      add_module(name + "ffn_up", internal + "up");
    }
    add_module(name + "ffn_down", internal + "down");
  }
  /// Of falcon's two norms llama.cpp calls the MLP's attn_norm and attention's attn_norm_2.
  void add_norms(const std::string& internal, const std::string& name) {
    const bool falcon = config_.model_type == ModelType::kFalcon;
    const bool swapped = falcon && config_.has_mlp_norm();
    add_module(name + (swapped ? "attn_norm_2" : "attn_norm"), internal + "attention_norm");
    if (config_.has_mlp_norm())
      add_module(name + (swapped ? "attn_norm" : "ffn_norm"), internal + "mlp_norm");
  }
  void add_separate_qkv(const std::string& internal, const std::string& name) {
    const int64_t H = config_.heads(), G = config_.kv_heads(), K = config_.head_size();
    for (const char* part : {".weight", ".bias"}) {
      const at::Tensor qkv = model_.parameter(internal + part);
      if (!qkv.defined()) continue;
      add(name + "attn_q" + part, qkv.narrow(0, 0, H * K), arch_.neighbours_rotate ? H : 0);
      add(name + "attn_k" + part, qkv.narrow(0, H * K, G * K), arch_.neighbours_rotate ? G : 0);
      add(name + "attn_v" + part, qkv.narrow(0, (H + G) * K, G * K));
    }
  }
  /// By what each frequency was divided.
  at::Tensor rope_factors() const {
    ModelConfig plain = config_;
    plain.rope_scaling = {};
    return at::tensor(rotary_frequencies(plain), at::kDouble) /
           at::tensor(rotary_frequencies(config_), at::kDouble);
  }

  const Transformer& model_;
  const ModelConfig& config_;
  const Architecture& arch_;
  GgufType matrix_type_;
  std::vector<GgufTensor>& out_;
};

/// llama.cpp's number for what most of a file is.
uint32_t file_type(GgufType matrix_type) {
  switch (matrix_type) {
    case GgufType::kF32:
      return 0;
    case GgufType::kF16:
      return 1;
    case GgufType::kQ8_0:
      return 7;
    case GgufType::kBF16:
      return 32;
  }
  throw std::logic_error("no such type");
}

void add_model_keys(const LoadedModel& model, GgufFile& file) {
  const ModelConfig& config = model.model->config();
  const auto add = [&](const char* key, GgufValue value) {
    file.keys.emplace_back(fmt::format("{}.{}", architecture_of(config.model_type).name, key),
                           std::move(value));
  };
  const auto add_count = [&](const char* key, int64_t count) {
    add(key, static_cast<uint32_t>(count));
  };
  add_count("vocab_size", config.vocab_size);
  add_count("context_length", context_length(model));
  add_count("embedding_length", config.hidden_size);
  add_count("block_count", config.num_hidden_layers);
  add_count("feed_forward_length", config.intermediate_size);
  add_count("attention.head_count", config.heads());
  add_count("attention.head_count_kv", config.kv_heads());
  add_count("attention.key_length", config.head_size());
  add_count("attention.value_length", config.head_size());
  add(config.rms_norm() ? "attention.layer_norm_rms_epsilon" : "attention.layer_norm_epsilon",
      static_cast<float>(config.norm_eps));
  if (config.model_type == ModelType::kGptNeox)
    add("use_parallel_residual", config.use_parallel_residual);
  if (config.uses_alibi()) return add("attention.max_alibi_bias", 8.0f);
  add_count("rope.dimension_count", config.rotary_size());
  add("rope.freq_base", static_cast<float>(config.rope_theta));
  if (config.rope_scaling.rope_type == RopeType::kLinear) {
    add("rope.scaling.type", "linear");
    add("rope.scaling.factor", static_cast<float>(config.rope_scaling.factor));
  }
}

}  // namespace

GgufFile to_gguf(const LoadedModel& model, GgufType matrix_type, const std::string& name) {
  check_supported(model);
  GgufFile file;
  file.keys = {{"general.architecture", architecture_of(model.model->config().model_type).name},
               {"general.type", "model"},
               {"general.name", name},
               {"general.file_type", file_type(matrix_type)},
               {"general.quantization_version", uint32_t{2}}};
  add_model_keys(model, file);
  add_tokenizer_keys(model, file);
  Tensors(*model.model, matrix_type, file.tensors).add_all();
  return file;
}

}  // namespace basin
