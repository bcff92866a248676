// basin plan: the command line.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <array>
#include <memory>
#include <stdexcept>

#include "configs/files.h"
#include "configs/json_text.h"
#include "configs/units.h"
#include "train/commands.h"
#include "train/plan_output.h"
#include "train/set_option.h"

namespace basin {
namespace {

/// NVIDIA's data sheets (SXM modules): dense tensor-core FLOP/s in bf16, FLOP/s in fp32, memory as
/// LibTorch reports it, NVLink in one direction.
struct Gpu {
  const char* name;
  double bf16_flops, fp32_flops, memory_bytes, link_bytes_per_s;
};
constexpr double kGiB = 1024.0 * 1024 * 1024;
constexpr std::array<Gpu, 4> kGpus{
    {{"a100", 312e12, 19.5e12, 79 * kGiB, 300e9},    // 80 GB, NVLink 3
     {"h100", 989e12, 67e12, 79 * kGiB, 450e9},      // 80 GB, NVLink 4
     {"h200", 989e12, 67e12, 139 * kGiB, 450e9},     // 141 GB
     {"b200", 2250e12, 75e12, 178 * kGiB, 900e9}}};  // 180 GB, NVLink 5

struct PlanOptions {
  std::string config_path, memory, gpu;
  std::vector<std::string> overrides;
  int64_t gpus = 0, ranks = 0, per_node = 8, adapters = 8;
  double device_flops = 0, mfu = 0.4, tokens_per_second = 0, link_gb_per_s = 0,
         adapter_gbit_per_s = 400;
  bool json = false, scaling = false;
};

/// "80GiB", "80GB", "512MiB" and the like: a number alone would be a guess.
double memory_bytes(const std::string& text) {
  const auto bytes = text.ends_with('B') ? parse_bytes(text) : std::nullopt;
  if (!bytes)
    throw std::invalid_argument(
        fmt::format("--memory: \"{}\" is no size; write it like 80GiB, 80GB or 512MiB", text));
  return static_cast<double>(*bytes);
}

/// Collectives reach about this share of what links and adapters are sold with
/// (https://github.com/NVIDIA/nccl-tests reports "bus bandwidth").
constexpr double kReached = 0.8;

PlanMachine machine_of(const PlanOptions& options, const RunConfig& config) {
  PlanMachine machine;
  machine.cuda =
      options.gpus > 0 || !options.gpu.empty() || config.train.device == DeviceKind::kCuda;
  machine.name = machine.cuda ? "gpu" : "cpu";
  machine.ranks = std::max<int64_t>({options.gpus, options.ranks, 1});
  machine.ranks_per_node = options.per_node;
  machine.mfu = options.mfu;
  machine.tokens_per_second = options.tokens_per_second;
  double link = 1e9 * options.link_gb_per_s;
  for (const Gpu& gpu : kGpus) {
    if (options.gpu != gpu.name) continue;
    machine.name = gpu.name;
    machine.peak_flops =
        config.train.precision == Precision::kBf16 ? gpu.bf16_flops : gpu.fp32_flops;
    machine.memory_bytes = gpu.memory_bytes;
    if (link == 0) link = gpu.link_bytes_per_s;
  }
  if (options.device_flops > 0) machine.peak_flops = options.device_flops;
  if (!options.memory.empty()) machine.memory_bytes = memory_bytes(options.memory);
  machine.link_bytes_per_s = kReached * link;
  machine.network_bytes_per_s =
      kReached * static_cast<double>(options.adapters) * options.adapter_gbit_per_s * 1e9 / 8;
  return machine;
}

int plan(const PlanOptions& options) {
  RunConfig config = read_run_config(options.config_path, options.overrides);
  find_vocab_size(config, options.config_path);
  const PlanMachine machine = machine_of(options, config);
  PlanReport report{config, make_plan(config, machine), {}, {}};
  if (!report.plan.fits()) report.knobs = memory_knobs(config, machine);
  if (options.scaling) {
    if (machine.peak_flops <= 0 || machine.link_bytes_per_s <= 0)
      throw std::invalid_argument(
          "--scaling needs to know a device: give --gpu, or --device-flops and --link");
    report.scaling = predict_scaling(config, machine);
  }
  write_stdout(options.json ? to_text(plan_json(report)) : plan_text(report));
  return report.plan.fits() ? 0 : 1;
}

void add_machine_options(CLI::App& verb, PlanOptions& options) {
  const auto number = [&](const char* name, auto& value, const char* about) {
    return verb.add_option(name, value, about)->capture_default_str()->check(CLI::PositiveNumber);
  };
  CLI::Option* gpus = verb.add_option("--gpus", options.gpus, "GPUs, one rank each");
  gpus->check(CLI::Range(1, 1 << 20));
  verb.add_option("--ranks", options.ranks, "ranks, where train.device says")
      ->check(CLI::Range(1, 1 << 20))
      ->excludes(gpus);
  number("--gpus-per-node", options.per_node, "ranks of a node");
  verb.add_option(
      "--memory", options.memory, "of a device, like 80GiB; exit status 1 if the run does not fit");
  verb.add_option(
          "--gpu", options.gpu, "a100, h100, h200 or b200 (SXM): its memory, peak and links")
      ->check(CLI::IsMember({"a100", "h100", "h200", "b200"}));
  verb.add_option("--device-flops", options.device_flops, "peak FLOP/s of a device: 430e9")
      ->check(CLI::PositiveNumber);
  number("--mfu", options.mfu, "share of the peak that training reaches")
      ->check(CLI::Range(0.0, 1.0));
  verb.add_option("--tokens-per-second",
                  options.tokens_per_second,
                  "of all devices, measured (basin bench train), instead of peak and MFU")
      ->check(CLI::PositiveNumber);
  verb.add_option("--link",
                  options.link_gb_per_s,
                  "GB/s between devices of a node, one direction; --gpu knows")
      ->check(CLI::PositiveNumber);
  number("--adapters", options.adapters, "network adapters of a node");
  number("--adapter-gbit", options.adapter_gbit_per_s, "Gbit/s of each");
}

}  // namespace

void add_plan(CLI::App& app, int& status) {
  const auto options = std::make_shared<PlanOptions>();
  CLI::App* verb = app.add_subcommand(
      "plan", "what a run needs and takes, without running it: memory by kind, work, time");
  verb->add_option("CONFIG", options->config_path, "run file (YAML)")->required();
  add_set_option(*verb, options->overrides);
  add_machine_options(*verb, *options);
  verb->add_flag("--scaling", options->scaling, "predict 1, 2, 8 and 32 nodes, too");
  verb->add_flag("--json", options->json, "one JSON document instead of text");
  verb->footer(
      "Example:\n"
      "  basin plan configs/pythia-160m.yaml --gpus 8 --gpu h100 --scaling\n"
      "  basin plan configs/demo.yaml --set model.vocab_size=2048 --memory 4GiB "
      "--tokens-per-second 40000\n"
      "Exit status 1: the run does not fit; the text names the keys that lower its memory, what "
      "costs least first.");
  verb->callback([options, &status] { status = plan(*options); });
}

}  // namespace basin
