#include "train/config.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <optional>
#include <stdexcept>

#include "configs/units.h"
#include "configs/yaml_config.h"
#include "data/indexed_dataset.h"
#include "data/tokenizer.h"
#include "infer/attention_maps.h"
#include "model/step_directories.h"
#include "train/initial_model.h"
#include "train/schedule.h"

namespace basin {
namespace {

std::vector<std::string> dataset_paths(const DataConfig& data) {
  std::vector<std::string> paths;
  for (const DatasetConfig& dataset : data.train) paths.push_back(dataset.path);
  if (!data.heldout.empty()) paths.push_back(data.heldout);
  return paths;
}

/// Keys that change nothing about the weights that come out, or rounding alone.
bool is_harmless(std::string_view key) {
  for (const std::string_view prefix : {"run.",
                                        "train.checkpoint.",
                                        "train.validation.",
                                        "train.distributed.",
                                        "train.rollback."}) {
    if (key.starts_with(prefix)) return true;
  }
  for (const std::string_view name : {"train.log_every",
                                      "train.stop_after",
                                      "train.sink_metric_every",
                                      "train.max_skipped",
                                      "train.micro_batch",  // rounding only, and it is named
                                      "train.recompute_activations",
                                      "train.device",
                                      "train.deterministic",
                                      "data.heldout"}) {
    if (key == name) return true;
  }
  return false;
}

bool is_schedule_key(std::string_view key) {
  return key == "train.steps" || key.starts_with("train.schedule.") ||
         key == "train.optimizer.min_lr";
}

/// The first of the steps 0..step-1 whose learning rate would have been another.
std::optional<int64_t> first_changed_rate(const TrainConfig& before,
                                          const TrainConfig& now,
                                          int64_t step) {
  for (int64_t s = 0; s < step; ++s) {
    if (learning_rate(before, s) != learning_rate(now, s)) return s;
  }
  return std::nullopt;
}

/// Sidecars of all datasets; refuses datasets of different tokenizers. Foreign data (no sidecar)
/// agrees with anything.
std::optional<DatasetInfo> common_tokenizer(const DataConfig& data) {
  std::optional<DatasetInfo> common;
  std::string owner;
  for (const std::string& path : dataset_paths(data)) {
    const std::optional<DatasetInfo> info = find_dataset_info(path);
    if (!info) continue;
    if (common && common->tokenizer_hash != info->tokenizer_hash) {
      throw std::invalid_argument(
          fmt::format("data: {} and {} were prepared with different tokenizers ({} and {}): "
                      "prepare both with the same --tokenizer FILE",
                      owner,
                      path,
                      common->tokenizer_hash,
                      info->tokenizer_hash));
    }
    if (!common) {
      common = info;
      owner = path;
    }
  }
  return common;
}

/// What the run file says for a dotted key, nothing where it is silent.
std::optional<std::string> given(const ConfigNode& root, std::string_view key) {
  const ConfigNode* const value = root.at(key);
  return value != nullptr && value->kind == ConfigNode::Kind::kScalar
             ? std::optional(value->scalar)
             : std::nullopt;
}

std::string default_run_directory(const std::filesystem::path& path, std::string_view sink_kind) {
  return fmt::format("runs/{}-{}", path.stem().string(), sink_kind);
}

/// Where the run would lie, as far as the run file alone says it; else empty.
std::string given_run_directory(const ConfigNode& root, const std::filesystem::path& path) {
  if (const auto dir = given(root, "run.dir"); dir && !dir->empty()) return *dir;
  if (const auto kind = given(root, "model.sink.kind")) return default_run_directory(path, *kind);
  std::vector<std::string> begun;   // the kind is the initial model's: where such a run has checkpoints
  for (const std::string_view any : kEnumNames<SinkKind>)
    if (const std::string dir = default_run_directory(path, any); !list_steps(dir).empty()) begun.push_back(dir);
  return begun.size() == 1 ? begun[0] : "";
}

/// A run's own config.yaml names the directory that the run had. In another place now, it would begin
/// there again from step 0.
void check_not_moved(const ConfigNode& root, const std::filesystem::path& path) {
  namespace fs = std::filesystem;
  const ConfigNode* const dir = root.at("run.dir");
  const bool by_file = dir != nullptr && dir->origin.source == path.string();
  const fs::path home = path.has_parent_path() ? path.parent_path() : ".";
  if (path.filename() != "config.yaml" || !by_file || list_steps(home).empty() ||
      fs::weakly_canonical(fs::absolute(dir->scalar)) == fs::weakly_canonical(fs::absolute(home)))
    return;
  throw std::invalid_argument(
      fmt::format("{}: belongs to the run that lies in {}, but its run.dir is {}: add --set run.dir={} "
                  "to go on where it lies now, or another one to begin a new run",
                  path.string(),
                  home.string(),
                  dir->scalar,
                  home.string()));
}

/// Whether the sidecar's promise makes it needless to read the tokens: `prepare` never writes ids
/// beyond the vocabulary or, with tokenizers of its own, these reserved ones.
bool promises_enough(const DatasetInfo& info, const std::vector<int64_t>& sink_ids) {
  for (const int64_t id : sink_ids) {
    if (id >= kReservedIds || id == kEosId) return false;
  }
  return sink_ids.empty() || info.open_tokenizer().has_reserved_ids();
}

void check_tokens(const std::string& path, const ModelConfig& model, bool sidecar_promises) {
  const std::vector<int64_t> sink_ids = model.sink.ids();
  const IndexedDataset dataset(path);
  if (sidecar_promises && find_dataset_info(path)) return;
  if (const int64_t largest = dataset.max_token(); largest >= model.vocab_size) {
    throw std::invalid_argument(fmt::format(
        "model.vocab_size is {} but {} holds the token id {}: set model.vocab_size to {} or more",
        model.vocab_size,
        path,
        largest,
        largest + 1));
  }
  if (const auto id = dataset.find_any(sink_ids)) {
    throw std::invalid_argument(
        fmt::format("the sink token id {} occurs in {}: name rows that the text never uses in "
                    "model.sink.token_ids",
                    *id,
                    path));
  }
}

}  // namespace

double duration_s(const std::string& text, const std::string& key) {
  if (const auto seconds = parse_duration_s(text)) return *seconds;
  throw std::invalid_argument(
      fmt::format("{}: \"{}\" is no duration; write it like 90m, 1h30m or 45s", key, text));
}

std::vector<std::string> DistributedConfig::problems() const {
  constexpr double kLeast = 1, kMost = 30 * 86400.0;  // seconds
  try {
    if (const double seconds = duration_s(timeout, "train.distributed.timeout"); seconds < kLeast || seconds > kMost)
      return {fmt::format("train.distributed.timeout: {} is not between 1s and 30d", timeout)};
    return {};
  } catch (const std::invalid_argument& error) {
    return {error.what()};
  }
}

std::vector<std::string> CheckpointConfig::problems() const {
  if (every == 0 || keep_every % every == 0) return {};
  return {fmt::format("train.checkpoint.keep_every {} is no multiple of train.checkpoint.every {}: "
                      "most of the checkpoints that it is to keep would never be written",
                      keep_every,
                      every)};
}

std::vector<std::string> RollbackConfig::problems() const {
  if (factor == 0 || factor > 1) return {};
  return {fmt::format("train.rollback.factor {} would take ordinary steps for jumps: more than 1, "
                      "or 0 for never",
                      factor)};
}

std::vector<std::string> TrainConfig::problems() const {
  std::vector<std::string> out;
  if (optimizer.betas.size() != 2)
    out.push_back(
        fmt::format("train.optimizer.betas: {} numbers, expected 2", optimizer.betas.size()));
  if (optimizer.min_lr > optimizer.lr)
    out.push_back(fmt::format("train.optimizer.min_lr {} is above train.optimizer.lr {}",
                              optimizer.min_lr,
                              optimizer.lr));
  if (schedule.warmup_steps > steps)
    out.push_back(fmt::format("train.schedule.warmup_steps {} is more than train.steps {}",
                              schedule.warmup_steps,
                              steps));
  if (schedule.kind == ScheduleKind::kWsd && schedule.warmup_steps + schedule.decay_steps > steps) {
    out.push_back(fmt::format(
        "train.schedule: warmup_steps {} and decay_steps {} are together more than train.steps {}",
        schedule.warmup_steps,
        schedule.decay_steps,
        steps));
  }
  if (schedule.kind != ScheduleKind::kWsd && schedule.decay_steps != 0) {
    out.push_back(fmt::format(
        "train.schedule.decay_steps {} has no meaning for kind {}: leave it out, or use kind wsd",
        schedule.decay_steps,
        enum_name(schedule.kind)));
  }
  if (schedule.kind != ScheduleKind::kWsd && schedule.decay_shape != ScheduleConfig().decay_shape) {
    out.push_back(fmt::format(
        "train.schedule.decay_shape {} has no meaning for kind {}: leave it out, or use kind wsd",
        enum_name(schedule.decay_shape),
        enum_name(schedule.kind)));
  }
  if (micro_batch > 0 && global_batch % micro_batch != 0) {
    out.push_back(fmt::format(
        "train.micro_batch {} does not divide train.global_batch {}", micro_batch, global_batch));
  }
  for (const auto& [text, key] : {std::pair(stop_after, "train.stop_after"),
                                  {checkpoint.retry_after, "train.checkpoint.retry_after"}}) {
    try {
      duration_s(text, key);
    } catch (const std::invalid_argument& error) {
      out.push_back(error.what());
    }
  }
  return out;
}

std::vector<std::string> RunConfig::problems() const {
  std::vector<std::string> out;
  if (data.train.empty())
    out.push_back(
        "data.train is missing: name a dataset written by `basin prepare`, by its path without "
        ".bin and .idx");
  if (train.sink_metric_every > 0 && data.heldout.empty())
    out.push_back("train.sink_metric_every needs data.heldout");
  if (const int64_t shown = data.sequence_length + model.sink.tokens();
      train.sink_metric_every > 0 && shown < kSinkPositions) {
    out.push_back(fmt::format(
        "train.sink_metric_every needs samples of {} positions, data.sequence_length {} gives {}",
        kSinkPositions,
        data.sequence_length,
        shown));
  }
  if (const int64_t positions = data.sequence_length + model.sink.tokens();
      model.sliding_window > 0 && positions > model.sliding_window) {
    out.push_back(
        fmt::format("data.sequence_length {} gives samples of {} positions, more than "
                    "model.sliding_window {} lets a token attend to",
                    data.sequence_length,
                    positions,
                    model.sliding_window));
  }
  if (std::ranges::any_of(run.dir, [](unsigned char c) { return c < ' ' || c == 0x7f; }))
    out.push_back("run.dir holds a control character, which no directory should be called");
  if (train.checkpoint.keep_best > 0 && data.heldout.empty())
    out.push_back("train.checkpoint.keep_best needs data.heldout");
  return out;
}

RunConfig read_run_config(const std::filesystem::path& path,
                          const std::vector<std::string>& overrides) {
  Problems problems;
  ConfigNode root = overridden_yaml(read_config_file(path), path.string(), overrides, problems);
  check_not_moved(root, path);
  RunConfig config;
  std::optional<InitialModel> initial;
  if (const auto from = given(root, "train.init_from"); from && !from->empty()) {
    initial = find_initial_model(*from, given_run_directory(root, path));
    config.model = initial->config;
    if (initial->resumes) config.model.sink.token_ids.clear();  // the run file need not know of new rows
  }
  config = config_from_tree(root, problems, config);
  if (initial) settle_model(config, *initial);
  if (config.run.dir.empty())
    config.run.dir = default_run_directory(path, enum_name(config.model.sink.kind));
  return config;
}

void match_model_to_data(RunConfig& config) {
  const std::optional<DatasetInfo> info = common_tokenizer(config.data);
  ModelConfig& model = config.model;
  if (const std::string& first = config.data.train.at(0).path;
      !info && !std::filesystem::exists(first + ".idx"))
    throw std::runtime_error(
        fmt::format("data.train: no dataset {0} ({0}.bin, {0}.idx): make it with `basin prepare`, "
                    "or correct the path",
                    first));
  if (!info && model.vocab_size == 0) {
    throw std::invalid_argument(fmt::format(
        "model.vocab_size is 0 and {} has no PREFIX.json of `basin prepare`: set model.vocab_size",
        config.data.train.at(0).path));
  }
  if (model.vocab_size == 0) model.vocab_size = info->vocab_size;
  const bool continues = !config.train.init_from.empty();  // and may have rows without a piece
  if (info && continues) check_initial_tokenizer(config, *info);
  if (info && !(continues && model.vocab_size > info->vocab_size) &&
      model.vocab_size != info->vocab_size) {
    throw std::invalid_argument(
        fmt::format("model.vocab_size is {} but the data's tokenizer {} has {} pieces: set it to "
                    "{}, or to 0 to take it from the data",
                    model.vocab_size,
                    info->tokenizer_path.string(),
                    info->vocab_size,
                    info->vocab_size));
  }
  for (const int64_t id : model.sink.ids()) {
    if (id >= model.vocab_size)
      throw std::invalid_argument(fmt::format(
          "the sink token id {} lies outside model.vocab_size {}", id, model.vocab_size));
  }
  const bool promised = info && promises_enough(*info, model.sink.ids());  // one tokenizer made all
  for (const std::string& path : dataset_paths(config.data)) check_tokens(path, model, promised);
}

void find_vocab_size(RunConfig& config, const std::string& path) {
  if (config.model.vocab_size > 0) return;
  try {
    match_model_to_data(config);
  } catch (const std::exception&) {
    throw std::invalid_argument(
        fmt::format("{}: model.vocab_size is 0 and its data is not there to take it from: prepare "
                    "the data, or add --set model.vocab_size=32000 or the like",
                    path));
  }
}

std::vector<std::string> rounding_changes(const RunConfig& before,
                                          const RunConfig& now,
                                          int64_t ranks) {
  // Of the other keys of train.distributed, what they come to is part of Machine::method.
  std::vector<std::string_view> keys = {"train.micro_batch"};
  if (ranks > 1)
    keys.insert(keys.end(),
                {"train.distributed.bucket_mib",
                 "train.distributed.reduce_dtype",
                 "train.distributed.shard_optimizer"});
  std::vector<std::string> out;
  for (const Difference& key : differences(before, now))
    if (std::find(keys.begin(), keys.end(), key.key) != keys.end())
      out.push_back(fmt::format("{} {} before, {} now", key.key, key.a, key.b));
  return out;
}

std::vector<std::string> resume_obstacles(const RunConfig& before,
                                          const RunConfig& now,
                                          int64_t step) {
  std::vector<std::string> out;
  for (const Difference& difference : differences(before, now)) {
    const std::string line =
        fmt::format("{}: {} before, {} now", difference.key, difference.a, difference.b);
    if (is_harmless(difference.key)) continue;
    if (!is_schedule_key(difference.key)) {
      out.push_back(line);
    } else if (const auto changed = first_changed_rate(before.train, now.train, step)) {
      out.push_back(
          fmt::format("{} (would have changed the learning rate of step {}, which is done)",
                      line,
                      *changed + 1));
    }
  }
  return out;
}

}  // namespace basin
