// Several ranks take the steps that one takes, with and without a sharded optimizer, and go on from
// each other's checkpoints.
#include <gmock/gmock.h>

#include <cmath>

#include "model/transformer.h"
#include "tests/train/program_runs.h"
#include "train/run_directory.h"
#include "train/state.h"

namespace basin {
namespace {

using testing::HasSubstr;

class DistributedTest : public RunsTest {
 protected:
  /// 100 steps of two micro-batches on up to four ranks, several buckets, and a model whose cache
  /// lines no number of ranks divides.
  RunConfig config(const std::string& run, Precision precision) const {
    RunConfig config = tiny_config(run, precision);
    config.model.hidden_size = 48;
    config.model.intermediate_size = 100;
    config.train.steps = 100;
    config.train.schedule = {.kind = ScheduleKind::kConstant, .warmup_steps = 5};
    config.train.micro_batch = 1;
    config.train.distributed.bucket_mib = 0.05;
    config.train.validation.every = 0;
    return config;
  }
  std::vector<double> losses_of(RunConfig config, int64_t ranks, bool shard) {
    config.run.dir += "-" + std::to_string(ranks) + (shard ? "z" : "");
    config.train.distributed.shard_optimizer = shard;
    EXPECT_EQ(train(config, ranks > 1 ? "--nproc " + std::to_string(ranks) : ""), 0)
        << error_text();
    return losses(std::filesystem::path(config.run.dir).filename());
  }
  static double largest_difference(const std::vector<double>& a, const std::vector<double>& b) {
    EXPECT_EQ(a.size(), b.size());
    double largest = 0;
    for (size_t i = 0; i < std::min(a.size(), b.size()); ++i)
      largest = std::max(largest, std::abs(a[i] - b[i]) / b[i]);
    return largest;
  }
};

TEST_F(DistributedTest, RanksTakeTheSameStepsAsOne) {
  const Transformer model(config("x", Precision::kFp32).model, at::kFloat, at::kCPU);
  ASSERT_NE(model.flat().numel() / 64 % 2, 0) << "choose a shape that two ranks do not divide";
  for (const auto& [precision, tolerance] :
       {std::pair(Precision::kFp32, 1e-5), {Precision::kBf16, 1e-3}}) {
    const RunConfig run = config(std::string(enum_name(precision)), precision);
    const std::vector<double> one = losses_of(run, 1, false);
    ASSERT_EQ(one.size(), 100u);
    EXPECT_LT(one.back(), one.front() - 1) << "nothing was learned";
    for (const auto& [ranks, shard] :
         {std::pair(int64_t{2}, false), {2, true}, {4, false}, {4, true}}) {
      if (precision == Precision::kBf16 && shard != (ranks == 4)) continue;  // half of them will do
      EXPECT_LT(largest_difference(losses_of(run, ranks, shard), one), tolerance)
          << enum_name(precision) << ' ' << ranks << (shard ? " ranks, sharded" : " ranks");
    }
  }
}

TEST_F(DistributedTest, GradientsMayTravelInBf16) {
  RunConfig run = config("fp32", Precision::kFp32);
  run.train.steps = 30;
  const std::vector<double> one = losses_of(run, 1, false);
  run.train.distributed.reduce_dtype = Precision::kBf16;
  run.run.dir += "-bf16";
  for (const bool shard : {false, true}) {
    const double difference = largest_difference(losses_of(run, 2, shard), one);
    EXPECT_LT(difference, 1e-2);
    EXPECT_GT(difference, 1e-6) << "they did not";
  }
}

TEST_F(DistributedTest, ResumesBitForBitWithAndWithoutShards) {
  for (const bool shard : {false, true}) {
    const auto steps = [&](const std::string& run, int64_t count) {
      RunConfig c = config(run, Precision::kBf16);
      c.train.distributed.shard_optimizer = shard;
      c.train.steps = count;
      ASSERT_EQ(train(c, "--nproc 2"), 0) << error_text();
    };
    const std::string whole = shard ? "whole-z" : "whole", parts = shard ? "parts-z" : "parts";
    steps(whole, 20);
    steps(parts, 10);
    steps(parts, 20);
    std::vector<std::string> files = {"model.safetensors"};
    if (shard)
      files.insert(
          files.end(),
          {"trainer/shard-00000-of-00002.safetensors", "trainer/shard-00001-of-00002.safetensors"});
    else
      files.push_back("trainer/shard-00000-of-00001.safetensors");
    for (const std::string& file : files)
      EXPECT_EQ(xxh3_hex_of_file(root_ / whole / "final" / file),
                xxh3_hex_of_file(root_ / parts / "final" / file))
          << file;
  }
}

TEST_F(DistributedTest, AnotherNumberOfRanksGoesOnFromTheSameCheckpoint) {
  const std::vector<double> whole = losses_of(config("whole", Precision::kFp32), 1, false);
  RunConfig run = config("parts", Precision::kFp32);
  struct Leg {
    int64_t steps, ranks;
    bool shard;
  };
  for (const auto& [steps, ranks, shard] :
       {Leg{20, 2, true}, {40, 1, false}, {60, 4, true}, {80, 2, false}, {100, 1, true}}) {
    run.train.steps = steps;
    run.train.distributed.shard_optimizer = shard;
    ASSERT_EQ(train(run, ranks > 1 ? "--nproc " + std::to_string(ranks) : ""), 0) << error_text();
    if (steps > 20) {
      EXPECT_THAT(error_text(), HasSubstr("resuming from"));
      EXPECT_THAT(error_text(), HasSubstr("ranks: "));
    }
    EXPECT_EQ(read_state(root_ / "parts/final").machine.ranks, ranks);
  }
  EXPECT_LT(largest_difference(losses("parts"), whole), 1e-5);
}

// Where rank 0's only row should go lies a directory for a while: that rank alone cannot save.
TEST_F(DistributedTest, LastCheckpointIsTriedAgainByAllRanks) {
  RunConfig run = config("blocked", Precision::kFp32);
  run.train.log_every = run.train.steps;
  run.train.checkpoint.retry_after = "0.3s";
  run.train.distributed.timeout = "20s";
  const std::string block = "'" + run.run.dir + "/metrics.jsonl'";
  ASSERT_EQ(shell("(while ! ls '" + run.run.dir +
                  "' 2>/dev/null | grep -q tfevents; do sleep 0.01; "
                  "done; mkdir " +
                  block + "; sleep 3; rmdir " + block + ") & " + command(run, "--nproc 2", "")),
            0)
      << error_text();
  EXPECT_THAT(error_text(), HasSubstr("CHECKPOINT OF STEP 100 NOT SAVED"));
  EXPECT_EQ(find_newest_intact(run.run.dir), 100);
  EXPECT_EQ(losses("blocked").size(), 1u);
}

TEST_F(DistributedTest, RowsTellTheWaitingAndTheSlowest) {
  RunConfig run = config("seen", Precision::kFp32);
  run.train.steps = 10;
  run.train.schedule.warmup_steps = 0;
  ASSERT_EQ(train(run, "--nproc 2"), 0) << error_text();
  for (const nlohmann::json& row : rows("seen")) {
    EXPECT_GT(row.at("communication").get<double>(), 0);
    EXPECT_LT(row.at("communication").get<double>(), 1);
    EXPECT_GE(row.at("slowest_excess").get<double>(), 0);
    EXPECT_LT(row.at("slowest_rank").get<int64_t>(), 2);
  }
  EXPECT_THAT(error_text(), HasSubstr("waiting "));
}

}  // namespace
}  // namespace basin
