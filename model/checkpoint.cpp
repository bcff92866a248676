// Reading is strict where other loaders are silent: a tensor that is missing, extra or of another
// shape is an error that names it.
#include "model/checkpoint.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <fmt/core.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <optional>
#include <set>
#include <stdexcept>
#include <string_view>
#include <system_error>

#include "configs/config_node.h"
#include "configs/files.h"
#include "configs/json_text.h"
#include "model/families/config_file.h"
#include "model/families/config_writer.h"
#include "model/families/disk_layout.h"
#include "model/safetensors.h"
#include "model/step_directories.h"
#include "model/weight_files.h"

namespace basin {
namespace {

namespace fs = std::filesystem;

constexpr const char* kConfig = "config.json";
constexpr const char* kGeneration = "generation_config.json";
constexpr const char* kWeights = "model.safetensors";

/// "a, b, c and 4 more"
std::string name_some(const std::vector<std::string>& names) {
  constexpr size_t kShown = 3;
  const size_t shown = std::min(kShown, names.size());
  std::vector<std::string> first;
  for (size_t i = 0; i < shown; ++i) first.push_back(printable(names[i]));
  const std::string list = fmt::format("{}", fmt::join(first, ", "));
  return names.size() > shown ? fmt::format("{} and {} more", list, names.size() - shown) : list;
}

/// What is stored for `disk`, under its name or its alias.
std::string stored_name(const WeightFiles& stored, const DiskTensor& disk) {
  return stored.has(disk.name) || disk.alias.empty() ? disk.name : disk.alias;
}

/// Into (a view of) the model's own tensor, with no second copy of it.
void read_weight(const WeightFiles& stored, const DiskTensor& disk, const at::Tensor& internal) {
  const std::string name = stored_name(stored, disk);
  if (disk.qkv_groups > 0)  // all rows change places
    return stored.for_all_rows(
        name, [&](const at::Tensor& rows, int64_t) { from_disk(disk, rows, internal); });
  stored.for_rows(name, [&](const at::Tensor& rows, int64_t first_row) {
    DiskTensor part = disk;
    part.first_row += first_row;
    part.shape[0] = rows.size(0);
    from_disk(part, rows, internal);
  });
}

/// A tied model's file may carry the head all the same, as long as it equals the embedding:
/// elsewhere a different one silently wins.
std::set<std::string> check_tied_head(const WeightFiles& stored,
                                      const ModelConfig& config,
                                      const std::vector<DiskTensor>& tensors) {
  std::set<std::string> accepted;
  if (!config.tie_word_embeddings) return accepted;
  ModelConfig untied = config;
  untied.tie_word_embeddings = false;
  const DiskTensor head = disk_tensors(untied).back();
  for (const std::string& name : {head.name, head.alias}) {
    if (name.empty() || !stored.has(name)) continue;
    if (!stored.equal(name, stored_name(stored, tensors.front())))
      throw std::runtime_error(fmt::format(
          "{}: tensor \"{}\" differs from the embedding although {} has tie_word_embeddings: true",
          stored.label(),
          name,
          kConfig));
    accepted.insert(name);
  }
  return accepted;
}

/// Every expected tensor is there in its shape, and nothing else.
void check_tensors(const WeightFiles& stored,
                   const ModelConfig& config,
                   const std::vector<DiskTensor>& tensors) {
  std::vector<std::string> missing, misshapen, extra;
  std::set<std::string> expected;
  for (const DiskTensor& disk : tensors) {
    const std::string name = stored_name(stored, disk);
    expected.insert(name);
    if (!stored.has(name))
      missing.push_back(name);
    else if (const auto& shape = stored.shape(name); shape != disk.shape)
      misshapen.push_back(fmt::format(
          "{} has ({}), expected ({})", name, fmt::join(shape, ", "), fmt::join(disk.shape, ", ")));
  }
  if (!missing.empty())
    throw std::runtime_error(
        fmt::format("{}: missing tensors: {}", stored.label(), name_some(missing)));
  if (!misshapen.empty())
    throw std::runtime_error(fmt::format(
        "{}: shapes other than {} says: {}", stored.label(), kConfig, name_some(misshapen)));
  expected.merge(check_tied_head(stored, config, tensors));
  for (const std::string& name : stored.names())
    if (!expected.contains(name) && !is_legacy_buffer(name)) extra.push_back(name);
  if (!extra.empty())
    throw std::runtime_error(fmt::format("{}: tensors that a model with this {} does not have: {}",
                                         stored.label(),
                                         kConfig,
                                         name_some(extra)));
}

bool holds_model(const fs::path& directory) {
  try {
    return fs::exists(directory / kConfig) || fs::exists(directory / "final" / kConfig) ||
           !list_steps(directory).empty();
  } catch (const fs::filesystem_error&) {  // not ours to read
    return false;
  }
}

}  // namespace

ModelConfig read_model_config(const fs::path& directory) {
  return config_from_json(ConfigJson::read(directory / kConfig));
}

int64_t read_max_positions(const fs::path& directory) {
  return max_positions_from_json(ConfigJson::read(directory / kConfig));
}

std::unique_ptr<Transformer> load_model(const fs::path& directory,
                                        at::ScalarType dtype,
                                        at::Device device) {
  const at::NoGradGuard no_grad;
  check_listed_files(directory);
  const ModelConfig config = read_model_config(directory);
  const WeightFiles stored(directory);
  std::vector<DiskTensor> tensors = disk_tensors(config);
  check_tensors(stored, config, tensors);
  std::sort(tensors.begin(), tensors.end(), [&](const DiskTensor& a, const DiskTensor& b) {
    return stored.lies_before(stored_name(stored, a), stored_name(stored, b));
  });
  auto model = std::make_unique<Transformer>(config, dtype, device);
  for (const DiskTensor& disk : tensors)
    read_weight(stored, disk, model->parameter(disk.internal));
  return model;
}

Manifest save_model(const Transformer& model,
                    int64_t sequence_length,
                    const fs::path& directory,
                    std::vector<int64_t> eos_token_ids,
                    const WeightsOutput& output) {
  const at::NoGradGuard no_grad;
  fs::create_directories(directory);
  std::vector<SafetensorsSource> sources;
  for (const DiskTensor& disk : disk_tensors(model.config())) {
    const at::Tensor internal = model.parameter(disk.internal);
    sources.push_back({disk.name, model.dtype(), disk.shape, [disk, internal] {
                         return to_disk(disk, internal);
                       }});
  }
  Manifest manifest = write_weights(directory, std::move(sources), output);
  const ConfigExtras extras{sequence_length, model.dtype(), std::move(eos_token_ids)};
  manifest.add(kGeneration,
               {write_file(directory / kGeneration,
                           generation_config_to_json(model.config(), extras).dump(2) + "\n")});
  manifest.add(
      kConfig,
      {write_file(directory / kConfig, config_to_json(model.config(), extras).dump(2) + "\n")});
  return manifest;
}

std::string other_models(const fs::path& path) {
  const fs::path wanted = without_slash(path), parent = wanted.parent_path(),
                 in_runs = "runs" / wanted;  // where train puts them
  if (wanted.is_relative() && holds_model(in_runs))
    return fmt::format("; did you mean {}?", in_runs.string());
  std::vector<std::string> models;
  std::error_code unreadable;
  for (const auto& entry : fs::directory_iterator(parent.empty() ? "." : parent, unreadable))
    if (holds_model(entry.path())) models.push_back((parent / entry.path().filename()).string());
  if (models.empty()) return "";
  std::sort(models.begin(), models.end());
  const std::vector<std::string_view> names(models.begin(), models.end());
  const std::string near = closest(wanted.string(), names);
  return near.empty() ? fmt::format("; there {} {}", models.size() == 1 ? "is" : "are", name_some(models))
                      : fmt::format("; did you mean {}?", near);
}

fs::path resolve_model_directory(const fs::path& path) {
  if (fs::exists(path) && !fs::is_directory(path))
    throw std::runtime_error(
        fmt::format("{}: is a file; a model is a directory with a {}", path.string(), kConfig));
  if (!fs::is_directory(path))
    throw std::runtime_error(
        fmt::format("{}: no such directory{}", path.string(), other_models(path)));
  if (fs::exists(path / kConfig)) return path;
  if (fs::exists(path / "final" / kConfig)) return path / "final";
  if (const auto step = find_newest_model(path)) return *step;
  throw std::runtime_error(
      fmt::format("{}: no model here: looked for {}, for final/{} and for an intact step-*",
                  path.string(),
                  kConfig,
                  kConfig));
}

}  // namespace basin
