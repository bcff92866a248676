#include "model/families/config_writer.h"

#include <string>

#include "model/families/families.h"

namespace basin {
namespace {

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
  std::vector<int64_t> ends = extras.eos_token_ids;
  std::erase_if(ends, [&](int64_t id) { return id >= config.vocab_size; });
  json["eos_token_id"] = ends;
  if (ends.size() < 2) json["eos_token_id"] = ends.empty() ? nullptr : nlohmann::ordered_json(ends[0]);
}

}  // namespace

bool loads_elsewhere(const ModelConfig& config) {
  const bool plain_softmax =
      config.sink.kind == SinkKind::kNone || config.sink.kind == SinkKind::kToken;
  const bool plain_rotation = config.uses_alibi() || config.partial_rotary_factor == 1.0 ||
                              config.model_type == ModelType::kGptNeox;
  return plain_softmax && plain_rotation;
}

nlohmann::ordered_json config_to_json(const ModelConfig& config, const ConfigExtras& extras) {
  const bool elsewhere = loads_elsewhere(config);
  const Family& family = family_of(config.model_type);
  const ConfigKeys& keys = family.keys;
  nlohmann::ordered_json json;
  json["architectures"] = {std::string(elsewhere ? "" : "Basin") + family.architecture};
  json["model_type"] =
      std::string(elsewhere ? "" : "basin_") + std::string(enum_name(config.model_type));
  json["vocab_size"] = config.vocab_size;
  json[keys.hidden_size.name] = config.hidden_size;
  if (keys.intermediate_size.name != nullptr)
    json[keys.intermediate_size.name] = config.intermediate_size;
  json[keys.num_hidden_layers.name] = config.num_hidden_layers;
  json[keys.num_attention_heads.name] = config.num_attention_heads;
  family.write_config(config, json);
  json[keys.max_position_embeddings] = extras.sequence_length + config.sink.tokens();
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
