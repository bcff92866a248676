#include "train/commands.h"

#include <ATen/Parallel.h>
#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <CLI/CLI.hpp>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "configs/progress.h"
#include "configs/yaml_config.h"
#include "model/cost.h"
#include "train/config.h"
#include "model/device.h"
#include "train/launch.h"
#include "train/plan.h"
#include "train/trainer.h"

namespace basin {
namespace {

constexpr int kStoppedStatus = 3;

struct TrainOptions {
  std::string config_path;
  std::vector<std::string> overrides;
  int64_t nproc = 1;
  bool print_config = false, reference = false;
};

/// Two lines before the first step.
void print_summary(const RunConfig& config, const Comm& comm, at::Device device) {
  const double tokens = static_cast<double>(config.train.global_batch * config.data.sequence_length);
  std::string sink(enum_name(config.model.sink.kind));
  if (config.model.sink.tokens() > 0) sink += fmt::format(" x {}", config.model.sink.tokens());
  spdlog::info("{}: {} parameters, sink {}, {} tokens per step, {} steps, {} tokens in all, {} {}, {} rank(s) x {} thread(s){}",
               config.run.dir, format_count(static_cast<double>(count_parameters(config.model))), sink, format_count(tokens), config.train.steps,
               format_count(tokens * static_cast<double>(config.train.steps)), device.str(), enum_name(config.train.precision), comm.size(), at::get_num_threads(),
               datasheet_flops(device) > 0 ? "" : fmt::format("; mfu n/a: no peak FLOP/s known for this {}", c10::DeviceTypeName(device.type(), /*lower_case=*/true)));
  spdlog::info("{} (basin plan has more)", memory_summary(make_plan(config, {.cuda = device.is_cuda(), .ranks = comm.size()}).memory));
}

int train_rank(RunConfig config, const std::string& config_path) {
  const Placement placement = find_placement();
  match_model_to_data(config);
  const at::Device device = choose_device(config.train.device, "train.device", placement.local_rank);   // before anything asks LibTorch for CUDA
  const std::unique_ptr<Comm> comm = make_comm(placement);
  if (comm->is_root()) print_summary(config, *comm, device);
  Trainer trainer(config, *comm, device);
  const Trainer::Outcome outcome = trainer.run();
  comm->barrier();   // no rank leaves while another still talks to it
  if (outcome == Trainer::Outcome::kFinished) {
    if (comm->is_root()) write_stdout(fmt::format("{}/final: step {}\n", config.run.dir, trainer.state().step));
    return 0;
  }
  if (comm->is_root()) {
    spdlog::info("stopped after step {} of {}; to go on: basin train {} (with the same --set)", trainer.state().step, config.train.steps, config_path);
  }
  return kStoppedStatus;
}

int train(const TrainOptions& options) {
  if (options.reference) {
    write_stdout(reference_markdown<RunConfig>());
    return 0;
  }
  if (options.config_path.empty()) throw std::invalid_argument("train: which run file? For example: basin train configs/demo.yaml");
  const RunConfig config = read_run_config(options.config_path, options.overrides);
  if (options.print_config) {
    write_stdout(to_yaml(config));
    return 0;
  }
  if (options.nproc > 1 && is_rank()) {
    throw std::invalid_argument("--nproc starts ranks, but RANK or WORLD_SIZE in the environment says that a launcher has done so: leave one of them out");
  }
  return options.nproc > 1 ? launch_ranks(options.nproc) : train_rank(config, options.config_path);
}

}  // namespace

void add_train(CLI::App& app, int& status) {
  const auto options = std::make_shared<TrainOptions>();
  CLI::App* verb = app.add_subcommand("train", "pretrain a model; goes on from the newest intact checkpoint of its run directory");
  verb->add_option("CONFIG", options->config_path, "run file (YAML)");
  verb->add_option("--set", options->overrides, "override a key of the run file, e.g. train.steps=100; may be repeated")->type_size(1)->allow_extra_args(false);
  verb->add_option("--nproc", options->nproc, "start this many ranks on this machine (data parallel)")->check(CLI::Range(1, 1024));
  verb->add_flag("--print-config", options->print_config, "print the effective configuration, every default written out, and exit");
  verb->add_flag("--reference", options->reference, "print every key with type, default and range as a Markdown table, and exit");
  verb->footer(
      "Example:\n"
      "  basin train configs/demo.yaml --set model.sink.kind=none --nproc 2\n"
      "Ctrl-C, SIGTERM, SIGUSR1 and train.stop_after finish the step, save and exit with 3; the same command goes on from there.\n"
      "torchrun works too: torchrun --no-python --nproc-per-node 2 build/basin train configs/demo.yaml\n"
      "Threads: the cores divided by the ranks of the machine; BASIN_THREADS overrides.");
  verb->callback([options, &status] { status = train(*options); });
}

}  // namespace basin
