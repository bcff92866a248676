#include "train/state.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <spdlog/spdlog.h>
#include <sys/file.h>
#include <torch/version.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <nlohmann/json.hpp>
#include <set>
#include <stdexcept>

#include "configs/files.h"
#include "configs/manifest.h"
#include "configs/yaml_config.h"
#include "data/indexed_dataset.h"
#include "model/checkpoint.h"
#include "model/kernels/kernels.h"
#include "model/safetensors.h"

namespace basin {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

constexpr const char* kShard = "trainer/shard-00000-of-00001.safetensors";
constexpr const char* kState = "trainer/state.json";

Json to_json(const TrainState& state,
             int64_t optimizer_count,
             const Machine& machine,
             const std::vector<std::string>& data,
             const RunConfig& config) {
  Json json;
  json["step"] = state.step;
  json["batch"] = state.batch;
  json["adamw_count"] = optimizer_count;
  json["skipped"] = state.skipped;
  json["skipped_in_row"] = state.skipped_in_row;
  json["seconds"] = state.seconds;
  json["val_loss"] = state.val_loss ? Json(*state.val_loss) : Json(nullptr);
  json["seed"] = config.train.seed;
  json["machine"] = {{"build", machine.build},
                     {"torch", machine.torch},
                     {"instruction_set", machine.instruction_set},
                     {"device", machine.device},
                     {"ranks", machine.ranks},
                     {"threads", machine.threads}};
  json["data"] = data;
  json["config"] = to_yaml(config);
  return json;
}

/// The number of "step-NNNNNNNN", nothing for other names.
std::optional<int64_t> step_of(const std::string& name) {
  constexpr std::string_view kPrefix = "step-";
  if (!name.starts_with(kPrefix) || name.size() < kPrefix.size() + 8) return std::nullopt;
  int64_t step = 0;
  const char* end = name.data() + name.size();
  const auto [stop, error] = std::from_chars(name.data() + kPrefix.size(), end, step);
  return error == std::errc() && stop == end ? std::optional(step) : std::nullopt;
}

fs::path aside(const fs::path& directory) {
  return fs::path(directory) += fmt::format(".tmp.{}", getpid());
}

/// Renaming comes first: a kill half-way leaves no damaged checkpoint under its name.
void remove_checkpoint(const fs::path& directory) {
  const fs::path doomed = fs::path(aside(directory)) += ".old";
  fs::remove_all(doomed);
  fs::rename(directory, doomed);
  fs::remove_all(doomed);
}

std::optional<double> saved_validation_loss(const fs::path& directory) {
  try {
    return read_state(directory).state.val_loss;
  } catch (const std::exception&) {  // damaged: not among the best
    return std::nullopt;
  }
}

std::vector<std::pair<std::string, at::Tensor>> named_parts(const Transformer& model,
                                                            const Optimizer& optimizer) {
  std::vector<std::pair<std::string, at::Tensor>> parts;
  for (const auto& [prefix, flat] :
       {std::pair<std::string, at::Tensor>{"master.", optimizer.master()},
        {"m.", optimizer.m()},
        {"v.", optimizer.v()}}) {
    for (const Parameter& p : model.parameters()) {
      parts.emplace_back(prefix + p.name,
                         flat.narrow(0, p.offset, p.tensor.numel()).view(p.tensor.sizes()));
    }
  }
  return parts;
}

}  // namespace

std::vector<std::string> Machine::changes_since(const Machine& before) const {
  std::vector<std::string> out;
  const auto compare = [&](const char* what, const auto& was, const auto& is) {
    if (was != is) out.push_back(fmt::format("{}: {} before, {} now", what, was, is));
  };
  compare("program (checksum)", before.build, build);
  compare("LibTorch", before.torch, torch);
  compare("instruction set", before.instruction_set, instruction_set);
  compare("device", before.device, device);
  compare("ranks", before.ranks, ranks);
  compare("threads", before.threads, threads);
  return out;
}

Machine this_machine(at::Device device, int64_t ranks) {
  static const std::string build = xxh3_hex_of_file("/proc/self/exe");
  return {build,
          TORCH_VERSION,
          kernels::instruction_set(),
          c10::DeviceTypeName(device.type(), /*lower_case=*/true),
          ranks,
          at::get_num_threads()};
}

fs::path step_directory(const fs::path& run_directory, int64_t step) {
  return run_directory / fmt::format("step-{:08}", step);
}

std::vector<int64_t> list_steps(const fs::path& run_directory) {
  std::vector<int64_t> steps;
  if (!fs::is_directory(run_directory)) return steps;
  for (const fs::directory_entry& entry : fs::directory_iterator(run_directory)) {
    if (!entry.is_directory() || entry.is_symlink()) continue;
    if (const auto step = step_of(entry.path().filename().string())) steps.push_back(*step);
  }
  std::sort(steps.rbegin(), steps.rend());
  return steps;
}

std::optional<int64_t> find_newest_intact(const fs::path& run_directory) {
  for (const int64_t step : list_steps(run_directory)) {
    const fs::path directory = step_directory(run_directory, step);
    const std::optional<std::string> problem = manifest_problem(directory);
    if (!problem) return step;
    spdlog::warn("passing over damaged checkpoint {}: {}", directory.string(), *problem);
  }
  return std::nullopt;
}

SavedState read_state(const fs::path& directory) {
  const fs::path path = directory / kState;
  try {
    const Json json = Json::parse(read_file(path));
    SavedState saved;
    saved.state = {json.at("step"),
                   json.at("batch"),
                   json.at("skipped"),
                   json.at("skipped_in_row"),
                   json.at("seconds"),
                   std::nullopt};
    if (!json.at("val_loss").is_null()) saved.state.val_loss = json["val_loss"].get<double>();
    saved.optimizer_count = json.at("adamw_count");
    const Json& machine = json.at("machine");
    saved.machine = {machine.at("build"),
                     machine.at("torch"),
                     machine.at("instruction_set"),
                     machine.at("device"),
                     machine.at("ranks"),
                     machine.at("threads")};
    saved.data = json.value("data", std::vector<std::string>());
    saved.config = config_from_text<RunConfig>(json.at("config").get<std::string>(), path.string());
    return saved;
  } catch (const nlohmann::json::exception& error) {
    throw std::runtime_error(fmt::format("{}: {}", path.string(), error.what()));
  }
}

void load_weights(const fs::path& directory, const Transformer& model, Optimizer& optimizer) {
  at::NoGradGuard no_grad;
  const SafetensorsFile file(directory / kShard);
  for (auto& [name, part] : named_parts(model, optimizer)) {
    const at::Tensor saved = file.read(name);
    if (saved.sizes() != part.sizes() || saved.scalar_type() != part.scalar_type()) {
      throw std::runtime_error(fmt::format("{}: tensor {} is {} {}, expected {} {}",
                                           file.path().string(),
                                           name,
                                           c10::toString(saved.scalar_type()),
                                           c10::str(saved.sizes()),
                                           c10::toString(part.scalar_type()),
                                           c10::str(part.sizes())));
    }
    part.copy_(saved);
  }
  optimizer.publish();
}

void remove_leftovers(const fs::path& run_directory) {
  if (!fs::is_directory(run_directory)) return;
  std::vector<fs::path> leftovers;
  for (const fs::directory_entry& entry : fs::directory_iterator(run_directory)) {
    const std::string name = entry.path().filename().string();
    if (const size_t at = name.find(".tmp.");
        at != std::string::npos && step_of(name.substr(0, at)))
      leftovers.push_back(entry.path());
  }
  for (const fs::path& path : leftovers) fs::remove_all(path);
}

RunLock::RunLock(const fs::path& run_directory) {
  fs::create_directories(run_directory);
  const fs::path path = run_directory / ".lock";
  fd_ = open(path.c_str(), O_CREAT | O_RDWR | O_CLOEXEC, 0666);
  if (fd_ < 0)
    throw std::runtime_error(
        fmt::format("cannot write in {}: {}", run_directory.string(), std::strerror(errno)));
  if (flock(fd_, LOCK_EX | LOCK_NB) != 0) {
    close(fd_);
    throw std::runtime_error(
        fmt::format("another process trains in {}: wait for it or use another run.dir",
                    run_directory.string()));
  }
}
RunLock::~RunLock() {
  close(fd_);
}

CheckpointWriter::CheckpointWriter(const RunConfig& config,
                                   Machine machine,
                                   std::vector<std::string> data)
    : config_(config),
      machine_(std::move(machine)),
      data_(std::move(data)),
      run_directory_(config.run.dir) {
  for (const DatasetConfig& dataset : config.data.train) {
    if (const auto info = find_dataset_info(dataset.path); info && !tokenizer_)
      tokenizer_.emplace(Tokenizer::load(info->tokenizer_path));
  }
}

fs::path CheckpointWriter::save(const TrainState& state,
                                const Transformer& model,
                                const Optimizer& optimizer) const {
  const fs::path directory = step_directory(run_directory_, state.step),
                 temporary = aside(directory);
  fs::remove_all(temporary);
  fs::create_directories(temporary / "trainer");
  try {
    write_files(state, model, optimizer, temporary);
    write_manifest(temporary);
    if (fs::exists(directory)) remove_checkpoint(directory);  // a damaged one of the same step
    fs::rename(temporary, directory);
  } catch (...) {
    std::error_code ignored;
    fs::remove_all(temporary, ignored);
    throw;
  }
  sync_directory(run_directory_);
  prune(state.step);
  return directory;
}

void CheckpointWriter::write_files(const TrainState& state,
                                   const Transformer& model,
                                   const Optimizer& optimizer,
                                   const fs::path& directory) const {
  const int64_t sequence_length = config_.data.sequence_length;
  save_model(
      model,
      sequence_length,
      directory,
      tokenizer_ ? std::optional(kEosId) : std::nullopt);  // what ends foreign texts is not known
  if (tokenizer_) {
    write_tokenizer_files(*tokenizer_,
                          model.config().sink.ids(),
                          sequence_length + model.config().sink.tokens(),
                          directory);
  }
  write_safetensors(directory / kShard, named_parts(model, optimizer));
  write_file(directory / kState,
             to_json(state, optimizer.count(), machine_, data_, config_).dump(2) + "\n");
}

void CheckpointWriter::prune(int64_t newest) const {
  const CheckpointConfig& keep = config_.train.checkpoint;
  std::vector<int64_t> steps = list_steps(run_directory_);
  std::erase_if(steps, [&](int64_t step) {
    return step > newest;
  });  // damaged ones, passed over on resume: they must not push out good ones
  std::set<int64_t> kept(steps.begin(),
                         steps.begin() + std::min<int64_t>(keep.keep_last, std::ssize(steps)));
  std::vector<std::pair<double, int64_t>> by_loss;
  for (const int64_t step : steps) {
    if (keep.keep_every > 0 && step % keep.keep_every == 0) kept.insert(step);
    if (keep.keep_best == 0) continue;
    if (const auto loss = saved_validation_loss(step_directory(run_directory_, step)))
      by_loss.emplace_back(*loss, step);
  }
  std::sort(by_loss.begin(), by_loss.end());
  for (int64_t i = 0; i < std::min<int64_t>(keep.keep_best, std::ssize(by_loss)); ++i)
    kept.insert(by_loss[i].second);
  for (const int64_t step : steps) {
    if (!kept.contains(step)) remove_checkpoint(step_directory(run_directory_, step));
  }
}

void CheckpointWriter::set_final(int64_t step) const {
  const fs::path link = run_directory_ / "final",
                 temporary = run_directory_ / fmt::format("final.tmp.{}", getpid());
  fs::remove(temporary);
  fs::create_directory_symlink(step_directory("", step), temporary);
  fs::rename(temporary, link);
  sync_directory(run_directory_);
}

}  // namespace basin
