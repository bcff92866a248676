#include "train/commands.h"

#include <ATen/Parallel.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <filesystem>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "configs/files.h"
#include "configs/log.h"
#include "configs/progress.h"
#include "configs/signals.h"
#include "configs/yaml_config.h"
#include "data/indexed_dataset.h"
#include "data/loader.h"
#include "model/cost.h"
#include "train/backend.h"
#include "train/config.h"
#include "model/device.h"
#include "train/launch.h"
#include "train/meeting.h"
#include "train/plan.h"
#include "train/run_directory.h"
#include "train/set_option.h"
#include "train/trainer.h"

namespace basin {
namespace {

constexpr int kStoppedStatus = 3;

struct TrainOptions {
  std::string config_path;
  std::vector<std::string> overrides;
  int64_t nproc = 1;
  PlacementOptions placement;
  bool print_config = false, reference = false;
};

constexpr double kLongestMeeting = 5 * 60;   // seconds
constexpr std::chrono::seconds kShortMeeting{5};

/// "0.52 epochs", with several datasets "epochs: books 0.52, web 1.4"
std::string epochs_text(const RunConfig& config) {
  const std::vector<double> all = epochs(config.data, static_cast<double>(config.train.global_batch) * static_cast<double>(config.train.steps));
  if (all.size() == 1) return format_count(all[0]) + " epochs";
  std::vector<std::string> names;
  for (size_t i = 0; i < all.size(); ++i) names.push_back(fmt::format("{} {}", std::filesystem::path(config.data.train[i].path).filename().string(), format_count(all[i])));
  return fmt::format("epochs: {}", fmt::join(names, ", "));
}

/// Two lines before the first step.
void print_summary(const RunConfig& config, const Plan& plan, const std::string& ranks, at::Device device) {
  const double tokens = static_cast<double>(config.train.global_batch * config.data.sequence_length);
  std::string sink(enum_name(config.model.sink.kind));
  if (config.model.sink.tokens() > 0) sink += fmt::format(" x {}", config.model.sink.tokens());
  log_info("{}: {} parameters, sink {}, {} tokens per step, {} steps, {} tokens in all ({}), {} {}, {}{}",
           config.run.dir, format_count(static_cast<double>(count_parameters(config.model))), sink, format_count(tokens), config.train.steps,
           format_count(tokens * static_cast<double>(config.train.steps)), epochs_text(config), device.str(), enum_name(config.train.precision), ranks,
           datasheet_flops(device, dtype_of(config.train.precision)) > 0 ? "" : fmt::format("; mfu n/a: no peak FLOP/s known for {} on this {}", enum_name(config.train.precision), c10::DeviceTypeName(device.type(), /*lower_case=*/true)));
  log_info("{} (basin plan has more)", memory_summary(plan.memory));
  const auto is_foreign = [](const DatasetConfig& dataset) { return !find_dataset_info(dataset.path); };
  if (config.train.init_from.empty() && std::ranges::all_of(config.data.train, is_foreign))
    log_warn("{} has no PREFIX.json of `basin prepare`: its ids are taken as they are, and checkpoints get no tokenizer", config.data.train.at(0).path);
}

/// "torchrun: 2 nodes x 8 ranks x 1 thread, nccl on 2 nodes"
std::string ranks_text(const Meeting& meeting, const Comm& comm, const Backend& backend) {
  const int threads = at::get_num_threads();
  std::string text = fmt::format("{} x {} thread{}", meeting.description(), threads, threads == 1 ? "" : "s");
  if (comm.size() > 1) text += ", " + comm.method();
  return backend.why.empty() ? text : fmt::format("{} ({})", text, backend.why);
}

/// Meets the other ranks, if there are any.
Meeting meet(const RunConfig& config, Placement placement) {
  const auto milliseconds = [](double seconds) { return std::chrono::milliseconds(static_cast<int64_t>(seconds * 1000)); };
  const double timeout = duration_s(config.train.distributed.timeout, "train.distributed.timeout");
  placement.rendezvous.collective_timeout = milliseconds(timeout);
  return Meeting(placement, milliseconds(std::min(timeout, kLongestMeeting)));
}

/// The run lies on the disk whether or not somebody hears of it.
void say_finished(const std::string& run, int64_t step) {
  try {
    write_stdout(fmt::format("{}/final: step {}\n", run, step));
  } catch (const std::exception& error) {
    log_warn("{}; the run has finished with step {}", error.what(), step);
  }
}

/// The status of a run that stopped on request. torchrun makes a 1 of any but 0, and then says why.
int stopped(const std::string& message, bool says) {
  tell_torchrun(message);
  if (says) log_info("{}", message);
  return kStoppedStatus;
}

int train_rank(RunConfig config, const TrainOptions& options) {
  end_with_launcher();
  const Environment environment = Environment::of_process();
  const Placement seat = find_placement(environment, options.placement);
  const std::optional<RepeatedJob> job = repeated_job(environment, seat.launcher);
  if (job && job->again && has_stopped(config.run.dir, job->name))   // torchrun starts again whatever does not end with 0
    return stopped(fmt::format("{}: stopped on request before this attempt (torchrun --max-restarts): a new job goes on", config.run.dir), seat.rendezvous.rank == 0);
  const Meeting meeting = meet(config, seat);
  const Placement& placement = meeting.placement();
  set_up_log(placement.rendezvous.rank, placement.rendezvous.size);
  at::set_num_threads(threads_per_rank(environment, meeting.sharers()));
  std::unique_ptr<Comm> comm;
  std::unique_ptr<Trainer> trainer;
  try {
    match_model_to_data(config);
    if (config.train.deterministic) use_deterministic_algorithms();
    const at::Device device = choose_device(config.train.device, "train.device", placement.local_rank);   // before anything asks LibTorch for CUDA
    const std::vector<RankDevice> devices = meeting.compare({to_yaml(config), xxh3_hex_of_file("/proc/self/exe"), gpu_uuid(device)});
    const Backend backend = choose_backend(config.train.distributed.backend, devices);
    comm = meeting.connect({.nccl_device = backend.nccl ? std::optional<int>(device.index()) : std::nullopt, .two_level = config.train.distributed.two_level});
    const Plan plan = make_plan(config, {.cuda = device.is_cuda(), .ranks = comm->size()});   // on all ranks: they refuse alike
    if (device.is_cpu()) refuse_too_large(plan, placement.local_size, available_bytes());
    if (comm->is_root()) print_summary(config, plan, ranks_text(meeting, *comm, backend), device);
    trainer = std::make_unique<Trainer>(config, *comm, device);
    if (comm->is_root()) forget_stop(config.run.dir);
    const Trainer::Outcome outcome = trainer->run();
    comm->barrier();   // no rank leaves while another still talks to it
    if (outcome == Trainer::Outcome::kFinished) {
      if (comm->is_root()) say_finished(config.run.dir, trainer->state().step);
      return 0;
    }
    if (job && comm->is_root()) note_stop(config.run.dir, job->name);
    return stopped(fmt::format("stopped after step {} of {}; to go on: basin train {} (with the same --set)", trainer->state().step, config.train.steps, options.config_path), comm->is_root());
  } catch (...) {
    const Failure failure = meeting.settle(describe_failure(std::current_exception()));
    (void)trainer.release();   // their destructors would wait for a disk or a rank that hangs
    (void)comm.release();
    throw RankFailure(failure);
  }
}

/// The configuration of one rank. Where it is refused, the ranks meet nevertheless, if they come soon: one of them says it for all.
RunConfig read_config(const TrainOptions& options) {
  try {
    return read_run_config(options.config_path, options.overrides);
  } catch (...) {
    const Failure failure = describe_failure(std::current_exception());
    const Placement placement = find_placement(Environment::of_process(), options.placement);
    if (options.nproc > 1 || placement.rendezvous.size == 1) throw;
    std::optional<Meeting> meeting;
    try {
      meeting.emplace(placement, kShortMeeting);
    } catch (const std::exception&) {
      throw RankFailure(failure);
    }
    throw RankFailure(meeting->settle(failure));
  }
}

int train(const TrainOptions& options) {
  if (options.reference) {
    write_stdout(reference_markdown<RunConfig>());
    return 0;
  }
  if (options.config_path.empty()) throw std::invalid_argument("train: which run file? For example: basin train configs/demo.yaml");
  if (!options.print_config) survive_closed_pipes();
  const RunConfig config = read_config(options);
  if (options.print_config) {
    write_stdout(to_yaml(config));
    return 0;
  }
  if (options.nproc == 1) return train_rank(config, options);
  if (const Placement given = find_placement(Environment::of_process()); given.launcher != Launcher::kNone) {
    throw std::invalid_argument(fmt::format("--nproc starts ranks, but {} has started {} already: leave one of them out", launcher_name(given.launcher), given.rendezvous.size));
  }
  return launch_ranks(options.nproc);
}

}  // namespace

void add_train(CLI::App& app, int& status) {
  const auto options = std::make_shared<TrainOptions>();
  CLI::App* verb = app.add_subcommand("train", "pretrain a model; goes on from the newest intact checkpoint of its run directory");
  verb->add_option("CONFIG", options->config_path, "run file (YAML)");
  add_set_option(*verb, options->overrides);
  CLI::Option* nproc = verb->add_option("--nproc", options->nproc, "start this many ranks on this machine (data parallel)")->check(CLI::Range(1, 1024));
  verb->add_option("--launcher", options->placement.launcher, "believe this launcher's variables, if several have left some; none: a single process")->check(CLI::IsMember(launcher_words()))->excludes(nproc);
  verb->add_option("--rdzv-file", options->placement.rendezvous_file, "ranks meet in this file, which does not exist yet, on a file system that they share: for launchers that give no address")->excludes(nproc);
  verb->add_flag_callback("--deterministic", [options] { options->overrides.emplace_back("train.deterministic=true"); }, "the same as --set train.deterministic=true");
  verb->add_flag("--print-config", options->print_config, "print the effective configuration, every default written out, and exit");
  verb->add_flag("--reference", options->reference, "print every key with type, default and range as a Markdown table, and exit");
  verb->footer(
      "Example:\n"
      "  basin train configs/demo.yaml --set model.sink.kind=none --nproc 2\n"
      "Ctrl-C, SIGTERM, SIGUSR1, SIGHUP (unless nohup) and train.stop_after finish the step, save and exit with 3; the same command goes on from there.\n"
      "Several ranks: --nproc here; elsewhere any launcher, found by its variables (RANK, SLURM_PROCID, OMPI_COMM_WORLD_RANK, PMI_RANK, ...):\n"
      "  torchrun --no-python --standalone --nproc-per-node 2 build/basin train configs/demo.yaml\n"
      "  torchrun --no-python --nnodes 2 --nproc-per-node 8 --rdzv-backend c10d --rdzv-endpoint HOST:29400 build/basin train CONFIG\n"
      "  srun --nodes 2 --ntasks-per-node 8 --gpus-per-node 8 build/basin train CONFIG\n"
      "  mpirun -n 16 -x MASTER_ADDR=HOST build/basin train CONFIG\n"
      "torchrun ends with 1 where this program ends with 3; attempts that its --max-restarts makes after a stop on request end at once.\n"
      "They meet at MASTER_ADDR:MASTER_PORT (srun: the first node, one machine: 127.0.0.1) or in --rdzv-file, compare configuration and build, and end\n"
      "together: a rank that fails, hangs or does not come is named after train.distributed.timeout at the latest.\n"
      "Threads: BASIN_THREADS, else OMP_NUM_THREADS (but torchrun's own 1), else the cores that a rank may use or its control group pays for (cpu.max),\n"
      "divided by the ranks that may use the same.");
  verb->callback([options, &status] { status = train(*options); });
}

}  // namespace basin
