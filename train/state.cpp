#include "train/state.h"

#include <ATen/Parallel.h>
#include <fmt/format.h>
#include <torch/version.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <stdexcept>

#include "configs/files.h"
#include "configs/yaml_config.h"
#include "model/kernels/kernels.h"

namespace basin {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

void TrainState::next_batch() {
  do ++batch;
  while (std::find(left_out.begin(), left_out.end(), batch) != left_out.end());
}

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
  if (!before.method.empty() && !method.empty())
    compare("ranks add up through", before.method, method);
  return out;
}

Machine this_machine(at::Device device, const Comm& comm) {
  static const std::string build = xxh3_hex_of_file("/proc/self/exe");
  return {build,
          TORCH_VERSION,
          kernels::instruction_set(),
          c10::DeviceTypeName(device.type(), /*lower_case=*/true),
          comm.size(),
          at::get_num_threads(),
          comm.method()};
}

FileSum write_state(const fs::path& directory, const SavedState& saved) {
  const TrainState& state = saved.state;
  const Machine& machine = saved.machine;
  Json json;
  json["step"] = state.step;
  json["batch"] = state.batch;
  json["adamw_count"] = saved.optimizer_count;
  json["skipped"] = state.skipped;
  json["skipped_in_row"] = state.skipped_in_row;
  json["seconds"] = state.seconds;
  json["val_loss"] = state.val_loss ? Json(*state.val_loss) : Json(nullptr);
  json["rollbacks"] = state.rollbacks;
  json["left_out"] = state.left_out;
  json["losses"] = state.losses;
  json["seed"] = saved.config.train.seed;
  json["machine"] = {{"build", machine.build},
                     {"torch", machine.torch},
                     {"instruction_set", machine.instruction_set},
                     {"device", machine.device},
                     {"ranks", machine.ranks},
                     {"threads", machine.threads},
                     {"method", machine.method}};
  json["data"] = saved.data;
  json["heldout"] = saved.heldout;
  json["config"] = to_yaml(saved.config);
  return write_file(directory / kStateName, json.dump(2) + "\n");
}

SavedState read_state(const fs::path& directory) {
  const fs::path path = directory / kStateName;
  try {
    const Json json = Json::parse(read_file(path));
    SavedState saved;
    TrainState& state = saved.state;
    state.step = json.at("step");
    state.batch = json.at("batch");
    state.skipped = json.at("skipped");
    state.skipped_in_row = json.at("skipped_in_row");
    state.seconds = json.at("seconds");
    state.rollbacks = json.value("rollbacks", int64_t{0});
    state.left_out = json.value("left_out", std::vector<int64_t>());
    state.losses = json.value("losses", std::vector<double>());
    if (!json.at("val_loss").is_null()) state.val_loss = json["val_loss"].get<double>();
    saved.optimizer_count = json.at("adamw_count");
    const Json& machine = json.at("machine");
    saved.machine = {machine.at("build"),
                     machine.at("torch"),
                     machine.at("instruction_set"),
                     machine.at("device"),
                     machine.at("ranks"),
                     machine.at("threads"),
                     machine.value("method", "")};
    saved.data = json.value("data", std::vector<std::string>());
    saved.heldout = json.value("heldout", std::string());
    saved.config = config_from_text<RunConfig>(json.at("config").get<std::string>(), path.string());
    return saved;
  } catch (const nlohmann::json::exception& error) {
    throw std::runtime_error(fmt::format("{}: {}", path.string(), error.what()));
  }
}

}  // namespace basin
