#include "train/plan.h"

#include <gmock/gmock.h>

#include <stdexcept>

#include "train/plan_output.h"

namespace basin {
namespace {

using testing::HasSubstr;

RunConfig run_config(const std::string& name, const std::vector<std::string>& overrides = {}) {
  return read_run_config(std::string(BASIN_SOURCE_DIR "/configs/") + name, overrides);
}

PlanMachine gpus(int64_t ranks, double memory_bytes = 0) {
  PlanMachine machine{.cuda = true, .name = "gpu", .ranks = ranks};
  machine.memory_bytes = memory_bytes;
  machine.peak_flops = 1e15;
  machine.link_bytes_per_s = 400e9;
  machine.network_bytes_per_s = 100e9;
  return machine;
}

template <class Call>
std::string message_of(Call call) {
  try {
    call();
  } catch (const std::invalid_argument& error) {
    return error.what();
  }
  return "no error";
}

TEST(Plan, FiguresOfPythia160M) {
  const Plan plan = make_plan(run_config("pythia-160m.yaml"), gpus(8));
  EXPECT_EQ(plan.parameters, 162'322'944);
  EXPECT_EQ(plan.step_tokens, 256 * 2048);
  EXPECT_EQ(plan.tokens, 143000.0 * 256 * 2048);  // 75 billion
  EXPECT_EQ(plan.micro_batch * plan.micro_batches, 256 / 8);
  // ZeRO (arXiv 1910.02054), section 3.1: 2 + 2 + 12 bytes a parameter in mixed precision with
  // Adam; our gradients are fp32, 4 bytes instead of 2.
  const PlanMemory& m = plan.memory;
  EXPECT_NEAR(
      static_cast<double>(m.weights + m.gradients + m.master + m.moments) / 162'322'944, 18, 0.01);
}

TEST(Plan, FiguresOfLlama60M) {
  const Plan plan = make_plan(run_config("llama-60m.yaml", {"model.vocab_size=32000"}), gpus(1));
  EXPECT_EQ(plan.parameters,
            2 * 32000 * 768 + 10 * (4 * 768 * 768 + 3 * 768 * 1536 + 2 * 768) + 768);
  EXPECT_EQ(plan.parts.mlp, 10 * 3 * 768 * 1536);
  EXPECT_EQ(plan.step_tokens, 512 * 2048);
  EXPECT_EQ(plan.sent_bytes, 0);
}

TEST(Plan, MemoryGrowsWithTheMicroBatchAndShrinksByEachSwitch) {
  RunConfig config = run_config("llama-60m.yaml", {"model.vocab_size=32000"});
  for (const bool cuda : {false, true}) {
    PlanMachine machine = gpus(4);
    machine.cuda = cuda;
    int64_t before = 0;
    for (const int64_t rows : {1, 2, 4, 8, 16}) {
      config.train.micro_batch = rows;
      const int64_t now = make_plan(config, machine).memory.step_total();
      EXPECT_GT(now, before) << rows;
      before = now;
    }
    RunConfig recomputed = config, sharded = config;
    recomputed.train.recompute_activations = true;
    sharded.train.distributed.shard_optimizer = true;
    EXPECT_LT(make_plan(recomputed, machine).memory.step_total(), before);
    EXPECT_LT(make_plan(sharded, machine).memory.step_total(), before);
  }
}

// With other ranks the last micro-batch of a step is no graph, and the graph of the others keeps
// its memory.
TEST(Plan, AGraphBesideAPassThatIsNone) {
  const auto graph = [](const std::string& micro_batch, int64_t ranks) {
    const PlanMemory memory =
        make_plan(run_config("pythia-160m.yaml", {"train.micro_batch=" + micro_batch}), gpus(ranks))
            .memory;
    EXPECT_TRUE(memory.graph == 0 || memory.graph == memory.pass.peak);
    return memory.graph > 0;
  };
  EXPECT_TRUE(graph("16", 8));   // of 32
  EXPECT_FALSE(graph("32", 8));  // one pass a step, with hooks
  EXPECT_FALSE(graph("16", 1));  // all are the graph
}

TEST(Plan, RefusesWhatTheRanksOfAMachineTakeTogether) {
  PlanMachine machine;
  machine.ranks = 4;
  const Plan plan = make_plan(run_config("pythia-160m.yaml"), machine);
  const auto needed = static_cast<double>(plan.needed_bytes());
  EXPECT_GT(needed, static_cast<double>(plan.memory.step_total()));
  EXPECT_NO_THROW(refuse_too_large(plan, 1, needed));
  EXPECT_NO_THROW(refuse_too_large(plan, 2, 2 * needed));
  EXPECT_THROW(refuse_too_large(plan, 1, needed - 1), std::runtime_error);
  EXPECT_THROW(refuse_too_large(plan, 2, 2 * needed - 1), std::runtime_error);
  const auto refusal = [&](int64_t ranks_here, double available) -> std::string {
    try {
      refuse_too_large(plan, ranks_here, available);
    } catch (const std::runtime_error& error) {
      return error.what();
    }
    return "no error";
  };
  EXPECT_THAT(refusal(2, 2'000'000),
              testing::AllOf(HasSubstr("times the 2 ranks here"),
                             HasSubstr("this machine has 2.00 MB left"),
                             HasSubstr("--ranks 4 --memory 976KiB")));
  EXPECT_THAT(refusal(1, 1.999 * (1 << 30)), HasSubstr("--ranks 4 --memory 2046MiB"));
}

TEST(Plan, ShardsDivideMasterWeightsAndMoments) {
  RunConfig config = run_config("pythia-160m.yaml");
  const PlanMemory whole = make_plan(config, gpus(8)).memory;
  config.train.distributed.shard_optimizer = true;
  const PlanMemory shard = make_plan(config, gpus(8)).memory;
  EXPECT_NEAR(static_cast<double>(shard.master), static_cast<double>(whole.master) / 8, 1024);
  EXPECT_NEAR(static_cast<double>(shard.moments), static_cast<double>(whole.moments) / 8, 2048);
  EXPECT_EQ(shard.weights, whole.weights);
  EXPECT_EQ(shard.gradients, whole.gradients);
  EXPECT_LT(shard.checkpoint_copy, whole.checkpoint_copy / 3);
  config.train.precision = Precision::kFp32;
  EXPECT_EQ(make_plan(config, gpus(8)).memory.master, 0);
}

TEST(Plan, CommunicationOfARing) {
  // 7/8 of the fp32 gradients twice, or once and 7/8 of the bf16 weights.
  RunConfig config = run_config("pythia-160m.yaml");
  const double parameters = 162'322'944;
  EXPECT_NEAR(
      make_plan(config, gpus(8)).sent_bytes, 2 * 7.0 / 8 * 4 * parameters, 1e-4 * parameters);
  config.train.distributed.shard_optimizer = true;
  EXPECT_NEAR(
      make_plan(config, gpus(8)).sent_bytes, 7.0 / 8 * (4 + 2) * parameters, 1e-4 * parameters);
}

TEST(Plan, TimeOfAStepByHand) {
  RunConfig config = run_config("pythia-160m.yaml");
  const Plan plan = make_plan(config, gpus(8));
  EXPECT_DOUBLE_EQ(plan.time.compute_s, plan.flops_per_token * 256 * 2048 / (8 * 1e15 * 0.4));
  // 3 ms of communication, 50 ms of backward pass: what comes after that is the embedding's part
  EXPECT_DOUBLE_EQ(plan.time.exposed_s, plan.time.communication_s * (50304.0 * 768) / 162'322'944);
  PlanMachine slow = gpus(8);
  slow.link_bytes_per_s = 10e9;
  const StepTime time = make_plan(config, slow).time;
  EXPECT_DOUBLE_EQ(time.communication_s, plan.sent_bytes / 10e9);
  EXPECT_DOUBLE_EQ(
      time.exposed_s,
      time.communication_s - 2.0 / 3 * time.compute_s / static_cast<double>(plan.micro_batches));
  config.train.recompute_activations = true;
  EXPECT_GT(make_plan(config, slow).time.compute_s, 1.2 * time.compute_s);
  PlanMachine measured = gpus(8);
  measured.tokens_per_second = 1e6;
  EXPECT_DOUBLE_EQ(make_plan(config, measured).time.total_s(), 256 * 2048 / 1e6);
  measured.tokens_per_second = measured.peak_flops = 0;
  EXPECT_EQ(make_plan(config, measured).time.total_s(), 0);
}

TEST(Plan, KnobsComeByCostEachWithItsNumber) {
  const RunConfig config = run_config("pythia-160m.yaml");
  const auto knobs = memory_knobs(config, gpus(8, 8e9));
  ASSERT_EQ(knobs.size(), 4u);
  using Settings = std::vector<std::string>;
  EXPECT_THAT(knobs[0].settings, testing::ElementsAre(HasSubstr("train.micro_batch=")));
  EXPECT_EQ(knobs[1].settings, Settings{"train.distributed.shard_optimizer=true"});
  EXPECT_EQ(knobs[2].settings, Settings{"train.recompute_activations=true"});
  EXPECT_THAT(knobs[3].settings,
              testing::IsSupersetOf({knobs[1].settings[0], knobs[2].settings[0]}));
  for (const Knob& knob : knobs) {
    const Plan plan = make_plan(run_config("pythia-160m.yaml", knob.settings), gpus(8, 8e9));
    EXPECT_EQ(plan.needed_bytes(), knob.plan.needed_bytes()) << knob.settings[0];
    EXPECT_LT(plan.needed_bytes(), make_plan(config, gpus(8)).needed_bytes()) << knob.settings[0];
  }
  EXPECT_TRUE(knobs[0].plan.fits());
  EXPECT_FALSE(knobs[1].plan.fits());
  EXPECT_TRUE(knobs[3].plan.fits());
  EXPECT_EQ(memory_knobs(config, gpus(1)).size(), 3u) << "one rank has nothing to share out";
  RunConfig small = config;
  small.train.micro_batch = 1;
  small.train.recompute_activations = true;
  EXPECT_TRUE(memory_knobs(small, gpus(1)).empty());
}

TEST(Plan, TheLargestMicroBatchThatFitsIsNamed) {
  const RunConfig config = run_config("pythia-160m.yaml");  // 16 of 32 samples
  const Plan eight = make_plan(run_config("pythia-160m.yaml", {"train.micro_batch=8"}), gpus(8));
  const double limit = static_cast<double>(eight.needed_bytes());
  EXPECT_EQ(memory_knobs(config, gpus(8, limit)).at(0).plan.micro_batch, 8);
  EXPECT_EQ(memory_knobs(config, gpus(8, limit - 1)).at(0).plan.micro_batch, 4);
}

TEST(Plan, ScalingKeepsTheTokensOfADeviceAndLosesByTheNetwork) {
  const RunConfig config = run_config("pythia-160m.yaml", {"train.micro_batch=32"});
  PlanMachine machine = gpus(8);
  const auto rows = predict_scaling(config, machine);
  ASSERT_EQ(rows.size(), 4u);
  EXPECT_EQ(rows[3].ranks, 256);
  const double per_device = make_plan(config, machine).step_tokens / 8;
  for (const ScalingRow& row : rows)
    EXPECT_NEAR(row.tokens_per_second * row.time.total_s() / static_cast<double>(row.ranks),
                per_device,
                1e-6 * per_device);
  EXPECT_GT(rows[1].efficiency, 0.9);
  EXPECT_LT(rows[1].efficiency, 1);
  machine.network_bytes_per_s = 1e9;
  const auto slow = predict_scaling(config, machine);
  EXPECT_EQ(slow[0].efficiency, rows[0].efficiency) << "one node has no network";
  EXPECT_LT(slow[1].efficiency, 0.3);
  EXPECT_LT(slow[3].efficiency, slow[1].efficiency);
}

TEST(Plan, RefusalsSayWhatToDo) {
  EXPECT_THAT(
      message_of([] { make_plan(run_config("pythia-160m.yaml"), gpus(7)); }),
      HasSubstr("7 ranks cannot share train.global_batch 256 evenly: make it a multiple of 7"));
  EXPECT_THAT(message_of([] {
                make_plan(run_config("pythia-160m.yaml", {"train.micro_batch=64"}), gpus(8));
              }),
              HasSubstr("train.micro_batch 64 does not divide a rank's share"));
  RunConfig config = run_config("llama-60m.yaml", {"data.train=nowhere"});
  EXPECT_THAT(message_of([&] { find_vocab_size(config, "x.yaml"); }),
              HasSubstr("x.yaml: model.vocab_size is 0 and its data is not there"));
}

TEST(Plan, TextNamesEveryKindAndTheVerdict) {
  const RunConfig config = run_config("pythia-160m.yaml");
  PlanReport report{
      config, make_plan(config, gpus(8, 8e9)), memory_knobs(config, gpus(8, 8e9)), {}};
  const std::string text = plan_text(report);
  for (const char* part : {"162322944",
                           "weights",
                           "gradients",
                           "master weights",
                           "moments",
                           "activations",
                           "working buffers",
                           "checkpoint copy, host",
                           "of 8.00 GB: does not fit",
                           "train.recompute_activations=true",
                           "tokens/s",
                           "sent by each device"})
    EXPECT_THAT(text, HasSubstr(part));
  report.plan = make_plan(config, gpus(8, 80e9));
  EXPECT_THAT(plan_text(report), HasSubstr("of 80.0 GB: fits"));
  EXPECT_THAT(plan_text(report), testing::Not(HasSubstr("To make it fit")));
}

TEST(Plan, SummaryHasTheTotal) {
  const PlanMemory memory = make_plan(run_config("pythia-160m.yaml"), {}).memory;
  EXPECT_THAT(memory_summary(memory), HasSubstr("memory about "));
  EXPECT_THAT(memory_summary(memory),
              HasSubstr("weights 336 MB"));  // 325 MB in a block of the allocator
}

}  // namespace
}  // namespace basin
