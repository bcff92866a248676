// Families are data: each has one file that says how its tensors are called and laid out on disk
// and how its config.json reads, both ways. No LibTorch here: tensors themselves move in
// disk_layout.h.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "model/config.h"
#include "model/families/config_json.h"

namespace basin {

/// One tensor on disk: rows [first_row, first_row + shape[0]) of an internal tensor
/// (model/transformer.h).
struct DiskTensor {
  std::string name;
  std::string alias;     // another name under which checkpoints carry it, or empty
  std::string internal;  // "layers.3.qkv.weight"
  int64_t first_row = 0;
  std::vector<int64_t> shape;
  int64_t qkv_groups = 0;  // G: rows on disk are (G, H/G + 2, K), in each group its queries, then a
                           // key and a value; 0: rows as they are
  int64_t heads = 0;       // H, with qkv_groups
};

/// How modules of a family are called on disk: internal "qkv" is, say, q_proj, k_proj and v_proj
/// below each other.
struct DiskModule {
  struct Part {
    std::string name;
    int64_t rows = 0;        // 0: all
    std::string alias = {};  // another name that is read
  };
  std::string internal;     // "embedding", or "qkv" of each layer
  std::vector<Part> parts;  // in the order of the internal rows
  int64_t qkv_groups = 0;
};

/// How a family's config.json calls what all have. `older`: a spelling that is read, too.
struct ConfigKey {
  const char* name = nullptr;
  const char* older = nullptr;
};
struct ConfigKeys {
  ConfigKey hidden_size{"hidden_size"};
  ConfigKey num_hidden_layers{"num_hidden_layers"};
  ConfigKey num_attention_heads{"num_attention_heads"};
  ConfigKey intermediate_size{"intermediate_size"};  // null: not in the file, 4 hidden_size
  const char* max_position_embeddings = "max_position_embeddings";
  bool tied = false;  // tie_word_embeddings where the file does not say
};

using ReadConfig = void(const ConfigJson& json, ModelConfig& config);
using WriteConfig = void(const ModelConfig& config, nlohmann::ordered_json& json);

struct Family {
  ModelType type;
  const char* architecture;  // "LlamaForCausalLM"
  const char* layer_prefix;  // in front of the layer's number: "model.layers."
  ConfigKeys keys;
  std::vector<DiskModule> (*modules)(
      const ModelConfig&);  // layers' modules without prefix, the others in full
  ReadConfig* read_config;
  WriteConfig* write_config;
};

const Family& llama_family();
const Family& gpt_neox_family();
const Family& mistral_family();
const Family& qwen2_family();
const Family& mpt_family();
const Family& falcon_family();
const Family& family_of(ModelType type);

/// Every tensor of the model as its family stores it.
std::vector<DiskTensor> disk_tensors(const ModelConfig& config);
/// Buffers that old checkpoints carry and nobody needs: masks and inverse frequencies.
bool is_legacy_buffer(const std::string& name);

/// What mistral and qwen2 share with llama: names on disk, and most of config.json.
Family llama_like(ModelType type,
                  const char* architecture,
                  ReadConfig* read_config,
                  WriteConfig* write_config);
ReadConfig read_llama_config;
WriteConfig write_llama_config;
/// Mistral's and qwen2's `sliding_window`: null means none.
WriteConfig write_window;

/// Refuses any activation but `expected` under `key`.
void require_activation(const ConfigJson& json,
                        const std::string& key,
                        const std::string& expected);

/// The share of a head that rotates, the base and the scaling, from `rope_scaling` and
/// `rope_parameters` as transformers 5 combines them, else the older keys: the share is gpt_neox's
/// rotary_pct, which has no other, and everyone else's partial_rotary_factor.
void read_rope(const ConfigJson& json,
               const std::string& theta_key,
               double default_factor,
               ModelConfig& config);
/// rope_theta (under `theta_key`), rope_scaling and rope_parameters: the same in both dialects.
void write_rope(const std::string& theta_key,
                const ModelConfig& config,
                nlohmann::ordered_json& json);

}  // namespace basin
