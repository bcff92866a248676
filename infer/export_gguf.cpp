// Names, layouts and keys are those that llama.cpp's own converter writes. Matrices of q and k are
// permuted for a llama, since llama.cpp rotates neighbouring pairs there and halves elsewhere.
#include "infer/export_gguf.h"

#include <ATen/ATen.h>
#include <fmt/core.h>
#include <spdlog/spdlog.h>

#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <stdexcept>

#include "configs/files.h"
#include "configs/progress.h"
#include "configs/signals.h"
#include "infer/gguf_tokenizer.h"
#include "model/checkpoint.h"

namespace basin {
namespace {

namespace fs = std::filesystem;

struct Precision {
  const char* name;
  const char* stored;  // config.json's name of it, or null
  GgufType type;
  uint32_t file_type;  // llama.cpp's general.file_type
};
constexpr Precision kPrecisions[] = {{"f32", "float32", GgufType::kF32, 0},
                                     {"f16", "float16", GgufType::kF16, 1},
                                     {"bf16", "bfloat16", GgufType::kBF16, 32},
                                     {"q8_0", nullptr, GgufType::kQ8_0, 7}};

const Precision& precision_of(GgufType type) {
  for (const Precision& p : kPrecisions)
    if (p.type == type) return p;
  throw std::logic_error("no such type");
}

void check_supported(const LoadedModel& model) {
  const ModelConfig& config = model.model->config();
  const auto refuse = [&](const std::string& what) {
    throw std::invalid_argument(fmt::format("{}: {}", model.directory.string(), what));
  };
  if (config.sink.kind == SinkKind::kZero || config.sink.kind == SinkKind::kLogit)
    refuse(
        fmt::format("sink {} has no counterpart in GGUF files: software that reads them has no "
                    "constant in the denominator of its softmax and would compute something "
                    "else. Only Basin runs this model (--format hf)",
                    enum_name(config.sink.kind)));
  if (config.is_llama() && config.rotary_size() != config.head_size())
    refuse(
        "llama.cpp rotates whole heads of a llama, this one rotates a part of them: only Basin "
        "runs this model (--format hf)");
  if (model.trained_tokens < 1)
    refuse(
        "config.json does not say for how many positions the model was trained "
        "(max_position_embeddings), which a GGUF file must");
}

/// Makes the tensors of one model.
class Tensors {
 public:
  Tensors(const Transformer& model, GgufType matrix_type, std::vector<GgufTensor>& out)
      : matrix_type_(matrix_type), out_(out) {
    for (const Parameter& p : model.parameters()) parameters_[p.name] = p.tensor;
  }

  bool has(const std::string& internal) const { return parameters_.contains(internal); }
  at::Tensor at(const std::string& internal) const { return parameters_.at(internal).detach(); }

  void add(const std::string& name,
           const at::Tensor& rows,
           const std::function<at::Tensor(const at::Tensor&)>& arrange = {}) {
    GgufType type = rows.dim() > 1 ? matrix_type_ : GgufType::kF32;
    if (type == GgufType::kQ8_0 && rows.size(-1) % kQ8Block != 0)
      type = GgufType::kF16;  // as llama.cpp's converter does
    out_.push_back({name, rows.sizes().vec(), type, [rows, arrange] {
                      const at::Tensor values = rows.to(at::kCPU);
                      return arrange ? arrange(values) : values;
                    }});
  }
  /// Weight and, where the model has one, bias.
  void add_module(const std::string& name, const std::string& internal) {
    for (const char* part : {".weight", ".bias"})
      if (has(internal + part)) add(name + part, at(internal + part));
  }
  /// The same with a bias of zeros where the model has none.
  void add_biased(const std::string& name, const std::string& internal) {
    add_module(name, internal);
    if (!has(internal + ".bias"))
      add(name + ".bias", at::zeros({at(internal + ".weight").size(0)}));
  }

 private:
  GgufType matrix_type_;
  std::vector<GgufTensor>& out_;
  std::map<std::string, at::Tensor> parameters_;
};

/// Rows (H, 2, K / 2) -> (H, K / 2, 2): the halves that rotate together become neighbours.
at::Tensor interleave(const at::Tensor& rows, int64_t heads) {
  const int64_t half = rows.size(0) / heads / 2;
  return rows.reshape({heads, 2, half, -1}).transpose(1, 2).reshape(rows.sizes());
}

void add_llama_layer(const ModelConfig& config,
                     const std::string& internal,
                     const std::string& name,
                     Tensors& tensors) {
  tensors.add_module(name + "attn_norm", internal + "attention_norm");
  const int64_t H = config.heads(), G = config.kv_heads(), K = config.head_size(),
                F = config.intermediate_size;
  for (const char* part : {".weight", ".bias"}) {
    if (!tensors.has(internal + "qkv" + part)) continue;
    const at::Tensor qkv = tensors.at(internal + "qkv" + part);
    tensors.add(name + "attn_q" + part, qkv.narrow(0, 0, H * K), [H](const at::Tensor& rows) {
      return interleave(rows, H);
    });
    tensors.add(name + "attn_k" + part, qkv.narrow(0, H * K, G * K), [G](const at::Tensor& rows) {
      return interleave(rows, G);
    });
    tensors.add(name + "attn_v" + part, qkv.narrow(0, (H + G) * K, G * K));
  }
  tensors.add_module(name + "attn_output", internal + "attention_out");
  tensors.add_module(name + "ffn_norm", internal + "mlp_norm");
  const at::Tensor up = tensors.at(internal + "up.weight");
  tensors.add(name + "ffn_gate.weight", up.narrow(0, 0, F));
  tensors.add(name + "ffn_up.weight", up.narrow(0, F, F));
  tensors.add_module(name + "ffn_down", internal + "down");
}

/// Every bias must be there, and qkv's rows are what ours are: all q, all k, all v.
void add_gptneox_layer(const std::string& internal, const std::string& name, Tensors& tensors) {
  for (const auto& [theirs, ours] : {std::pair("attn_norm", "attention_norm"),
                                     {"attn_qkv", "qkv"},
                                     {"attn_output", "attention_out"},
                                     {"ffn_norm", "mlp_norm"},
                                     {"ffn_up", "up"},
                                     {"ffn_down", "down"}})
    tensors.add_biased(name + theirs, internal + ours);
}

void add_tensors(const Transformer& model, GgufType matrix_type, GgufFile& file) {
  const ModelConfig& config = model.config();
  Tensors tensors(model, matrix_type, file.tensors);
  tensors.add_module("token_embd", "embedding");
  for (int64_t n = 0; n < config.num_hidden_layers; ++n) {
    const std::string internal = fmt::format("layers.{}.", n), name = fmt::format("blk.{}.", n);
    if (config.is_llama())
      add_llama_layer(config, internal, name, tensors);
    else
      add_gptneox_layer(internal, name, tensors);
  }
  tensors.add_module("output_norm", "final_norm");
  if (!config.tie_word_embeddings)
    tensors.add_module("output", "head");
  else if (!config.is_llama())  // which llama.cpp ties by itself
    tensors.add("output.weight", tensors.at("embedding.weight"));
}

void add_model_keys(const LoadedModel& model, GgufFile& file) {
  const ModelConfig& config = model.model->config();
  const std::string arch = config.is_llama() ? "llama" : "gptneox";
  const auto add = [&](const char* key, GgufValue value) {
    file.keys.emplace_back(arch + "." + key, std::move(value));
  };
  const auto count = [](int64_t number) { return static_cast<uint32_t>(number); };
  add("vocab_size", count(config.vocab_size));
  add("context_length", count(model.trained_tokens + config.sink.tokens()));
  add("embedding_length", count(config.hidden_size));
  add("block_count", count(config.num_hidden_layers));
  add("feed_forward_length", count(config.intermediate_size));
  add("attention.head_count", count(config.heads()));
  add("attention.head_count_kv", count(config.kv_heads()));
  add("attention.key_length", count(config.head_size()));
  add("attention.value_length", count(config.head_size()));
  add("rope.dimension_count", count(config.rotary_size()));
  add("rope.freq_base", static_cast<float>(config.rope_theta));
  if (config.is_llama()) {
    add("attention.layer_norm_rms_epsilon", static_cast<float>(config.norm_eps));
  } else {
    add("attention.layer_norm_epsilon", static_cast<float>(config.norm_eps));
    add("use_parallel_residual", config.use_parallel_residual);
  }
}

void warn_of_sinks(const SinkConfig& sink) {
  if (sink.tokens() > 1)
    spdlog::warn(
        "{} sink tokens: readers of GGUF files put only one token, the first of them (id {}), in "
        "front of a text; the others must be spelled in the prompt or sent as ids",
        sink.tokens(),
        sink.ids().front());
}

void check_target(const GgufExport& options) {
  if (!fs::exists(options.out)) return;
  if (!fs::is_regular_file(options.out))
    throw std::invalid_argument(fmt::format("{} is no file", options.out.string()));
  if (!options.force)
    throw std::invalid_argument(
        fmt::format("{} is there already: name another file, or replace it with --force",
                    options.out.string()));
}

/// What the model is stored in, to be read as it is.
const Precision& stored_precision(const fs::path& directory) {
  const auto config = nlohmann::json::parse(read_file(directory / "config.json"), nullptr, false);
  for (const char* key : {"dtype", "torch_dtype"})
    for (const Precision& p : kPrecisions)
      if (p.stored && config.is_object() && config.contains(key) && config[key] == p.stored)
        return p;
  return kPrecisions[0];
}

}  // namespace

GgufFile to_gguf(const LoadedModel& model, GgufType matrix_type, const std::string& name) {
  check_supported(model);
  GgufFile file;
  file.keys = {{"general.architecture", model.model->config().is_llama() ? "llama" : "gptneox"},
               {"general.type", "model"},
               {"general.name", name},
               {"general.file_type", precision_of(matrix_type).file_type},
               {"general.quantization_version", uint32_t{2}}};
  add_model_keys(model, file);
  add_tokenizer_keys(model, file);
  add_tensors(*model.model, matrix_type, file);
  return file;
}

void export_gguf(const fs::path& model_path, const GgufExport& options) {
  check_target(options);
  const fs::path source = resolve_model_directory(model_path);
  const Precision& stored = stored_precision(source);
  const Precision* wanted = options.dtype.empty() ? &stored : nullptr;
  for (const Precision& p : kPrecisions)
    if (options.dtype == p.name) wanted = &p;
  if (!wanted)
    throw std::invalid_argument(
        fmt::format("--dtype {}: a GGUF file has f32, f16, bf16 or q8_0", options.dtype));
  const LoadedModel model = open_model(source, stored.stored);
  const GgufFile file = to_gguf(model, wanted->type, options.out.stem().string());
  warn_of_sinks(model.model->config().sink);
  Progress progress("export", static_cast<int64_t>(file.data_bytes()), "bytes");
  make_writable_directory(options.out.parent_path());
  write_gguf(options.out, file, [&](uint64_t bytes) {
    check_interrupt();
    progress.advance(static_cast<int64_t>(bytes));
  });
}

}  // namespace basin
