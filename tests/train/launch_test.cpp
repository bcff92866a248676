// The real program with several processes.
#include <gmock/gmock.h>
#include <nlohmann/json.hpp>
#include <sstream>

#include "tests/train/program_runs.h"
#include "train/run_directory.h"
#include "train/state.h"

namespace basin {
namespace {

using testing::HasSubstr;

class LaunchTest : public RunsTest {
 protected:
  /// Trains, with SIGUSR1 once a further step has shown up in metrics.jsonl.
  int train_until_signal(const RunConfig& config, const std::string& arguments) {
    const std::string count = "$(cat '" + config.run.dir + "/metrics.jsonl' 2>/dev/null | wc -l)";
    return shell("before=" + count + "; " + command(config, arguments, "") + " & pid=$!; " +
                 "while kill -0 $pid 2>/dev/null && [ " + count +
                 " -le $before ]; do sleep 0.1; done; kill -USR1 $pid; wait $pid");
  }
};

TEST_F(LaunchTest, PlainEnvironmentOfALauncherWorks) {
  const RunConfig config = tiny_config("env");
  ASSERT_EQ(train(config, "", "RANK=0 WORLD_SIZE=1 LOCAL_RANK=0 LOCAL_WORLD_SIZE=1"), 0)
      << error_text();
  EXPECT_EQ(train(config, "--nproc 2", "RANK=0 WORLD_SIZE=1"), 2);
  EXPECT_THAT(error_text(), HasSubstr("leave one of them out"));
}

TEST_F(LaunchTest, FailedRankEndsAllAndItsErrorComesLast) {
  RunConfig config = tiny_config("share");
  config.train.micro_batch = 8;  // does not divide the 4 samples of a rank
  EXPECT_EQ(train(config, "--nproc 2"), 2);
  std::string last, line;
  for (std::istringstream lines(error_text()); std::getline(lines, line);) last = line;
  EXPECT_THAT(last, HasSubstr("error: [rank "));
  EXPECT_THAT(last, HasSubstr("train.micro_batch 8 does not divide a rank's share"));
}

TEST_F(LaunchTest, SignalSavesAndExitsWith3ThenTheSameCommandGoesOn) {
  RunConfig config = tiny_config("signal");
  config.train.steps = 100000;
  config.train.schedule = {.kind = ScheduleKind::kConstant, .warmup_steps = 0};
  EXPECT_EQ(train_until_signal(config, ""), 3) << error_text();
  const auto first = find_newest_intact(config.run.dir);
  EXPECT_EQ(train_until_signal(config, "--nproc 2"), 3) << error_text();
  const auto step = find_newest_intact(config.run.dir);
  ASSERT_TRUE(first && step);
  EXPECT_GT(*step, *first);
  EXPECT_THAT(error_text(), HasSubstr("ranks: 1 before, 2 now"));
  EXPECT_THAT(error_text(), HasSubstr("resuming from"));
  EXPECT_THAT(error_text(), HasSubstr("to go on: basin train"));
}

TEST_F(LaunchTest, BadCommandLinesExitWith2) {
  RunConfig config = tiny_config("bad");
  EXPECT_EQ(train(config, "--set train.stepz=3"), 2);
  EXPECT_THAT(error_text(), HasSubstr("train.steps"));
  EXPECT_EQ(train(config, "--nproc zero"), 2);
  config.data.train[0].path = (root_ / "nothing").string();
  EXPECT_EQ(train(config, ""), 1);
  EXPECT_THAT(error_text(), HasSubstr("nothing"));
}

// Whatever a step frees waits for the next one (model/cpu_allocator.h).
TEST_F(LaunchTest, ASteadyStepAsksTheSystemForNoMemory) {
  ASSERT_EQ(shell(program() +
                  " bench train '" BASIN_SOURCE_DIR
                  "/configs/demo.yaml' --set model.vocab_size=2048 --steps 3 "
                  "--warmup 6 --repetitions 1 --no-peaks --json >'" +
                  (root_ / "out").string() + "' 2>'" + (root_ / "err").string() + "'"),
            0)
      << error_text();
  const nlohmann::json row = nlohmann::json::parse(read_file(root_ / "out")).at(0);
  EXPECT_EQ(row.at("allocations_per_step").get<double>(), 0);
  EXPECT_GT(row.at("max_allocated_bytes").get<int64_t>(), 16 * row.at("parameters").get<int64_t>())
      << "weights, gradient and moments were not counted: is the allocator installed?";
}

}  // namespace
}  // namespace basin
