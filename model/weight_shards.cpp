// Shards and their index as transformers' save_pretrained writes them.
#include "model/weight_shards.h"

#include <ATen/ATen.h>
#include <fmt/core.h>

#include <nlohmann/json.hpp>
#include <utility>

namespace basin {
namespace {

using Shard = std::vector<SafetensorsSource>;

uint64_t elements_of(const SafetensorsSource& source) {
  return static_cast<uint64_t>(c10::multiply_integers(source.shape));
}

uint64_t bytes_of(const SafetensorsSource& source) {
  return elements_of(source) * c10::elementSize(source.dtype);
}

std::vector<Shard> split(std::vector<SafetensorsSource> sources, uint64_t max_bytes) {
  std::vector<Shard> shards(1);
  uint64_t filled = 0;
  for (SafetensorsSource& source : sources) {
    const uint64_t bytes = bytes_of(source);
    if (max_bytes > 0 && !shards.back().empty() && filled + bytes > max_bytes) {
      shards.emplace_back();
      filled = 0;
    }
    filled += bytes;
    shards.back().push_back(std::move(source));
  }
  return shards;
}

void announce(Shard& shard, const std::function<void(uint64_t)>& on_tensor) {
  if (!on_tensor) return;
  for (SafetensorsSource& source : shard)
    source.make = [make = std::move(source.make), bytes = bytes_of(source), on_tensor] {
      on_tensor(bytes);
      return make();
    };
}

}  // namespace

Manifest write_weights(const std::filesystem::path& directory,
                       std::vector<SafetensorsSource> sources,
                       const WeightsOutput& output) {
  Manifest manifest;
  std::vector<Shard> shards = split(std::move(sources), output.max_shard_bytes);
  uint64_t total_bytes = 0, total_elements = 0;
  nlohmann::json weight_map = nlohmann::json::object();
  for (size_t i = 0; i < shards.size(); ++i) {
    const std::string name =
        shards.size() == 1 ? "model.safetensors"
                           : fmt::format("model-{:05}-of-{:05}.safetensors", i + 1, shards.size());
    for (const SafetensorsSource& source : shards[i]) {
      total_bytes += bytes_of(source);
      total_elements += elements_of(source);
      weight_map[source.name] = name;
    }
    announce(shards[i], output.on_tensor);
    manifest.add(name, write_safetensors(directory / name, std::move(shards[i])));
  }
  if (shards.size() > 1) {
    const nlohmann::json index = {
        {"metadata", {{"total_parameters", total_elements}, {"total_size", total_bytes}}},
        {"weight_map", weight_map}};
    constexpr const char* kIndex = "model.safetensors.index.json";
    manifest.add(kIndex, {write_file(directory / kIndex, index.dump(2) + "\n")});
  }
  return manifest;
}

}  // namespace basin
