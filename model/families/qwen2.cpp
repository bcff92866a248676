// Qwen2 on disk: a Llama with biases in q, k and v (transformers Qwen2ForCausalLM). Its window may
// be switched on for some layers: all or none are supported.
#include <algorithm>

#include "model/families/families.h"

namespace basin {
namespace {

// Of transformers, where the keys are absent.
constexpr int64_t kUnsaidWindow = 4096, kUnsaidFullLayers = 28;

int64_t sliding_layers(const ConfigJson& json, int64_t layers) {
  const std::vector<std::string> types = json.texts("layer_types");
  if (types.empty())
    return layers -
           std::clamp<int64_t>(json.integer("max_window_layers", kUnsaidFullLayers), 0, layers);
  for (const std::string& type : types)
    if (type != "full_attention" && type != "sliding_attention")
      json.refuse("layer_types", "\"" + type + "\" is not supported");
  return std::count(types.begin(), types.end(), "sliding_attention");
}

int64_t read_window(const ConfigJson& json, int64_t layers) {
  if (!json.boolean("use_sliding_window", false) || json.is_null("sliding_window")) return 0;
  const int64_t sliding = sliding_layers(json, layers);
  if (sliding == 0) return 0;
  if (sliding < layers)
    json.refuse("use_sliding_window", "a sliding window in some of the layers is not supported");
  return json.integer("sliding_window", kUnsaidWindow);
}

void read_config(const ConfigJson& json, ModelConfig& config) {
  read_llama_config(json, config);
  config.sliding_window = read_window(json, config.num_hidden_layers);
}

void write_config(const ModelConfig& config, nlohmann::ordered_json& json) {
  const bool slides = config.sliding_window > 0;
  write_llama_config(config, json);
  json["use_sliding_window"] = slides;
  write_window(config, json);
  json["max_window_layers"] = slides ? 0 : config.num_hidden_layers;
}

}  // namespace

const Family& qwen2_family() {
  static const Family family =
      llama_like(ModelType::kQwen2, "Qwen2ForCausalLM", read_config, write_config);
  return family;
}

}  // namespace basin
