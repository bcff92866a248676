// Families are data: each has one file that says how its tensors are called and laid out on disk
// and how its config.json reads, both ways. What families share (rope in both dialects, dtype, the
// sink) is here.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
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
  int64_t interleaved_heads =
      0;  // H: rows on disk are (H, 3, K), q k v within each head; 0: rows as they are
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
  int64_t interleaved_heads = 0;
};

struct Family {
  ModelType type;
  std::string layer_prefix;  // in front of the layer's number: "model.layers."
  std::vector<DiskModule> (*modules)(
      const ModelConfig&);  // layers' modules without prefix, the others in full
  void (*read_config)(const ConfigJson& json,
                      bool foreign,
                      ModelConfig& config);  // `foreign`: other software reads the same file
  void (*write_config)(const ModelConfig& config, nlohmann::ordered_json& json);
};

const Family& llama_family();
const Family& gpt_neox_family();
const Family& family_of(ModelType type);

/// Every tensor of the model as its family stores it.
std::vector<DiskTensor> disk_tensors(const ModelConfig& config);
/// Buffers that old checkpoints carry and nobody needs: masks and inverse frequencies.
bool is_legacy_buffer(const std::string& name);

/// Internal tensor -> what goes to disk, and back into (a view of) the internal tensor. Shapes per
/// `disk`.
at::Tensor to_disk(const DiskTensor& disk, const at::Tensor& internal);
void from_disk(const DiskTensor& disk, const at::Tensor& stored, const at::Tensor& internal);

/// The share of a head that rotates and the base, from `rope_parameters` (transformers 5), else the
/// older keys.
void read_rope(const ConfigJson& json,
               const std::string& theta_key,
               double default_factor,
               ModelConfig& config);

/// What save_model knows beyond the model itself.
struct ConfigExtras {
  int64_t sequence_length = 0;
  at::ScalarType dtype = at::kFloat;
  std::optional<int64_t> eos_token_id;
};
/// Throws std::runtime_error naming file and key for what is not supported.
ModelConfig config_from_json(const ConfigJson& json);
nlohmann::ordered_json config_to_json(const ModelConfig& config, const ConfigExtras& extras);
nlohmann::ordered_json generation_config_to_json(const ModelConfig& config,
                                                 const ConfigExtras& extras);

}  // namespace basin
