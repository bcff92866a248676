// What a run is: RunConfig composes the model's, the data's and the trainer's own keys. Everything
// that can be configured for training is declared here once; the YAML reader, --set,
// --print-config, the comparison on resume and the README's reference walk these lists.
#pragma once

#include <c10/core/ScalarType.h>

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "configs/fields.h"
#include "data/config.h"
#include "model/config.h"
#include "model/device.h"

namespace basin {

enum class Precision { kFp32, kBf16 };
template <>
inline constexpr std::string_view kEnumNames<Precision>[] = {"fp32", "bf16"};
inline at::ScalarType dtype_of(Precision precision) {
  return precision == Precision::kBf16 ? at::kBFloat16 : at::kFloat;
}

enum class ScheduleKind { kCosine, kWsd, kConstant };
template <>
inline constexpr std::string_view kEnumNames<ScheduleKind>[] = {"cosine", "wsd", "constant"};

enum class DecayShape { kSqrt, kLinear };
template <>
inline constexpr std::string_view kEnumNames<DecayShape>[] = {"sqrt", "linear"};

/// AdamW (arXiv 1711.05101) and gradient clipping.
struct OptimizerConfig {
  double lr = 1e-3;      // peak
  double min_lr = 1e-4;  // where cosine and wsd end
  std::vector<double> betas = {0.9, 0.95};
  double eps = 1e-8;
  double weight_decay = 0.1;  // on tensors of two or more dimensions
  double clip = 1;            // global gradient norm; 0: no clipping

  template <class Self, class Visitor>
  static void visit_fields(Self& self, Visitor&& visit) {
    visit("lr", self.lr, Field{.doc = "peak learning rate", .min = 0, .max = 10});
    visit("min_lr",
          self.min_lr,
          Field{.doc = "learning rate at the end of cosine and wsd", .min = 0, .max = 10});
    visit("betas",
          self.betas,
          Field{.doc = "AdamW's two averaging factors", .min = 0, .max = 0.999999});
    visit("eps", self.eps, Field{.doc = "AdamW's epsilon", .min = 1e-20, .max = 1});
    visit("weight_decay",
          self.weight_decay,
          Field{.doc = "decoupled weight decay of tensors with two or more dimensions",
                .min = 0,
                .max = 10});
    visit("clip",
          self.clip,
          Field{.doc = "limit of the global gradient norm; 0: none", .min = 0, .max = 1e6});
  }
};

struct ScheduleConfig {
  ScheduleKind kind = ScheduleKind::kCosine;
  int64_t warmup_steps = 0;
  int64_t decay_steps = 0;
  DecayShape decay_shape = DecayShape::kSqrt;

  template <class Self, class Visitor>
  static void visit_fields(Self& self, Visitor&& visit) {
    visit("kind",
          self.kind,
          Field{.doc = "cosine, wsd (warm-up, stable, decay: arXiv 2404.06395) or constant, all "
                       "after a linear warm-up"});
    visit("warmup_steps",
          self.warmup_steps,
          Field{.doc = "steps of linear warm-up from 0", .min = 0, .max = 1e9});
    visit(
        "decay_steps",
        self.decay_steps,
        Field{.doc = "last steps of the run in which wsd decays to min_lr", .min = 0, .max = 1e9});
    visit("decay_shape",
          self.decay_shape,
          Field{.doc = "how wsd decays: sqrt (1 - sqrt of the share, arXiv 2405.18392) or linear"});
  }
};

struct CheckpointConfig {
  int64_t every = 500;
  bool asynchronous = true;
  std::string retry_after = "30s";
  int64_t keep_last = 2;
  int64_t keep_every = 0;
  int64_t keep_best = 0;

  template <class Self, class Visitor>
  static void visit_fields(Self& self, Visitor&& visit) {
    visit("every",
          self.every,
          Field{.doc = "steps between checkpoints; 0: only when the run ends or is stopped",
                .min = 0,
                .max = 1e9});
    visit("asynchronous",
          self.asynchronous,
          Field{.doc = "write while training goes on; false: training waits"});
    visit(
        "retry_after",
        self.retry_after,
        Field{.doc = "wait before the next attempt when a checkpoint could not be written; at its "
                     "end a run makes 20 attempts"});
    visit("keep_last",
          self.keep_last,
          Field{.doc = "newest checkpoints to keep", .min = 1, .max = 1e6});
    visit("keep_every",
          self.keep_every,
          Field{.doc = "also keep checkpoints at multiples of this many steps, a multiple of every; 0: "
                       "none",
                .min = 0,
                .max = 1e9});
    visit(
        "keep_best",
        self.keep_best,
        Field{.doc = "also keep this many of lowest validation loss (validates at each checkpoint)",
              .min = 0,
              .max = 1e6});
  }
  std::vector<std::string> problems() const;
};

struct ValidationConfig {
  int64_t every = 100;
  int64_t tokens = 65536;

  template <class Self, class Visitor>
  static void visit_fields(Self& self, Visitor&& visit) {
    visit("every",
          self.every,
          Field{.doc = "steps between validations on data.heldout; 0: only at the end",
                .min = 0,
                .max = 1e9});
    visit(
        "tokens",
        self.tokens,
        Field{.doc = "predicted held-out tokens of a validation, at most", .min = 1, .max = 1e12});
  }
};

enum class CommBackend { kAuto, kGloo, kNccl };
template <>
inline constexpr std::string_view kEnumNames<CommBackend>[] = {"auto", "gloo", "nccl"};

/// How ranks share the work.
struct DistributedConfig {
  CommBackend backend = CommBackend::kAuto;
  bool shard_optimizer = false;
  Precision reduce_dtype = Precision::kFp32;
  double bucket_mib = 25;
  bool two_level = true;
  std::string timeout = "10m";

  template <class Self, class Visitor>
  static void visit_fields(Self& self, Visitor&& visit) {
    visit("backend",
          self.backend,
          Field{.doc = "auto (nccl where each rank has a GPU of its own, else gloo), gloo (through "
                       "host memory) or nccl"});
    visit(
        "shard_optimizer",
        self.shard_optimizer,
        Field{.doc = "each rank keeps and updates its part of the master weights and moments only "
                     "(ZeRO-1, arXiv 1910.02054)"});
    visit("reduce_dtype",
          self.reduce_dtype,
          Field{.doc = "in which gradients travel and are added up over ranks: fp32, or bf16 with "
                       "half the bytes and less precision"});
    visit("bucket_mib",
          self.bucket_mib,
          Field{.doc = "fp32 gradients that are sent together while backward goes on, MiB",
                .min = 0.001,
                .max = 65536});
    visit("two_level",
          self.two_level,
          Field{.doc = "gloo on several machines with as many ranks each: add up inside a machine, "
                       "then between machines (nccl does it by itself)"});
    visit("timeout",
          self.timeout,
          Field{.doc = "how long ranks wait for each other in one operation, like 10m, before the "
                       "run ends; at the start 5m at most"});
  }
  std::vector<std::string> problems() const;
};

/// What to do about a sudden rise of the loss.
struct RollbackConfig {
  double factor = 0;
  int64_t window = 64;
  int64_t batches = 8;
  int64_t max = 5;

  template <class Self, class Visitor>
  static void visit_fields(Self& self, Visitor&& visit) {
    visit("factor",
          self.factor,
          Field{.doc = "a step whose loss is more than this times the median of the steps before "
                       "sends the run back to its newest checkpoint, more than 1; 0: never",
                .min = 0,
                .max = 1e6});
    visit("window", self.window, Field{.doc = "steps of that median", .min = 1, .max = 1e6});
    visit("batches",
          self.batches,
          Field{.doc = "batches left out then: that of the step and those before it, back to the "
                       "checkpoint at most",
                .min = 1,
                .max = 1e9});
    visit(
        "max", self.max, Field{.doc = "rollbacks after which the run ends", .min = 1, .max = 1e9});
  }
  std::vector<std::string> problems() const;
};

struct TrainConfig {
  int64_t steps = 1000;
  int64_t seed = 1;
  DeviceKind device = DeviceKind::kAuto;
  Precision precision = Precision::kFp32;
  int64_t global_batch = 32;
  int64_t micro_batch = 0;
  bool recompute_activations = false;
  std::string stop_after;
  std::string init_from;
  OptimizerConfig optimizer;
  ScheduleConfig schedule;
  CheckpointConfig checkpoint;
  ValidationConfig validation;
  DistributedConfig distributed;
  RollbackConfig rollback;
  bool deterministic = false;
  int64_t log_every = 10;
  int64_t sink_metric_every = 0;
  int64_t max_skipped = 20;

  template <class Self, class Visitor>
  static void visit_fields(Self& self, Visitor&& visit) {
    visit("steps", self.steps, Field{.doc = "optimizer steps of the run", .min = 1, .max = 1e12});
    visit("seed",
          self.seed,
          Field{.doc = "of the initial weights and of the sample order", .min = 0, .max = 9e15});
    visit("device", self.device, Field{.doc = "auto (cuda where it works, else cpu), cpu or cuda"});
    visit("precision",
          self.precision,
          Field{.doc = "fp32, or bf16 with fp32 master weights and moments"});
    visit("global_batch",
          self.global_batch,
          Field{.doc = "samples per step over all ranks", .min = 1, .max = 1e9});
    visit("micro_batch",
          self.micro_batch,
          Field{.doc = "samples of one forward and backward pass on one rank; 0: chosen",
                .min = 0,
                .max = 1e9});
    visit("recompute_activations",
          self.recompute_activations,
          Field{.doc = "trades a second forward pass of each block for the memory of its "
                       "activations; the gradients stay the same"});
    visit("stop_after",
          self.stop_after,
          Field{.doc = "wall clock from the start of the program after which the run saves and "
                       "exits with 3, like 90m or 1h30m; empty: none"});
    visit("init_from",
          self.init_from,
          Field{.doc = "a run or model directory, of here or elsewhere, to start from: the model keys "
                       "left out follow it, and model.sink.kind=token gives it a sink; empty: random "
                       "weights"});
    visit("optimizer", self.optimizer, Field{.doc = "AdamW"});
    visit("schedule", self.schedule, Field{.doc = "learning-rate schedule"});
    visit("checkpoint", self.checkpoint, Field{.doc = "when to save and what to keep"});
    visit("validation", self.validation, Field{.doc = "held-out loss during training"});
    visit("distributed", self.distributed, Field{.doc = "how ranks share the work"});
    visit("rollback", self.rollback, Field{.doc = "when the loss jumps"});
    visit(
        "deterministic",
        self.deterministic,
        Field{.doc = "only algorithms that give the same bits each time (GPUs: slower; CPUs always "
                     "do)"});
    visit(
        "log_every",
        self.log_every,
        Field{
            .doc = "steps between console lines and rows of metrics.jsonl", .min = 1, .max = 1e9});
    visit("sink_metric_every",
          self.sink_metric_every,
          Field{.doc = "steps between measurements of the attention-sink metric; 0: none",
                .min = 0,
                .max = 1e9});
    visit("max_skipped",
          self.max_skipped,
          Field{.doc = "non-finite steps in a row that end the run", .min = 1, .max = 1e9});
  }
  std::vector<std::string> problems() const;
};

/// "90m", "1h30m", "45s" in seconds, 0 for an empty text. Throws std::invalid_argument naming `key`
/// for what is no duration.
double duration_s(const std::string& text, const std::string& key);

struct RunDirConfig {
  std::string dir;

  template <class Self, class Visitor>
  static void visit_fields(Self& self, Visitor&& visit) {
    visit("dir", self.dir, Field{.doc = "run directory; empty: runs/<config's stem>-<sink kind>"});
  }
};

struct RunConfig {
  RunDirConfig run;
  ModelConfig model;
  DataConfig data;
  TrainConfig train;

  template <class Self, class Visitor>
  static void visit_fields(Self& self, Visitor&& visit) {
    visit("run", self.run, Field{.doc = "where the run lives"});
    visit("model", self.model, Field{.doc = "the network"});
    visit("data", self.data, Field{.doc = "what it reads"});
    visit("train", self.train, Field{.doc = "how it learns"});
  }
  std::vector<std::string> problems() const;
};

/// The configuration of `path` with `--set` overrides applied, run.dir filled in, and with
/// train.init_from the model section of what the run starts from. Throws std::invalid_argument with
/// all problems.
RunConfig read_run_config(const std::filesystem::path& path,
                          const std::vector<std::string>& overrides);

/// Fills in model.vocab_size from the data's tokenizer where it is 0, and checks model against
/// data: vocabulary, sink ids, tokenizers of all datasets. Throws std::invalid_argument for a
/// contradiction, std::runtime_error for missing or damaged data.
void match_model_to_data(RunConfig& config);

/// For what needs no data: model.vocab_size from the data's tokenizer where it is 0 and the data is
/// there. Throws std::invalid_argument where it is not; `path`, the run file, is for the message.
void find_vocab_size(RunConfig& config, const std::string& path);

/// Keys whose change alters how sums are rounded, when `ranks` go on: one line each, with both values.
std::vector<std::string> rounding_changes(const RunConfig& before,
                                          const RunConfig& now,
                                          int64_t ranks);

/// What keeps a run begun as `before` from going on at `step` as `now`: one line per key, with both
/// values. Empty: nothing.
std::vector<std::string> resume_obstacles(const RunConfig& before,
                                          const RunConfig& now,
                                          int64_t step);

}  // namespace basin
