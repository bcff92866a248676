// Mistral on disk: a Llama that may attend to its newest `sliding_window` positions only
// (transformers MistralForCausalLM).
#include "model/families/families.h"

namespace basin {
namespace {

// Where the key is absent, transformers takes this; null means no window.
constexpr int64_t kUnsaidWindow = 4096;

void read_config(const ConfigJson& json, ModelConfig& config) {
  if (!json.has("num_key_value_heads")) json.refuse("num_key_value_heads", "missing");
  read_llama_config(json, config);
  if (!json.is_null("sliding_window"))
    config.sliding_window = json.integer("sliding_window", kUnsaidWindow);
}

void write_config(const ModelConfig& config, nlohmann::ordered_json& json) {
  write_llama_config(config, json);
  json["sliding_window"] = nullptr;
  if (config.sliding_window > 0) json["sliding_window"] = config.sliding_window;
}

}  // namespace

const Family& mistral_family() {
  static const Family family = {ModelType::kMistral,
                                "MistralForCausalLM",
                                "model.layers.",
                                {},
                                llama_modules,
                                read_config,
                                write_config};
  return family;
}

}  // namespace basin
