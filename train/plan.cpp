#include "train/plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <stdexcept>

#include "configs/progress.h"
#include "model/parameters.h"

namespace basin {
namespace {

int64_t rank_batch(const RunConfig& config, int64_t ranks) {
  if (config.train.global_batch % ranks != 0)
    throw std::invalid_argument(
        fmt::format("{} ranks cannot share train.global_batch {} evenly: make it a multiple of {}",
                    ranks,
                    config.train.global_batch,
                    ranks));
  return config.train.global_batch / ranks;
}

PassShape pass_shape(const RunConfig& config, int64_t micro_batch, bool cuda) {
  return {.micro_batch = micro_batch,
          .sequence_length = config.data.sequence_length,
          .bf16 = config.train.precision == Precision::kBf16,
          .recompute = config.train.recompute_activations,
          .cuda = cuda};
}

PlanMemory plan_memory(const RunConfig& config, const PlanMachine& machine, int64_t micro_batch) {
  // The context, cuBLAS's and cuDNN's code and workspaces, NCCL's buffers: about this on a Hopper.
  constexpr int64_t kCudaRuntime = int64_t{1} << 30;
  const bool bf16 = config.train.precision == Precision::kBf16;
  const int64_t flat = flat_elements(config.model);
  const int64_t owners = config.train.distributed.shard_optimizer ? machine.ranks : 1,
                owned = (flat + owners - 1) / owners;
  const auto block = [&](int64_t bytes) { return block_bytes(bytes, machine.cuda); };
  const int64_t positions = config.data.sequence_length + config.model.sink.tokens();
  PlanMemory memory;
  memory.weights = block(flat * (bf16 ? 2 : 4));
  memory.gradients = block(flat * 4);
  if (machine.ranks > 1 && config.train.distributed.reduce_dtype == Precision::kBf16)
    memory.gradients += block(flat * 2);        // as they travel
  memory.master = bf16 ? block(owned * 4) : 0;  // fp32 weights are their own masters
  memory.moments = 2 * block(owned * 4);
  memory.batch = block(rank_batch(config, machine.ranks) * (config.data.sequence_length + 1) * 8) +
                 2 * block(positions * (config.model.rotary_size() / 2) * 4);
  memory.pass = pass_memory(config.model, pass_shape(config, micro_batch, machine.cuda));
  memory.runtime = machine.cuda ? kCudaRuntime : 0;
  const int64_t micro_batches = rank_batch(config, machine.ranks) / micro_batch;
  if (machine.cuda && machine.ranks > 1 && micro_batches > 1) memory.graph = memory.pass.peak;
  memory.checkpoint_copy = 3 * owned * 4 + (bf16 ? flat * 2 : 0);
  return memory;
}

struct Traffic {
  double reduced = 0, gathered = 0;  // bytes that a device sends for gradients, for weights
};

/// Ring algorithms: https://github.com/NVIDIA/nccl-tests/blob/master/doc/PERFORMANCE.md.
Traffic step_traffic(const RunConfig& config, int64_t ranks) {
  const double share = static_cast<double>(ranks - 1) / static_cast<double>(ranks),
               elements = static_cast<double>(flat_elements(config.model));
  const double bytes = config.train.distributed.reduce_dtype == Precision::kBf16 ? 2 : 4,
               gradients = share * bytes * elements;
  if (!config.train.distributed.shard_optimizer) return {2 * gradients, 0};
  return {gradients, share * (config.train.precision == Precision::kBf16 ? 2 : 4) * elements};
}

/// Each device sends its part around a ring that enters and leaves each node once for each network
/// adapter: the slower of the link and the node's adapters together sets the pace.
double ring_bytes_per_s(const PlanMachine& machine) {
  if (machine.ranks <= machine.ranks_per_node) return machine.link_bytes_per_s;
  return std::min(machine.link_bytes_per_s, machine.network_bytes_per_s);
}

StepTime step_time(const RunConfig& config, const Plan& plan) {
  const PlanMachine& machine = plan.machine;
  StepTime time;
  if (machine.tokens_per_second > 0) {  // measured with everything in it
    time.compute_s = plan.step_tokens / machine.tokens_per_second;
    return time;
  }
  if (machine.peak_flops <= 0) return time;
  const bool recompute = config.train.recompute_activations;
  const double flops = recompute
                           ? recomputed_flops_per_token(config.model, config.data.sequence_length)
                           : plan.flops_per_token;
  time.compute_s = flops * plan.step_tokens / static_cast<double>(machine.ranks) /
                   (machine.peak_flops * machine.mfu);
  if (machine.ranks == 1 || ring_bytes_per_s(machine) <= 0) return time;
  const Traffic traffic = step_traffic(config, machine.ranks);
  const double reduce_s = traffic.reduced / ring_bytes_per_s(machine),
               gather_s = traffic.gathered / ring_bytes_per_s(machine);
  // Forward, backward (twice that) and, repeated, forward again; of the last micro-batch only. The
  // embedding's gradient comes last, and nothing is left to hide it.
  const double backward_s = time.compute_s / static_cast<double>(plan.micro_batches) *
                            (recompute ? 3.0 / 4 : 2.0 / 3),
               last_s = reduce_s * static_cast<double>(plan.parts.embedding) /
                        static_cast<double>(plan.parameters);
  time.communication_s = reduce_s + gather_s;
  time.exposed_s = std::max(reduce_s - backward_s, last_s) + gather_s;
  return time;
}

/// The largest micro-batch below the plan's with which it fits; 1 if none does.
Plan with_lower_micro_batch(RunConfig config, const Plan& plan) {
  const int64_t batch = config.train.global_batch / plan.machine.ranks;
  for (int64_t rows = plan.micro_batch - 1;; --rows) {
    if (batch % rows != 0) continue;
    config.train.micro_batch = rows;
    Plan lower = make_plan(config, plan.machine);
    if (lower.fits() || rows == 1) return lower;
  }
}

std::string micro_batch_setting(const Plan& plan) {
  return fmt::format("train.micro_batch={}", plan.micro_batch);
}

}  // namespace

void refuse_too_large(const Plan& plan, int64_t ranks_here, double available) {
  const double needed = static_cast<double>(plan.needed_bytes() * ranks_here);
  if (needed <= available) return;
  const double each = std::floor(available / static_cast<double>(ranks_here) / 1024);  // KiB
  const bool large = each >= 1 << 20;
  throw std::runtime_error(fmt::format(
      "{}; with the copy for a checkpoint{} {}, and this machine has {} left: 'basin plan CONFIG "
      "--ranks {} --memory {:.0f}{}' says what to turn",
      memory_summary(plan.memory),
      ranks_here == 1 ? "" : fmt::format(", times the {} ranks here,", ranks_here),
      format_bytes(needed),
      format_bytes(available),
      plan.machine.ranks,
      large ? std::floor(each / 1024) : std::max(1.0, each),
      large ? "MiB" : "KiB"));
}

int64_t choose_micro_batch(const RunConfig& config, int64_t batch, bool on_cpu) {
  const int64_t given = config.train.micro_batch;
  if (given > 0 && batch % given == 0) return given;
  if (given > 0) {
    throw std::invalid_argument(fmt::format(
        "train.micro_batch {} does not divide a rank's share of train.global_batch, {} of {}",
        given,
        batch,
        config.train.global_batch));
  }
  const int64_t positions = config.data.sequence_length + config.model.sink.tokens();
  int64_t rows = std::clamp<int64_t>((on_cpu ? 8192 : 65536) / positions, 1, batch);
  while (batch % rows != 0) --rows;
  return rows;
}

int64_t Plan::needed_bytes() const {
  return memory.step_total() + (machine.cuda ? 0 : memory.checkpoint_copy);
}

Plan make_plan(const RunConfig& config, const PlanMachine& machine) {
  Plan plan;
  plan.machine = machine;
  plan.parts = count_parameter_parts(config.model);
  plan.parameters = count_parameters(config.model);
  const int64_t batch = rank_batch(config, machine.ranks);
  plan.micro_batch = choose_micro_batch(config, batch, !machine.cuda);
  plan.micro_batches = batch / plan.micro_batch;
  plan.step_tokens = static_cast<double>(config.train.global_batch) *
                     static_cast<double>(config.data.sequence_length);
  plan.tokens = plan.step_tokens * static_cast<double>(config.train.steps);
  plan.flops_per_token = train_flops_per_token(config.model, config.data.sequence_length);
  plan.memory = plan_memory(config, machine, plan.micro_batch);
  const Traffic traffic = step_traffic(config, machine.ranks);
  plan.sent_bytes = traffic.reduced + traffic.gathered;
  plan.time = step_time(config, plan);
  return plan;
}

std::vector<Knob> memory_knobs(const RunConfig& config, const PlanMachine& machine) {
  const Plan now = make_plan(config, machine);
  std::vector<Knob> knobs;
  if (now.micro_batch > 1) {
    Plan lower = with_lower_micro_batch(config, now);
    knobs.push_back({{micro_batch_setting(lower)}, "more and smaller passes", std::move(lower)});
  }
  RunConfig all = config;
  std::vector<std::string> settings;
  const auto add_switch = [&](const char* key, auto turn_on, std::string cost) {
    RunConfig changed = config;
    turn_on(changed.train);
    turn_on(all.train);
    settings.push_back(fmt::format("{}=true", key));
    knobs.push_back({{settings.back()}, std::move(cost), make_plan(changed, machine)});
  };
  if (machine.ranks > 1 && !config.train.distributed.shard_optimizer)
    add_switch(
        "train.distributed.shard_optimizer",
        [](TrainConfig& train) { train.distributed.shard_optimizer = true; },
        "weights are gathered after each step");
  if (!config.train.recompute_activations) {
    const double flops = recomputed_flops_per_token(config.model, config.data.sequence_length);
    add_switch(
        "train.recompute_activations",
        [](TrainConfig& train) { train.recompute_activations = true; },
        fmt::format("{:.0f} % more computation", 100 * (flops / now.flops_per_token - 1)));
  }
  if (knobs.size() < 2) return knobs;
  Plan together = make_plan(all, machine);
  if (!together.fits() && now.micro_batch > 1) together = with_lower_micro_batch(all, together);
  if (together.micro_batch < now.micro_batch)
    settings.insert(settings.begin(), micro_batch_setting(together));
  knobs.push_back({settings, "all together", std::move(together)});
  return knobs;
}

std::vector<ScalingRow> predict_scaling(const RunConfig& config, const PlanMachine& machine) {
  const int64_t batch = rank_batch(config, machine.ranks);
  std::vector<ScalingRow> rows;
  for (const int64_t nodes : {1, 2, 8, 32}) {
    PlanMachine cluster = machine;
    cluster.ranks = nodes * machine.ranks_per_node;
    RunConfig scaled = config;
    scaled.train.global_batch = batch * cluster.ranks;
    const Plan plan = make_plan(scaled, cluster);
    rows.push_back({nodes,
                    cluster.ranks,
                    plan.step_tokens / plan.time.total_s(),
                    plan.time.compute_s / plan.time.total_s(),
                    plan.time});
  }
  return rows;
}

std::string memory_summary(const PlanMemory& memory) {
  const auto bytes = [](int64_t n) { return format_bytes(static_cast<double>(n)); };
  return fmt::format(
      "memory about {} a rank: weights {}, gradients {}, master weights and moments {}, "
      "activations {}, "
      "working buffers {}",
      bytes(memory.step_total()),
      bytes(memory.weights),
      bytes(memory.gradients),
      bytes(memory.master + memory.moments),
      bytes(memory.pass.kept),
      bytes(memory.working() + memory.batch + memory.graph + memory.runtime));
}

}  // namespace basin
