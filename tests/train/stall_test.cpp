// A disk that hangs: training waits, says so, counts it, and a rank that has failed does not wait
// for it.
#include <gmock/gmock.h>

#include <nlohmann/json.hpp>
#include <regex>

#include "tests/train/program_fixture.h"

namespace basin {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

class StallTest : public ProgramTest {
 protected:
  void SetUp() override {
    ProgramTest::SetUp();
    fs::create_directory(root_ / "disk");
    write_file(gate(), "");
  }
  fs::path gate() const { return root_ / "disk.stall"; }
  /// Saves every 10 steps; the second of these hangs as long as the gate is there.
  RunConfig config() const {
    RunConfig config = endless_config("disk/run");
    config.train.checkpoint.every = 10;
    return config;
  }
  Words hanging() const {
    return {"env",
            "BASIN_THREADS=1",
            "LD_PRELOAD=" BASIN_FAULTY_FILES,
            "BASIN_FAULT_DIR=" + (root_ / "disk").string(),
            "BASIN_FAULT_MODE=stall",
            "BASIN_FAULT_STALL=step-00000020.tmp"};
  }
  static void pause(double seconds) {
    std::this_thread::sleep_for(std::chrono::duration<double>(seconds));
  }
};

TEST_F(StallTest, TheWaitIsSaidAndCounted) {
  const RunConfig run = config();
  const auto program = start("run", run, hanging());
  ASSERT_TRUE(wait_for_steps(run, *program, 30)) << program->said();
  const auto waits = std::chrono::steady_clock::now();
  kill(program->pid(), SIGTERM);
  for (int i = 0; i < 500 && program->said().find("still writing") == std::string::npos; ++i)
    pause(0.01);
  EXPECT_THAT(program->said(), HasSubstr("still writing the checkpoint of step 20 for "));
  EXPECT_THAT(program->said(), HasSubstr("training waits; asked to stop, which it does once that"));
  fs::remove(gate());
  EXPECT_EQ(program->wait(), 3) << program->said();
  const double waited =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - waits).count();
  EXPECT_GT(waited, 0.9);

  const std::string said = program->said();
  std::smatch stood;
  ASSERT_TRUE(std::regex_search(
      said, stood, std::regex("step-00000020 .*training stood still for ([0-9.]+) s")))
      << said;
  EXPECT_GT(std::stod(stood[1]), 0.9);
  double speed = 0;  // tokens/s of step 31
  for (const nlohmann::json& row : rows("disk/run"))
    if (row["step"] == 31) speed = row["tokens_per_second"];
  EXPECT_GT(speed, 0);
  EXPECT_LT(speed, 8 * 16 / 0.9);
}

TEST_F(StallTest, ARankThatHasFailedLeaves) {
  const RunConfig run = config();
  const uint16_t port = unused_port();
  Words rank_0 = hanging();
  for (const std::string& word : as_rank(0, 2, port))
    if (word != "env") rank_0.push_back(word);
  const auto zero = start("zero", run, rank_0), one = start("one", run, as_rank(1, 2, port));
  ASSERT_TRUE(wait_for_steps(run, *zero, 25)) << zero->said();
  kill(one->pid(), SIGKILL);
  EXPECT_EQ(zero->wait(std::chrono::seconds(20)), 1) << zero->said();
  EXPECT_THAT(zero->said(), HasSubstr("rank 1 (process"));
}

}  // namespace
}  // namespace basin
