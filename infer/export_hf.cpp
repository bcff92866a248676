#include "infer/export_hf.h"

#include <ATen/ATen.h>
#include <fmt/core.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string_view>

#include "configs/files.h"
#include "configs/log.h"
#include "configs/progress.h"
#include "configs/signals.h"
#include "data/tokenizer_sinks.h"
#include "infer/model_card.h"
#include "infer/model_directory.h"
#include "infer/staged_directory.h"
#include "infer/stored_dtype.h"
#include "model/checkpoint.h"

namespace basin {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

constexpr std::string_view kDtypes[] = {"float32", "float16", "bfloat16"};

/// Under which terms a model is given away.
constexpr const char* kOtherFiles[] = {"LICENSE", "LICENSE.txt", "LICENSE.md", "NOTICE"};

void check_finite(const LoadedModel& model, const std::string& dtype) {
  for (const Parameter& parameter : model.model->parameters())
    if (!at::isfinite(parameter.tensor).all().item<bool>())
      throw std::runtime_error(fmt::format(
          "{}: tensor {} holds values that are not finite as {}{}",
          model.directory.string(),
          parameter.name,
          dtype,
          dtype == "float16" ? ", whose largest is 65504: export it as bfloat16 or float32"
                             : ": the model is damaged"));
}

void take_along(const char* name, const fs::path& from, const fs::path& to) {
  if (fs::exists(from / name)) write_file(to / name, read_file(from / name));
}

/// As it is; a model without it stays without, and is generated from as before.
void keep_generation_config(const fs::path& from, const fs::path& to) {
  constexpr const char* kName = "generation_config.json";
  fs::remove(to / kName);
  take_along(kName, from, to);
}

/// Ours are written anew, so that they agree with the model's sink; others stay as they are.
void write_tokenizer(const LoadedModel& model, const fs::path& directory) {
  constexpr int64_t kFirstSink = 1;
  const SinkConfig& sink = model.model->config().sink;
  const bool ours = fs::exists(model.directory / "tokenizer.model") && model.tokenizer &&
                    model.tokenizer->bos_id() == kFirstSink &&
                    model.tokenizer->piece(kFirstSink) == "<sink>";
  const auto is_piece = [&](int64_t id) { return id < model.tokenizer->vocab_size(); };
  if (ours && model.trained_tokens > 0 && std::ranges::all_of(sink.ids(), is_piece))
    return write_tokenizer_files(
        *model.tokenizer, sink.ids(), model.trained_tokens + sink.tokens(), directory);
  copy_tokenizer_files(model.directory, directory);
}

/// What save_model cannot know: which ids begin, end and pad the texts of a model from elsewhere (a
/// sink model's first id is its sink), and that nobody says how many positions it has.
void keep_what_it_says(const Json& source, const ModelConfig& model, const fs::path& directory) {
  const fs::path path = directory / "config.json";
  Json config = Json::parse(read_file(path));
  for (const char* key : {"bos_token_id", "eos_token_id", "pad_token_id"}) {
    const bool is_sink = std::string_view(key) == "bos_token_id" && model.sink.tokens() > 0;
    if (const auto found = source.find(key); found != source.end() && !is_sink)
      config[key] = *found;
  }
  // As it was: what we train or stream within may be less, a sliding window for one.
  for (const char* key : {"max_position_embeddings", "max_seq_len"}) {
    const auto found = source.find(key);
    if (found == source.end())
      config.erase(key);
    else
      config[key] = *found;
  }
  write_file(path, config.dump(2) + "\n");
}

void explain_sink(const ModelConfig& config) {
  if (config.sink.in_denominator())
    log_warn(
        "sink {}: the softmax of this model has a constant in its denominator that no other "
        "software computes: config.json says model_type basin_*, so that it is refused elsewhere "
        "and read by Basin only",
        enum_name(config.sink.kind));
}

void write_weights_and_config(const LoadedModel& model,
                              const HfExport& options,
                              const fs::path& directory) {
  uint64_t total = 0;
  for (const Parameter& parameter : model.model->parameters()) total += parameter.tensor.nbytes();
  Progress progress("export", static_cast<int64_t>(total), "bytes");
  WeightsOutput output;
  output.max_shard_bytes = options.max_shard_bytes;
  output.on_tensor = [&](uint64_t bytes) {
    check_interrupt();
    progress.advance(static_cast<int64_t>(bytes));
  };
  save_model(*model.model,
             model.trained_tokens,
             directory,
             model.eos_ids,
             output);
}

}  // namespace

void export_hugging_face(const fs::path& model_path, const HfExport& options) {
  if (!options.dtype.empty() && std::ranges::find(kDtypes, options.dtype) == std::end(kDtypes))
    throw std::invalid_argument(fmt::format(
        "--dtype {}: a Hugging Face directory has {}", options.dtype, fmt::join(kDtypes, ", ")));
  const fs::path source = resolve_model_directory(model_path);
  StagedDirectory staged(options.out, options.force, source);
  const Json config = Json::parse(read_file(source / "config.json"), nullptr, false);
  const std::string dtype = options.dtype.empty() ? stored_dtype(source) : options.dtype;
  const LoadedModel model = open_model(source, dtype);
  check_finite(model, dtype);
  explain_sink(model.model->config());

  const fs::path& directory = staged.path();
  write_weights_and_config(model, options, directory);
  keep_what_it_says(config, model.model->config(), directory);
  keep_generation_config(source, directory);
  write_tokenizer(model, directory);
  for (const char* name : kOtherFiles) take_along(name, source, directory);
  write_file(directory / "README.md", model_card(model, staged.target()));
  check_interrupt();
  staged.commit();
}

}  // namespace basin
