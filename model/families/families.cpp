#include "model/families/families.h"

#include <fmt/core.h>

#include <algorithm>
#include <stdexcept>

#include "model/parameters.h"

namespace basin {
namespace {

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

}  // namespace

const Family& family_of(ModelType type) {
  switch (type) {
    case ModelType::kLlama:
      return llama_family();
    case ModelType::kGptNeox:
      return gpt_neox_family();
    case ModelType::kMistral:
      return mistral_family();
    case ModelType::kQwen2:
      return qwen2_family();
    case ModelType::kMpt:
      return mpt_family();
    case ModelType::kFalcon:
      return falcon_family();
  }
  throw std::logic_error("no family for this model type");
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
    if (module == modules.end())
      throw std::logic_error(fmt::format("no name on disk for {}", parameter.name));
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
                         module->qkv_groups,
                         module->qkv_groups > 0 ? config.heads() : 0});
      first_row += shape[0];
    }
  }
  return tensors;
}

bool is_legacy_buffer(const std::string& name) {
  return name.ends_with(".rotary_emb.inv_freq") || name.ends_with(".attention.bias") ||
         name.ends_with(".attention.masked_bias");
}

void require_activation(const ConfigJson& json,
                        const std::string& key,
                        const std::string& expected) {
  std::string activation = json.text(key, expected);
  if (activation == "swish") activation = "silu";
  if (activation != expected)
    json.refuse(key,
                fmt::format("\"{}\" is not supported, only \"{}\"{}",
                            activation,
                            expected,
                            expected == "gelu" ? " (erf form)" : ""));
}

}  // namespace basin
