#include "train/plan_output.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "configs/progress.h"

namespace basin {
namespace {

using Json = nlohmann::ordered_json;

template <class Number>
std::string bytes(Number n) {
  return format_bytes(static_cast<double>(n));
}

template <class Number>
std::string count(Number n) {
  return format_count(static_cast<double>(n));
}

std::string line(const std::string& name, const std::string& text) {
  return fmt::format("{:<15} {}\n", name, text);
}

/// Kinds of memory, with what they hold.
struct Kind {
  const char* name;
  int64_t bytes;
  std::string note;
};

std::vector<Kind> kinds(const RunConfig& config, const Plan& plan) {
  const PlanMemory& memory = plan.memory;
  const std::string precision(enum_name(config.train.precision));
  const bool sharded = config.train.distributed.shard_optimizer && plan.machine.ranks > 1;
  const std::string share = sharded ? fmt::format(", 1/{} of them", plan.machine.ranks) : "";
  std::vector<Kind> out{
      {"weights", memory.weights, precision},
      {"gradients", memory.gradients, "fp32, of all micro-batches"},
      {"master weights",
       memory.master,
       memory.master > 0 ? "fp32" + share : "the weights are fp32"},
      {"moments", memory.moments, "AdamW's two, fp32" + share},
      {"activations", memory.pass.kept, "kept for the backward pass of a micro-batch"},
      {"working buffers",
       memory.working() + memory.batch,
       fmt::format("at the peak, in {}; {} of logits at once",
                   memory.pass.peak_at,
                   bytes(memory.pass.logits))}};
  if (memory.graph > 0)
    out.push_back({"CUDA graph", memory.graph, "of all micro-batches but the last: keeps its own"});
  if (memory.runtime > 0)
    out.push_back({"CUDA", memory.runtime, "context, libraries, communication: an assumption"});
  return out;
}

std::string verdict(const Plan& plan) {
  if (plan.machine.memory_bytes <= 0) return " (compare with --memory)";
  return fmt::format(
      " of {}: {}", bytes(plan.machine.memory_bytes), plan.fits() ? "fits" : "does not fit");
}

std::string memory_text(const RunConfig& config, const Plan& plan) {
  std::string text = "memory of each device\n";
  for (const Kind& kind : kinds(config, plan))
    text += fmt::format("  {:<21} {:>8}  {}\n", kind.name, bytes(kind.bytes), kind.note);
  const PlanMemory& memory = plan.memory;
  const std::string copy = fmt::format("  {:<21} {:>8}  {}\n",
                                       "checkpoint copy, host",
                                       bytes(memory.checkpoint_copy),
                                       "while a checkpoint is written");
  if (!plan.machine.cuda) text += copy;
  text += fmt::format("  {:<21} {:>8} {}\n", "together", bytes(plan.needed_bytes()), verdict(plan));
  if (plan.machine.cuda) text += copy;
  return text;
}

std::string knobs_text(const std::vector<Knob>& knobs) {
  if (knobs.empty())
    return "It is as small as these keys make it: lower model.hidden_size, "
           "model.num_hidden_layers, model.vocab_size or data.sequence_length, or take a device "
           "with more memory.\n";
  std::string text = "To make it fit, what costs least first:\n";
  for (const Knob& knob : knobs)
    text += fmt::format("  {:>8}  {:<12}  --set {}  ({})\n",
                        bytes(knob.plan.needed_bytes()),
                        knob.plan.fits() ? "fits" : "does not fit",
                        fmt::join(knob.settings, " --set "),
                        knob.cost);
  return text;
}

std::string speed_assumption(const PlanMachine& machine) {
  if (machine.tokens_per_second > 0) return "as given";
  return fmt::format("{} x {} TFLOP/s ({}) x MFU {:.2f}, assumed",
                     machine.ranks,
                     count(machine.peak_flops / 1e12),
                     machine.name,
                     machine.mfu);
}

std::string time_text(const RunConfig& config, const Plan& plan) {
  const StepTime& time = plan.time;
  if (time.total_s() <= 0)
    return line("time", "n/a: give --gpu, --device-flops or --tokens-per-second");
  std::string text =
      line("time",
           fmt::format("{:.3g} s a step, {} in all; {} tokens/s ({})",
                       time.total_s(),
                       format_duration(time.total_s() * static_cast<double>(config.train.steps)),
                       count(plan.step_tokens / time.total_s()),
                       speed_assumption(plan.machine)));
  if (time.communication_s > 0)
    text += line(
        "",
        fmt::format("of which {:.3g} ms communication that backward does not hide, of {:.3g} ms",
                    1e3 * time.exposed_s,
                    1e3 * time.communication_s));
  return text;
}

std::string communication_text(const RunConfig& config, const Plan& plan) {
  if (plan.machine.ranks == 1) return line("communication", "none: one device");
  return line("communication",
              fmt::format("{} sent by each device in a step ({})",
                          bytes(plan.sent_bytes),
                          config.train.distributed.shard_optimizer
                              ? "gradients reduce-scattered in fp32, weights gathered"
                              : "gradients all-reduced in fp32"));
}

std::string scaling_text(const PlanReport& report) {
  const PlanMachine& machine = report.plan.machine;
  std::string text = fmt::format(
      "\nScaling, predicted: each device keeps {} tokens a step, so the global batch grows with "
      "the devices\n"
      "  nodes  devices   tokens/s  efficiency  ms a step  ms communication, not hidden\n",
      count(report.plan.step_tokens / static_cast<double>(machine.ranks)));
  for (const ScalingRow& row : report.scaling)
    text += fmt::format("  {:>5}  {:>7}  {:>9}  {:>8.1f} %  {:>9.4g}  {:>16.3g}, {:.3g}\n",
                        row.nodes,
                        row.ranks,
                        count(row.tokens_per_second),
                        100 * row.efficiency,
                        1e3 * row.time.total_s(),
                        1e3 * row.time.communication_s,
                        1e3 * row.time.exposed_s);
  return text + fmt::format(
                    "Assumed: {} TFLOP/s x MFU {:.2f} a device; rings at {} a second inside a node "
                    "and, behind its network\n"
                    "adapters, {} a second in and out of each node; gradients travel beside the "
                    "backward pass of the last\n"
                    "micro-batch (two thirds of its time, three quarters with recomputation), all "
                    "but the embedding's, which comes last; weights of sharded optimizers are "
                    "gathered after it.\n",
                    count(machine.peak_flops / 1e12),
                    machine.mfu,
                    bytes(machine.link_bytes_per_s),
                    bytes(machine.network_bytes_per_s));
}

Json memory_json(const Plan& plan) {
  const PlanMemory& memory = plan.memory;
  return {{"weights", memory.weights},
          {"gradients", memory.gradients},
          {"master_weights", memory.master},
          {"moments", memory.moments},
          {"activations", memory.pass.kept},
          {"working_buffers", memory.working() + memory.batch},
          {"logits", memory.pass.logits},
          {"graph", memory.graph},
          {"runtime", memory.runtime},
          {"step_total", memory.step_total()},
          {"checkpoint_copy_host", memory.checkpoint_copy},
          {"needed", plan.needed_bytes()},
          {"peak_at", memory.pass.peak_at}};
}

Json time_json(const RunConfig& config, const Plan& plan) {
  const StepTime& time = plan.time;
  if (time.total_s() <= 0) return nullptr;
  return {{"step_s", time.total_s()},
          {"compute_s", time.compute_s},
          {"communication_s", time.communication_s},
          {"exposed_communication_s", time.exposed_s},
          {"total_s", time.total_s() * static_cast<double>(config.train.steps)},
          {"tokens_per_second", plan.step_tokens / time.total_s()}};
}

}  // namespace

std::string plan_text(const PlanReport& report) {
  const RunConfig& config = report.config;
  const Plan& plan = report.plan;
  const ParameterParts& parts = plan.parts;
  std::string text =
      line("model",
           fmt::format("{}, sink {}, {}{}",
                       enum_name(config.model.model_type),
                       enum_name(config.model.sink.kind),
                       enum_name(config.train.precision),
                       config.train.recompute_activations ? ", activations recomputed" : "")) +
      line("parameters",
           fmt::format("{}: embedding {}, attention {}, mlp {}, norms {}, head {}",
                       plan.parameters,
                       count(parts.embedding),
                       count(parts.attention),
                       count(parts.mlp),
                       count(parts.norms),
                       config.model.tie_word_embeddings ? "tied" : count(parts.head))) +
      line("tokens",
           fmt::format("{} a step ({} samples of {}), {} steps, {} in all",
                       count(plan.step_tokens),
                       config.train.global_batch,
                       config.data.sequence_length,
                       config.train.steps,
                       count(plan.tokens))) +
      line("work",
           fmt::format("{}FLOP a token, {:.3g} TFLOP a step, {:.3g} EFLOP in all",
                       count(plan.flops_per_token),
                       plan.flops_per_token * plan.step_tokens / 1e12,
                       plan.flops_per_token * plan.tokens / 1e18)) +
      line("devices",
           fmt::format("{} x {}, {} micro-batch(es) of {} samples on each in a step",
                       plan.machine.ranks,
                       plan.machine.name,
                       plan.micro_batches,
                       plan.micro_batch)) +
      memory_text(config, plan) + communication_text(config, plan) + time_text(config, plan);
  if (!plan.fits()) text += knobs_text(report.knobs);
  if (!report.scaling.empty()) text += scaling_text(report);
  return text;
}

Json plan_json(const PlanReport& report) {
  const Plan& plan = report.plan;
  const ParameterParts& parts = plan.parts;
  Json json;
  json["parameters"] = {{"total", plan.parameters},
                        {"embedding", parts.embedding},
                        {"attention", parts.attention},
                        {"mlp", parts.mlp},
                        {"norms", parts.norms},
                        {"head", parts.head}};
  json["ranks"] = plan.machine.ranks;
  json["device"] = plan.machine.name;
  json["micro_batch"] = plan.micro_batch;
  json["micro_batches"] = plan.micro_batches;
  json["tokens_per_step"] = plan.step_tokens;
  json["tokens"] = plan.tokens;
  json["flops_per_token"] = plan.flops_per_token;
  json["flops_per_step"] = plan.flops_per_token * plan.step_tokens;
  json["memory_bytes"] = memory_json(plan);
  json["memory_limit_bytes"] =
      plan.machine.memory_bytes > 0 ? Json(plan.machine.memory_bytes) : Json(nullptr);
  json["fits"] = plan.fits();
  json["sent_bytes_per_step"] = plan.sent_bytes;
  json["time"] = time_json(report.config, plan);
  for (const Knob& knob : report.knobs)
    json["knobs"].push_back({{"settings", knob.settings},
                             {"needed", knob.plan.needed_bytes()},
                             {"fits", knob.plan.fits()},
                             {"cost", knob.cost}});
  for (const ScalingRow& row : report.scaling)
    json["scaling"].push_back({{"nodes", row.nodes},
                               {"ranks", row.ranks},
                               {"tokens_per_second", row.tokens_per_second},
                               {"efficiency", row.efficiency},
                               {"step_s", row.time.total_s()},
                               {"communication_s", row.time.communication_s},
                               {"exposed_communication_s", row.time.exposed_s}});
  return json;
}

}  // namespace basin
