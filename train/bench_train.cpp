// Training steps as `train` takes them, on random tokens: the same trainer, loader and optimizer.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <stdexcept>

#include "configs/files.h"
#include "configs/json_text.h"
#include "data/loader.h"
#include "infer/npy.h"
#include "model/checkpoint.h"
#include "model/cost.h"
#include "model/cpu_allocator.h"
#include "model/device.h"
#include "train/bench.h"
#include "train/bench_run.h"
#include "train/config.h"
#include "train/plan.h"
#include "train/schedule.h"
#include "train/trainer.h"

namespace basin {
namespace {

namespace fs = std::filesystem;

void save_for_others(const fs::path& directory,
                     const Trainer& trainer,
                     const RunConfig& config,
                     DataLoader& loader,
                     int64_t batches) {
  fs::create_directories(directory);
  save_model(trainer.model(), config.data.sequence_length, directory);
  std::vector<float> values;
  for (int64_t k = 0; k < batches; ++k) {
    const at::Tensor batch = loader.batch(k).to(at::kFloat).contiguous();
    values.insert(
        values.end(), batch.const_data_ptr<float>(), batch.const_data_ptr<float>() + batch.numel());
  }
  write_npy(directory / "batches.npy", values, batches * config.train.global_batch);
  const OptimizerConfig& optimizer = config.train.optimizer;
  BenchRow settings;
  settings["global_batch"] = config.train.global_batch;
  settings["micro_batch"] = trainer.micro_batch();
  settings["sink_ids"] = config.model.sink.ids();
  settings["optimizer"] = {{"betas", optimizer.betas},
                           {"eps", optimizer.eps},
                           {"weight_decay", optimizer.weight_decay},
                           {"clip", optimizer.clip}};
  for (int64_t k = 0; k < batches; ++k) settings["lrs"].push_back(learning_rate(config.train, k));
  write_file(directory / "bench.json", to_text(settings));
}

}  // namespace

BenchRow bench_train(const TrainBench& bench, const BenchOptions& options) {
  RunConfig config = read_run_config(bench.config_path, bench.overrides);
  find_vocab_size(config, bench.config_path);
  const int64_t batches = bench.steps * (options.warmup + options.repetitions),
                B = config.train.global_batch, T = config.data.sequence_length;
  const BenchRun run(config, batches);

  const std::unique_ptr<Comm> comm = make_single_comm();
  const at::Device device = choose_device(config.train.device, "train.device");
  BenchRow row;
  row["benchmark"] = "train";
  row["config"] = bench.config_path;
  row["parameters"] = count_parameters(config.model);
  row["sink"] = enum_name(config.model.sink.kind);
  row["precision"] = enum_name(config.train.precision);
  row["device"] = device.str();
  row["threads"] = at::get_num_threads();
  row["global_batch"] = B;
  row["sequence_length"] = T;
  reset_peak_memory(device);
  Trainer trainer(config, *comm, device);
  row["micro_batch"] = trainer.micro_batch();
  row["planned_bytes"] = make_plan(config, {.cuda = device.is_cuda()}).memory.step_total();
  if (!bench.save.empty()) {
    DataLoader loader(config.data, {B, 0, 1, static_cast<uint64_t>(config.train.seed)});
    save_for_others(bench.save, trainer, config, loader, batches);
  }
  std::vector<double> losses;
  int64_t faults = 0, requests = 0;  // of the last run: a steady step asks for no memory
  const Timing timing = time_runs(options, device, [&] {
    faults = -page_faults();
    requests = -cpu_memory().requests;
    for (int64_t i = 0; i < bench.steps; ++i) losses.push_back(trainer.train_step().loss);
    faults += page_faults();
    requests += cpu_memory().requests;
  });
  const double tokens = static_cast<double>(bench.steps * B * T);
  add_rate(row, "tokens_per_second", tokens, timing);
  row["ms_per_step"] = 1e3 * timing.median() / static_cast<double>(bench.steps);
  row["peak_memory_bytes"] = peak_memory_bytes(device);
  row["max_allocated_bytes"] = cpu_memory().max_allocated_bytes;
  row["allocations_per_step"] = static_cast<double>(requests) / static_cast<double>(bench.steps);
  row["page_faults_per_step"] = static_cast<double>(faults) / static_cast<double>(bench.steps);
  const double flops = train_flops_per_token(config.model, T) * tokens / timing.median();
  row["model_flops_per_second"] = flops;
  if (options.peaks) {
    const double peak = measure_gemm_flops(dtype_of(config.train.precision), device);
    row["gemm_flops_per_second"] = peak;
    row["mfu_of_gemm"] = flops / peak;
  }
  const double datasheet = options.peak_flops > 0
                               ? options.peak_flops
                               : datasheet_flops(device, dtype_of(config.train.precision));
  if (datasheet > 0) {
    row["mfu"] = flops / datasheet;
    row["mfu_palm"] = palm_flops_per_token(config.model, T) * tokens / timing.median() / datasheet;
  }
  row["first_loss"] = losses.front();
  row["losses"] = losses;
  return row;
}

}  // namespace basin
