// What a run will need and take, from its configuration alone: memory of each device by kind,
// computation, communication, time. `basin plan` prints it, `basin train` its one line, and both
// take the micro-batch from here.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "model/cost.h"
#include "model/pass_memory.h"
#include "train/config.h"

namespace basin {

/// Samples of a forward and backward pass: train.micro_batch, or the most whose positions stay
/// below what the device works on well, dividing the rank's share. Throws std::invalid_argument for
/// a micro-batch that does not.
int64_t choose_micro_batch(const RunConfig& config, int64_t rank_batch, bool on_cpu);

/// What the run is planned for. Rates of 0 are not known.
struct PlanMachine {
  bool cuda = false;
  std::string name = "cpu";  // of the device, for people
  int64_t ranks = 1;         // devices
  int64_t ranks_per_node = 8;
  double memory_bytes = 0;         // of a device; 0: not said
  double peak_flops = 0;           // of a device, a second
  double mfu = 0.4;                // share of it that training reaches without communication
  double tokens_per_second = 0;    // measured, of all ranks together; instead of peak and MFU
  double link_bytes_per_s = 0;     // of a device to the others of its node, one direction
  double network_bytes_per_s = 0;  // of a node to the others, one direction, all adapters together
};

/// Bytes of one device, as its allocator counts them.
struct PlanMemory {
  int64_t weights = 0, gradients = 0, master = 0, moments = 0;
  int64_t batch = 0;            // the rank's samples of a step, rotary tables
  PassMemory pass;              // activations, and what comes on top at the peak
  int64_t graph = 0;            // a recorded pass that keeps its memory beside one that is not
  int64_t runtime = 0;          // CUDA's context and libraries, an assumption
  int64_t checkpoint_copy = 0;  // in host memory, while a checkpoint is written

  int64_t working() const { return pass.peak - pass.kept; }
  /// Of the device at the peak of a step.
  int64_t step_total() const {
    return weights + gradients + master + moments + batch + pass.peak + graph + runtime;
  }
};

/// Seconds of a step, 0 where nothing is known of the machine's speed.
struct StepTime {
  double compute_s = 0;
  double communication_s = 0;  // of which backward hides what it can
  double exposed_s = 0;        // what it cannot
  double total_s() const { return compute_s + exposed_s; }
};

struct Plan {
  PlanMachine machine;
  ParameterParts parts;
  int64_t parameters = 0;
  int64_t micro_batch = 0, micro_batches = 0;  // of a rank in a step
  double step_tokens = 0, tokens = 0;          // predicted, of all ranks
  double flops_per_token = 0;                  // without recomputation, as MFU counts
  PlanMemory memory;
  double sent_bytes = 0;  // by each device in a step
  StepTime time;

  /// What has to fit into machine.memory_bytes: on a CPU the copy for a checkpoint, too.
  int64_t needed_bytes() const;
  bool fits() const {
    return machine.memory_bytes <= 0 || static_cast<double>(needed_bytes()) <= machine.memory_bytes;
  }
};

/// `config.model.vocab_size` must be known. Throws std::invalid_argument where the ranks cannot
/// share the batch.
Plan make_plan(const RunConfig& config, const PlanMachine& machine);

/// Throws std::runtime_error when the `ranks_here` of this machine take more memory than it has
/// left, `available` bytes: LibTorch's allocator would end the program.
void refuse_too_large(const Plan& plan, int64_t ranks_here, double available);

/// A change of the configuration that lowers memory.
struct Knob {
  std::vector<std::string> settings;  // as --set takes them
  std::string cost;                   // what it costs
  Plan plan;                          // with it alone; in the last one of several, with all
};
/// Those that apply, the one that costs least first; the last has all together.
std::vector<Knob> memory_knobs(const RunConfig& config, const PlanMachine& machine);

/// Tokens a second of all devices, and against as many times one device without communication.
struct ScalingRow {
  int64_t nodes = 1, ranks = 1;
  double tokens_per_second = 0, efficiency = 0;
  StepTime time;
};
/// For 1, 2, 8 and 32 nodes, each device with the tokens of a step that it has in `config` on
/// `machine`.
std::vector<ScalingRow> predict_scaling(const RunConfig& config, const PlanMachine& machine);

/// "memory about 1.2 GB a rank (...)": what `train` says before it starts.
std::string memory_summary(const PlanMemory& memory);

}  // namespace basin
