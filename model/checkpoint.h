// The model part of a checkpoint: config.json, generation_config.json and model.safetensors of a Hugging Face directory.
#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <string>

#include "model/manifest.h"
#include "model/transformer.h"
#include "model/weight_shards.h"

namespace basin {

/// Reads config.json (both dialects of rope keys). Throws std::runtime_error naming file and key for what it does not support.
ModelConfig read_model_config(const std::filesystem::path& directory);

/// For how many positions the model was made, as its config.json says (max_position_embeddings, MPT's max_seq_len); 0 when it does not.
int64_t read_max_positions(const std::filesystem::path& directory);

/// Builds the model that `directory` holds, with weights as `dtype`. A missing, extra or wrongly shaped tensor is refused by name,
/// and so is a tensor or a file of the directory that is not what its manifest.json says, where it has one.
std::unique_ptr<Transformer> load_model(const std::filesystem::path& directory, at::ScalarType dtype, at::Device device);

/// Writes config.json, generation_config.json and model.safetensors, or shards of it as `output` asks (dtype of the model; on disk layouts of its family) into `directory`.
/// `sequence_length`: T, which with the sinks gives max_position_embeddings. `eos_token_ids`: what ends a text, by default the </s> of `prepare`;
/// none (or one outside the vocabulary) writes null. bos_token_id is the first sink token, else null: nothing is prepended.
/// Returns what a manifest says of these files.
/// Models that no other software computes alike (sinks of kind zero and logit, partial rotation in a llama) say model_type basin_FAMILY.
Manifest save_model(const Transformer& model, int64_t sequence_length, const std::filesystem::path& directory, std::vector<int64_t> eos_token_ids = {2},
                    const WeightsOutput& output = {});

/// "; did you mean runs/demo-sink?" where there is no `path`, or which models lie beside it; empty where none do.
std::string other_models(const std::filesystem::path& path);

/// The model directory that `path` names: itself when it has a config.json, else a run's `final`, else its newest intact step.
/// Throws std::runtime_error saying what was looked for.
std::filesystem::path resolve_model_directory(const std::filesystem::path& path);

}  // namespace basin
