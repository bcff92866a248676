// Ranks on a GPU: NCCL with one rank, and two ranks that share a device through Gloo.
#include <ATen/ATen.h>

#include "model/device.h"
#include "tests/train/gpu_obstacle.h"
#include "tests/train/program_runs.h"
#include "train/run_directory.h"
#include "train/trainer.h"

namespace basin {
namespace {

class GpuRanksTest : public RunsTest {
 protected:
  void SetUp() override {
    // The same code on CPUs: distributed_test.cpp. What is left needs a device.
    if (const std::string obstacle = gpu_obstacle(); !obstacle.empty()) GTEST_SKIP() << obstacle;
    RunsTest::SetUp();
  }
  RunConfig config(const std::string& run) const {
    RunConfig config = tiny_config(run, Precision::kBf16);
    config.model.hidden_size = 64;  // heads of 32, as flash attention wants them
    config.train.device = DeviceKind::kCuda;
    config.train.steps = 40;
    config.train.schedule = {.kind = ScheduleKind::kConstant, .warmup_steps = 5};
    config.train.checkpoint.every = 10;
    config.train.distributed.bucket_mib = 0.05;
    config.train.deterministic = true;
    return config;
  }
};

TEST_F(GpuRanksTest, NcclAloneTrainsShardedSavesAndResumes) {
  use_deterministic_algorithms();
  const at::Device device = choose_device(DeviceKind::kCuda, "test");
  EXPECT_EQ(gpu_uuid(device).substr(0, 4), "GPU-");
  EXPECT_EQ(gpu_uuid(device).size(), 4u + 32);
  const auto nccl = make_group_comm({.port = 29533, .serve = true, .nccl_device = 0});
  at::Tensor sum = at::full({1000}, 3.0, at::TensorOptions().device(device));
  nccl->all_reduce_sum(sum);
  EXPECT_TRUE(at::equal(sum.cpu(), at::full({1000}, 3.0)));

  RunConfig whole = config("whole"), parts = config("parts");
  whole.train.distributed.shard_optimizer = parts.train.distributed.shard_optimizer = true;
  Trainer first(whole, *nccl, device);
  first.run();
  parts.train.steps = 20;
  Trainer(parts, *nccl, device).run();
  parts.train.steps = 40;
  Trainer resumed(parts, *nccl, device);
  EXPECT_EQ(resumed.state().step, 20);
  resumed.run();
  EXPECT_TRUE(at::equal(first.optimizer().master(), resumed.optimizer().master()));
  const auto alone = make_single_comm();
  Trainer plain(config("plain"), *alone, device);
  plain.run();
  const auto sharded = losses("whole"), single = losses("plain");
  for (size_t i = 0; i < single.size(); ++i) EXPECT_NEAR(sharded[i], single[i], 1e-3 * single[i]);
}

TEST_F(GpuRanksTest, TwoRanksShareADeviceThroughGloo) {
  ASSERT_EQ(train(config("one"), ""), 0) << error_text();
  for (const bool shard : {false, true}) {
    RunConfig two = config(shard ? "sharded" : "two");
    two.train.distributed.shard_optimizer = shard;
    ASSERT_EQ(train(two, "--nproc 2"), 0) << error_text();
    EXPECT_NE(error_text().find("gloo (ranks 0 and 1 share a GPU)"), std::string::npos)
        << error_text();
    const auto one = losses("one"), both = losses(shard ? "sharded" : "two");
    for (size_t i = 0; i < one.size(); ++i) EXPECT_NEAR(both[i], one[i], 1e-3 * one[i]) << shard;
  }
}

}  // namespace
}  // namespace basin
