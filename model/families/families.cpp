#include "model/families/families.h"

#include <ATen/ATen.h>
#include <fmt/core.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <type_traits>

#include "model/parameters.h"

namespace basin {
namespace {

constexpr std::string_view kBasinPrefix = "basin_";

/// Whether software that knows the family computes what we compute. Others must refuse the file:
/// its model_type says basin_FAMILY.
bool loads_elsewhere(const ModelConfig& config) {
  const bool plain_softmax =
      config.sink.kind == SinkKind::kNone || config.sink.kind == SinkKind::kToken;
  return plain_softmax && !(config.is_llama() && config.partial_rotary_factor != 1.0);
}

/// "layers.3.qkv.weight" -> layer 3, module "qkv", suffix ".weight".
struct InternalName {
  std::string layer, module, suffix;  // layer is empty outside the layers
};

InternalName split_name(const std::string& name) {
  InternalName split{"", name, ""};
  if (name.starts_with("layers.")) {
    const size_t dot = name.find('.', 7);
    split.layer = name.substr(7, dot - 7);
    split.module = name.substr(dot + 1);
  }
  const size_t dot = split.module.find('.');
  if (dot != std::string::npos) {
    split.suffix = split.module.substr(dot);
    split.module.resize(dot);
  }
  return split;
}

void check_rope_type(const ConfigJson& json, const std::string& key) {
  const ConfigJson rope = json.object(key);
  for (const char* spelling : {"rope_type", "type"})
    if (const std::string type = rope.text(spelling, "default"); type != "default")
      json.refuse(key,
                  fmt::format("rotary scaling \"{}\" is not supported, only \"default\"", type));
}

SinkConfig read_sink(const ConfigJson& json) {
  SinkConfig sink;
  sink.kind = SinkKind::kNone;
  if (!json.has("sink")) return sink;
  const ConfigJson keys = json.object("sink");
  const std::string kind = keys.text("kind");
  const auto known =
      std::find(std::begin(kEnumNames<SinkKind>), std::end(kEnumNames<SinkKind>), kind);
  if (known == std::end(kEnumNames<SinkKind>))
    keys.refuse("kind",
                fmt::format("\"{}\" is none of {}", kind, fmt::join(kEnumNames<SinkKind>, ", ")));
  sink.kind = static_cast<SinkKind>(known - std::begin(kEnumNames<SinkKind>));
  if (sink.kind != SinkKind::kToken) return sink;
  sink.count = keys.integer("count");
  SinkConfig named = sink;
  named.token_ids = keys.integers("token_ids");
  if (const auto problems = named.problems(); !problems.empty())
    json.refuse("sink", problems.front());
  return named.ids() == sink.ids() ? sink : named;
}

/// Ranges of single keys, as declared in the struct; a file from elsewhere passed no other check.
std::vector<std::string> range_problems(const ModelConfig& config) {
  std::vector<std::string> found;
  ModelConfig::visit_fields(
      config, [&]<class Value>(std::string_view key, const Value& value, const Field& field) {
        if constexpr (std::is_arithmetic_v<Value>) {
          const auto number = static_cast<double>(value);
          if (!(number >= field.min && number <= field.max))
            found.push_back(
                fmt::format("{} {} is not between {} and {}", key, value, field.min, field.max));
        }
      });
  return found;
}

/// Explicit values that say what the default says become the default, so that equal models have
/// equal configurations.
void drop_redundant(ModelConfig& config) {
  if (config.num_key_value_heads == config.num_attention_heads) config.num_key_value_heads = 0;
  if (config.num_attention_heads > 0 &&
      config.head_dim == config.hidden_size / config.num_attention_heads)
    config.head_dim = 0;
}

std::string dtype_name(at::ScalarType dtype) {
  switch (dtype) {
    case at::kBFloat16:
      return "bfloat16";
    case at::kHalf:
      return "float16";
    case at::kDouble:
      return "float64";
    default:
      return "float32";
  }
}

/// bos_token_id is what other software prepends: the first sink, or null, which prepends nothing.
void write_special_ids(const ModelConfig& config,
                       const ConfigExtras& extras,
                       nlohmann::ordered_json& json) {
  json["bos_token_id"] = nullptr;
  if (config.sink.tokens() > 0) json["bos_token_id"] = config.sink.ids().front();
  json["eos_token_id"] = nullptr;
  if (extras.eos_token_id && *extras.eos_token_id < config.vocab_size)
    json["eos_token_id"] = *extras.eos_token_id;
}

}  // namespace

const Family& family_of(ModelType type) {
  return type == ModelType::kLlama ? llama_family() : gpt_neox_family();
}

std::vector<DiskTensor> disk_tensors(const ModelConfig& config) {
  const Family& family = family_of(config.model_type);
  const std::vector<DiskModule> modules = family.modules(config);
  std::vector<DiskTensor> tensors;
  for (const ParameterShape& parameter : parameter_shapes(config)) {
    const InternalName split = split_name(parameter.name);
    const auto module = std::find_if(modules.begin(), modules.end(), [&](const DiskModule& m) {
      return m.internal == split.module;
    });
    TORCH_CHECK(module != modules.end(), "no name on disk for ", parameter.name);
    const std::string prefix = split.layer.empty() ? "" : family.layer_prefix + split.layer + ".";
    int64_t first_row = 0;
    for (const DiskModule::Part& part : module->parts) {
      std::vector<int64_t> shape = parameter.shape;
      if (part.rows > 0) shape[0] = part.rows;
      const std::string alias = part.alias.empty() ? "" : prefix + part.alias + split.suffix;
      tensors.push_back({prefix + part.name + split.suffix,
                         alias,
                         parameter.name,
                         first_row,
                         shape,
                         module->interleaved_heads});
      first_row += shape[0];
    }
  }
  return tensors;
}

bool is_legacy_buffer(const std::string& name) {
  return name.ends_with(".rotary_emb.inv_freq") || name.ends_with(".attention.bias") ||
         name.ends_with(".attention.masked_bias");
}

at::Tensor to_disk(const DiskTensor& disk, const at::Tensor& internal) {
  const at::Tensor rows = internal.narrow(0, disk.first_row, disk.shape[0]);
  if (disk.interleaved_heads == 0) return rows;
  const int64_t H = disk.interleaved_heads;
  return rows.reshape({3, H, disk.shape[0] / (3 * H), -1})
      .transpose(0, 1)
      .reshape(disk.shape);  // (3, H, K, ..) -> (H, 3, K, ..)
}

void from_disk(const DiskTensor& disk, const at::Tensor& stored, const at::Tensor& internal) {
  const at::Tensor rows = internal.narrow(0, disk.first_row, disk.shape[0]);
  if (disk.interleaved_heads == 0) {
    rows.copy_(stored);
    return;
  }
  const int64_t H = disk.interleaved_heads;
  rows.copy_(
      stored.reshape({H, 3, disk.shape[0] / (3 * H), -1}).transpose(0, 1).reshape(disk.shape));
}

void read_rope(const ConfigJson& json,
               const std::string& theta_key,
               double default_factor,
               ModelConfig& config) {
  check_rope_type(json, "rope_scaling");
  check_rope_type(json, "rope_parameters");
  const ConfigJson rope = json.object("rope_parameters");
  config.rope_theta = rope.number("rope_theta", json.number(theta_key, 10000.0));
  config.partial_rotary_factor =
      rope.number("partial_rotary_factor", json.number("partial_rotary_factor", default_factor));
}

ModelConfig config_from_json(const ConfigJson& json) {
  std::string type = json.text("model_type");
  const bool foreign = !type.starts_with(kBasinPrefix);
  if (!foreign) type = type.substr(kBasinPrefix.size());
  const auto known =
      std::find(std::begin(kEnumNames<ModelType>), std::end(kEnumNames<ModelType>), type);
  if (known == std::end(kEnumNames<ModelType>))
    json.refuse("model_type",
                fmt::format("\"{}\" is not supported; supported: {}",
                            json.text("model_type"),
                            fmt::join(kEnumNames<ModelType>, ", ")));
  if (json.has("quantization_config"))
    json.refuse("quantization_config", "quantized checkpoints are not supported");

  ModelConfig config;
  config.model_type = static_cast<ModelType>(known - std::begin(kEnumNames<ModelType>));
  config.vocab_size = json.integer("vocab_size");
  config.hidden_size = json.integer("hidden_size");
  config.num_hidden_layers = json.integer("num_hidden_layers");
  config.num_attention_heads = json.integer("num_attention_heads");
  config.intermediate_size = json.integer("intermediate_size");
  config.tie_word_embeddings = json.boolean("tie_word_embeddings", false);
  config.initializer_range = json.number("initializer_range", 0.02);
  config.sink = read_sink(json);
  family_of(config.model_type).read_config(json, foreign, config);
  drop_redundant(config);
  if (config.vocab_size < 1) json.refuse("vocab_size", "must be positive");
  std::vector<std::string> problems = range_problems(config);
  if (problems.empty()) problems = config.problems();
  if (!problems.empty())
    json.refuse(problems.front().substr(0, problems.front().find(' ')),
                fmt::format("{}", fmt::join(problems, "; ")));
  return config;
}

nlohmann::ordered_json config_to_json(const ModelConfig& config, const ConfigExtras& extras) {
  const bool elsewhere = loads_elsewhere(config);
  nlohmann::ordered_json json;
  const std::string architecture = config.is_llama() ? "LlamaForCausalLM" : "GPTNeoXForCausalLM";
  json["architectures"] = {elsewhere ? architecture : "Basin" + architecture};
  json["model_type"] =
      std::string(elsewhere ? "" : kBasinPrefix) + std::string(enum_name(config.model_type));
  json["vocab_size"] = config.vocab_size;
  json["hidden_size"] = config.hidden_size;
  json["intermediate_size"] = config.intermediate_size;
  json["num_hidden_layers"] = config.num_hidden_layers;
  json["num_attention_heads"] = config.num_attention_heads;
  family_of(config.model_type).write_config(config, json);
  json["max_position_embeddings"] = extras.sequence_length + config.sink.tokens();
  json["initializer_range"] = config.initializer_range;
  json["tie_word_embeddings"] = config.tie_word_embeddings;
  write_special_ids(config, extras, json);
  json["pad_token_id"] = nullptr;
  json["use_cache"] = true;
  if (config.sink.kind != SinkKind::kNone)
    json["sink"] = {{"kind", enum_name(config.sink.kind)},
                    {"count", config.sink.tokens()},
                    {"token_ids", config.sink.ids()}};
  json["torch_dtype"] = json["dtype"] = dtype_name(extras.dtype);
  json["transformers_version"] = "4.57.0";
  return json;
}

nlohmann::ordered_json generation_config_to_json(const ModelConfig& config,
                                                 const ConfigExtras& extras) {
  nlohmann::ordered_json json;
  write_special_ids(config, extras, json);
  json["do_sample"] = true;
  json["transformers_version"] = "4.57.0";
  return json;
}

}  // namespace basin
