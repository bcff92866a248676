// Mistral on disk: a Llama that may attend to its newest `sliding_window` positions only
// (transformers MistralForCausalLM).
#include "model/families/families.h"

namespace basin {
namespace {

// Where the key is absent, transformers takes this; null means no window.
constexpr int64_t kUnsaidWindow = 4096;

void read_config(const ConfigJson& json, ModelConfig& config) {
  read_llama_config(json, config);
  if (!json.is_null("sliding_window"))
    config.sliding_window = json.integer("sliding_window", kUnsaidWindow);
}

void write_config(const ModelConfig& config, nlohmann::ordered_json& json) {
  write_llama_config(config, json);
  write_window(config, json);
}

}  // namespace

const Family& mistral_family() {
  static const Family family =
      llama_like(ModelType::kMistral, "MistralForCausalLM", read_config, write_config);
  return family;
}

}  // namespace basin
