#include "infer/model_directory.h"

#include <fmt/core.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <stdexcept>

#include "configs/files.h"
#include "configs/log.h"
#include "model/checkpoint.h"
#include "model/step_directories.h"

namespace basin {
namespace {

namespace fs = std::filesystem;

nlohmann::json read_json(const fs::path& path) {
  const nlohmann::json json =
      nlohmann::json::parse(read_file(path), nullptr, /*allow_exceptions=*/false);
  if (!json.is_object())
    throw std::runtime_error(fmt::format("{}: not a JSON object", path.string()));
  return json;
}

}  // namespace

std::vector<int64_t> read_eos_ids(const fs::path& path) {
  if (!fs::exists(path)) return {};
  const nlohmann::json json = read_json(path);
  const auto eos = json.find("eos_token_id");
  if (eos == json.end() || eos->is_null()) return {};
  if (eos->is_number_integer()) return {eos->get<int64_t>()};
  if (eos->is_array() &&
      std::all_of(eos->begin(), eos->end(), [](const auto& id) { return id.is_number_integer(); }))
    return eos->get<std::vector<int64_t>>();
  throw std::runtime_error(
      fmt::format("{}: eos_token_id is neither an integer nor a list of integers", path.string()));
}

namespace {

std::vector<int64_t> find_eos_ids(const LoadedModel& model) {
  for (const char* const name : {"generation_config.json", "config.json"})
    if (auto ids = read_eos_ids(model.directory / name); !ids.empty()) return ids;
  if (!model.tokenizer) return {kEosId};
  if (model.tokenizer->eos_id() >= 0) return {model.tokenizer->eos_id()};
  return {};  // what ends a foreign text is not known
}

at::ScalarType parse_dtype(const std::string& name) {
  if (name == "float32") return at::kFloat;
  if (name == "bfloat16") return at::kBFloat16;
  if (name == "float16") return at::kHalf;  // to be written elsewhere: nothing here computes in it
  throw std::invalid_argument(fmt::format("--dtype {}: expected float32 or bfloat16", name));
}

}  // namespace

const Tokenizer& LoadedModel::require_tokenizer() const {
  if (!tokenizer)
    throw std::invalid_argument(
        fmt::format("{} has no tokenizer.model and no tokenizer.json, so text cannot be read or "
                    "written: put the model's tokenizer there (what is only scored can be a --dataset)",
                    directory.string()));
  return *tokenizer;
}

std::span<const int32_t> LoadedModel::prepended_ids() const {
  if (!tokenizer || model->config().sink.tokens() > 0) return {};
  return tokenizer->prepended_ids();
}

std::optional<size_t> LoadedModel::find_sink(std::span<const int32_t> ids) const {
  const std::vector<int64_t> sinks = model->config().sink.ids();
  const auto found =
      std::ranges::find_first_of(ids, sinks, [](int32_t id, int64_t sink) { return id == sink; });
  if (found == ids.end()) return std::nullopt;
  return static_cast<size_t>(found - ids.begin());
}

int64_t LoadedModel::default_cache() const {
  if (trained_tokens < 2)
    throw std::invalid_argument(
        fmt::format("{}: config.json does not say for how many positions the model was trained "
                    "(max_position_embeddings): give --cache",
                    directory.string()));
  return trained_tokens - 1;
}

LoadedModel open_model(const fs::path& path, const std::string& dtype, at::Device device) {
  const at::ScalarType type = parse_dtype(dtype);
  LoadedModel loaded;
  loaded.directory = resolve_model_directory(path);
  loaded.model = load_model(loaded.directory, type, device);
  if (const int64_t positions = read_max_positions(loaded.directory); positions > 0)
    loaded.trained_tokens = positions - loaded.model->config().sink.tokens();
  if (const int64_t window = loaded.model->config().sliding_window; window > 0) {
    log_info("the model attends to {} positions at most: caches can have {} entries, no more",
             window,
             window - 1);
    if (loaded.trained_tokens > 0)
      loaded.trained_tokens =
          std::min(loaded.trained_tokens, window - loaded.model->config().sink.tokens());
  }
  loaded.tokenizer = open_tokenizer(loaded.directory);
  loaded.eos_ids = find_eos_ids(loaded);
  if (loaded.tokenizer) {
    const int64_t pieces = loaded.tokenizer->vocab_size(), rows = loaded.model->config().vocab_size;
    if (pieces > rows)
      throw std::invalid_argument(
          fmt::format("{}: the tokenizer has {} pieces but the model only {} embedding rows: they "
                      "do not belong together",
                      loaded.directory.string(),
                      pieces,
                      rows));
  }
  return loaded;
}

std::string named_step(const fs::path& path) {
  const std::string name = without_slash(fs::absolute(path)).filename().string();
  return step_of(name) ? name : "";
}

bool names_step(const fs::path& file) {
  const std::string stem = file.stem().string();
  const size_t at = stem.rfind("-step-");
  const std::string name = at == stem.npos ? "" : stem.substr(at + 1);
  const auto step = step_of(name);
  return step && step_directory("", *step) == name;  // a text may be called two-step-5
}

int64_t step_of_model(const fs::path& directory) {
  return step_of(named_step(fs::weakly_canonical(directory))).value_or(-1);
}

fs::path eval_directory(const fs::path& path) {
  const fs::path directory = without_slash(fs::absolute(resolve_model_directory(path)));
  const bool is_step = !named_step(directory).empty() || directory.filename() == "final";
  return (is_step ? directory.parent_path() : directory) / "eval";
}

std::vector<fs::path> eval_files(const fs::path& run, std::string_view prefix) {
  std::vector<fs::path> files;
  if (!fs::is_directory(run / "eval")) return files;
  for (const fs::directory_entry& entry : fs::directory_iterator(run / "eval"))
    if (entry.path().filename().string().starts_with(prefix) && entry.path().extension() == ".json")
      files.push_back(entry.path());
  std::ranges::sort(files);
  return files;
}

}  // namespace basin
