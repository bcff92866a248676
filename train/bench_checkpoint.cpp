// What a checkpoint costs a training run, and what it takes to go on from one.
#include <algorithm>
#include <chrono>
#include <vector>

#include "configs/clock.h"
#include "configs/log.h"
#include "configs/signals.h"
#include "model/cost.h"
#include "model/device.h"
#include "train/bench.h"
#include "train/bench_run.h"
#include "train/plan.h"
#include "train/run_directory.h"
#include "train/shards.h"
#include "train/trainer.h"

namespace basin {
namespace {

namespace fs = std::filesystem;
double median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + std::ssize(values) / 2, values.end());
  return values[values.size() / 2];
}

int64_t bytes_below(const fs::path& directory) {
  int64_t bytes = 0;
  for (const fs::directory_entry& entry : fs::recursive_directory_iterator(directory))
    if (entry.is_regular_file()) bytes += static_cast<int64_t>(entry.file_size());
  return bytes;
}

struct Run {
  double seconds = 0;  // from the first step to the end, last save included
  CheckpointSaver::Report last_save;
};

/// In a directory of its own.
Run run_in(RunConfig config, Comm& comm, at::Device device, const std::string& name) {
  config.run.dir += name;
  Trainer trainer(config, comm, device);
  const Clock::time_point began = Clock::now();
  if (trainer.run() == Trainer::Outcome::kStopped) throw Interrupted();
  return {seconds_since(began), trainer.last_save()};
}

}  // namespace

BenchRow bench_checkpoint(const CheckpointBench& bench, const BenchOptions& options) {
  RunConfig config = read_run_config(bench.config_path, bench.overrides);
  find_vocab_size(config, bench.config_path);
  const int64_t steps = bench.every * (bench.saves + 1);
  config.train.steps = 0;
  const BenchRun run(config, steps);
  config.train.schedule = {.kind = ScheduleKind::kConstant};
  config.train.checkpoint.keep_last = 1;
  config.train.log_every = steps;
  const std::unique_ptr<Comm> comm = make_single_comm();
  const at::Device device = choose_device(config.train.device, "train.device");
  const QuietLog quiet;
  std::vector<double> without, asynchronous, synchronous, copy;  // seconds
  for (int64_t i = 0; i < options.repetitions; ++i) {            // in turn
    const std::string number = std::to_string(i);
    config.train.checkpoint.every = 0;
    without.push_back(run_in(config, *comm, device, "-without" + number).seconds);
    config.train.checkpoint.every = bench.every;
    config.train.checkpoint.asynchronous = true;
    const Run beside = run_in(config, *comm, device, "-async" + number);
    asynchronous.push_back(beside.seconds);
    copy.push_back(beside.last_save.copy_s);
    config.train.checkpoint.asynchronous = false;
    const CheckpointSaver::Report save = run_in(config, *comm, device, "-sync" + number).last_save;
    synchronous.push_back(save.copy_s + save.write_s);
  }

  const fs::path saved = config.run.dir + "-sync0";
  const double saves = static_cast<double>(bench.saves),
               bytes = static_cast<double>(bytes_below(saved / "final"));
  std::vector<double> slowdown, verify, load;
  for (int64_t i = 0; i < options.repetitions; ++i) {
    const auto at = static_cast<size_t>(i);
    slowdown.push_back((asynchronous[at] - without[at]) / saves);
    const Clock::time_point began = Clock::now();
    const int64_t step = find_newest_intact(saved).value();
    verify.push_back(seconds_since(began));
    Transformer model(config.model, dtype_of(config.train.precision), device);
    Optimizer optimizer(
        model, model.flat().to(at::kFloat, false, /*copy=*/true), config.train.optimizer);
    const Clock::time_point loading = Clock::now();
    read_shards(step_directory(saved, step), model.parameters(), optimizer.parts());
    optimizer.publish();
    load.push_back(seconds_since(loading));
  }
  BenchRow row;
  row["benchmark"] = "checkpoint";
  row["config"] = bench.config_path;
  row["parameters"] = count_parameters(config.model);
  row["device"] = device.str();
  row["checkpoint_bytes"] = static_cast<int64_t>(bytes);
  row["steps_between"] = bench.every;
  row["ms_per_step"] = 1e3 * median(without) / static_cast<double>(steps);
  row["synchronous_stall_ms"] = 1e3 * median(synchronous);
  row["synchronous_bytes_per_second"] = bytes / median(synchronous);
  row["asynchronous_stall_ms"] = 1e3 * median(copy);
  // In all, with the steps beside the writing: the difference of whole runs, and as noisy.
  row["asynchronous_cost_ms"] = 1e3 * median(slowdown);
  row["verify_ms"] = 1e3 * median(verify);
  row["load_ms"] = 1e3 * median(load);
  row["resume_bytes_per_second"] = bytes / (median(verify) + median(load));
  return row;
}

}  // namespace basin
