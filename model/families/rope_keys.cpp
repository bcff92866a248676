// The rotary keys of config.json, which all rotating families share.
#include <fmt/core.h>

#include "model/families/families.h"

namespace basin {
namespace {

RopeType read_rope_type(const ConfigJson& json, const std::string& key, const ConfigJson& rope) {
  const std::string type = rope.text("rope_type", rope.text("type", "default"));
  const auto known = enum_value<RopeType>(type);
  if (!known)
    json.refuse(key,
                fmt::format("rotary scaling \"{}\" is not supported, only default, linear and "
                            "llama3",
                            type));
  return *known;
}

double required(const ConfigJson& rope, const char* key) {
  if (!rope.has(key)) rope.refuse(key, "missing");
  return rope.number(key, 0);
}

RopeScaling read_scaling(const ConfigJson& json, const std::string& key, const ConfigJson& rope) {
  for (const std::string& each : rope.keys())
    if (rope.is_object(each))
      rope.refuse(each, "rotary parameters of single layers are not supported");
  RopeScaling scaling;
  scaling.rope_type = read_rope_type(json, key, rope);
  if (scaling.rope_type == RopeType::kDefault) return scaling;
  scaling.factor = required(rope, "factor");
  if (scaling.rope_type == RopeType::kLinear) return scaling;
  scaling.low_freq_factor = required(rope, "low_freq_factor");
  scaling.high_freq_factor = required(rope, "high_freq_factor");
  scaling.original_max_position_embeddings = rope.has("original_max_position_embeddings")
                                                 ? rope.integer("original_max_position_embeddings")
                                                 : json.integer("max_position_embeddings");
  return scaling;
}

const char* share_key(const ModelConfig& config) {
  return config.model_type == ModelType::kGptNeox ? "rotary_pct" : "partial_rotary_factor";
}

}  // namespace

void read_rope(const ConfigJson& json,
               const std::string& theta_key,
               double default_factor,
               ModelConfig& config) {
  // transformers 5 takes rope_scaling, where there is one, for all of rope_parameters.
  const std::string key =
      json.object("rope_scaling").keys().empty() ? "rope_parameters" : "rope_scaling";
  const ConfigJson rope = json.object(key);
  config.rope_scaling = read_scaling(json, key, rope);
  config.rope_theta = rope.number("rope_theta", json.number(theta_key, 10000.0));
  config.partial_rotary_factor =
      rope.number("partial_rotary_factor", json.number(share_key(config), default_factor));
}

void write_rope(const std::string& theta_key,
                const ModelConfig& config,
                nlohmann::ordered_json& json) {
  const RopeScaling& scaling = config.rope_scaling;
  nlohmann::ordered_json stretch = {{"rope_type", enum_name(scaling.rope_type)}};
  if (scaling.rope_type != RopeType::kDefault) stretch["factor"] = scaling.factor;
  if (scaling.rope_type == RopeType::kLlama3) {
    stretch["low_freq_factor"] = scaling.low_freq_factor;
    stretch["high_freq_factor"] = scaling.high_freq_factor;
    stretch["original_max_position_embeddings"] = scaling.original_max_position_embeddings;
  }
  const bool partial =
      config.partial_rotary_factor != 1.0 || config.model_type == ModelType::kGptNeox;
  if (partial) json[share_key(config)] = config.partial_rotary_factor;
  json[theta_key] = config.rope_theta;
  json["rope_scaling"] = nullptr;
  if (scaling.rope_type != RopeType::kDefault) json["rope_scaling"] = stretch;
  stretch["rope_theta"] = config.rope_theta;
  if (partial) stretch["partial_rotary_factor"] = config.partial_rotary_factor;
  json["rope_parameters"] = stretch;
}

}  // namespace basin
