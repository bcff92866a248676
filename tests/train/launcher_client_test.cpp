// Launchers that nobody here wrote start the real program: torchrun (from `configs/setup.sh
// --clients`, or on the PATH) and Open MPI's mpirun. Skipped where there is none.
#include "tests/train/program_fixture.h"
#include "train/run_directory.h"
#include "train/state.h"

namespace basin {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

/// Where a program lies: in the clients' environment or on the PATH; empty: nowhere.
std::string find_program(const std::string& name) {
  std::string path = BASIN_SOURCE_DIR "/.deps/clients/bin";
  if (const char* given = std::getenv("PATH")) path += std::string(":") + given;
  std::istringstream list(path);
  for (std::string folder; std::getline(list, folder, ':');) {
    const std::string file = folder + "/" + name;
    if (access(file.c_str(), X_OK) == 0) return file;
  }
  return "";
}

RunConfig short_config(RunConfig config, int64_t steps) {
  config.train.steps = steps;
  config.train.schedule = {.kind = ScheduleKind::kConstant, .warmup_steps = 0};
  config.data.heldout = "";
  return config;
}

class TorchrunTest : public ProgramTest {
 protected:
  void SetUp() override {
    ProgramTest::SetUp();
    // PyTorch is on PyPI with its CUDA libraries only, 5 GB that a test run does not fetch.
    torchrun_ = find_program("torchrun");
    if (torchrun_.empty())
      GTEST_SKIP() << "no torchrun: neither in .deps/clients (bash configs/setup.sh --clients) nor "
                      "on the PATH";
  }
  std::unique_ptr<Program> torchrun(const RunConfig& config, const Words& options = {}) const {
    Words before = {torchrun_, "--no-python", "--standalone", "--nproc-per-node", "2"};
    before.insert(before.end(), options.begin(), options.end());
    return start("torchrun", config, before);
  }
  std::string torchrun_;
};

TEST_F(TorchrunTest, TwoRanksTrain) {
  const RunConfig config = short_config(tiny_config("run"), 5);
  const auto program = torchrun(config);
  EXPECT_EQ(program->wait(), 0) << program->said();
  EXPECT_THAT(program->said(), HasSubstr("torchrun: 1 node x 2 ranks"));
  EXPECT_EQ(find_newest_intact(config.run.dir), 5);
}

TEST_F(TorchrunTest, ARankThatDiesIsStartedAgain) {
  RunConfig config = short_config(tiny_config("run"), 1000);
  config.train.checkpoint.every = 20;
  const auto program = torchrun(config, {"--max-restarts", "1"});
  ASSERT_TRUE(wait_for_steps(config, *program, 40)) << program->said();
  const std::vector<pid_t> ranks = program->children();
  ASSERT_EQ(ranks.size(), 2u);
  // Saves are asynchronous: the one at step 20 may still be under way.
  for (int i = 0; i < 500 && !find_newest_intact(config.run.dir); ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  kill(ranks[1], SIGKILL);
  EXPECT_EQ(program->wait(), 0) << program->said();
  EXPECT_THAT(program->said(), HasSubstr("resuming from"));
  EXPECT_EQ(find_newest_intact(config.run.dir), 1000);
}

TEST_F(TorchrunTest, PrintsOurErrorAsTheCause) {
  RunConfig config = short_config(tiny_config("run"), 5);
  config.train.global_batch = 9;
  config.train.micro_batch = 1;
  const auto program = torchrun(config);
  EXPECT_NE(program->wait(), 0);
  const std::string said = program->said();
  const size_t cause = said.find("Root Cause");
  ASSERT_NE(cause, std::string::npos) << said;
  EXPECT_THAT(said.substr(cause), AllOf(HasSubstr("exitcode  : 2"), HasSubstr("global_batch")));
  EXPECT_EQ(errors_in(said).size(), 1u) << said;
}

// torchrun takes a 3 for a failure, and starts the ranks again.
TEST_F(TorchrunTest, ARunThatStoppedOnRequestStaysStopped) {
  RunConfig config = endless_config("run");
  config.train.stop_after = "1s";
  // --standalone would give each job a name of its own.
  const auto job = [&] {
    return start("torchrun",
                 config,
                 {torchrun_,
                  "--no-python",
                  "--nproc-per-node=2",
                  "--max-restarts=2",
                  "--monitor-interval=0.1",
                  "--rdzv-backend=c10d",
                  "--rdzv-endpoint=localhost:0",
                  "--rdzv-id=job"});
  };
  const auto program = job();
  EXPECT_EQ(program->wait(), 1) << program->said();
  const auto step = find_newest_intact(config.run.dir);
  ASSERT_TRUE(step);
  EXPECT_THAT(program->said(),
              AllOf(HasSubstr("stopped after step " + std::to_string(*step) + " of"),
                    HasSubstr("exitcode  : 3"),
                    HasSubstr("stopped on request before this attempt"),
                    Not(HasSubstr("resuming from"))));
  // The next job of the same name goes on.
  config.train.steps = *step + 2;
  const auto next = job();
  EXPECT_EQ(next->wait(), 0) << next->said();
  EXPECT_EQ(find_newest_intact(config.run.dir), *step + 2);
  EXPECT_FALSE(std::filesystem::exists(root_ / "run/.stopped"));
}

TEST_F(TorchrunTest, PassesARequestToStopOn) {
  const RunConfig config = endless_config("run");
  const auto program = torchrun(config);
  ASSERT_TRUE(wait_for_steps(config, *program)) << program->said();
  kill(program->pid(), SIGTERM);
  EXPECT_NE(program->wait(), 0);
  EXPECT_THAT(program->said(), HasSubstr("to go on: basin train"));
  EXPECT_TRUE(find_newest_intact(config.run.dir));
}

TEST_F(ProgramTest, OpenMpiStartsTwoRanks) {
  const std::string mpirun = find_program("mpirun");
  // tests/run.sh installs it where it is root.
  if (mpirun.empty()) GTEST_SKIP() << "no mpirun: Debian's openmpi-bin has it";
  const RunConfig config = short_config(tiny_config("run"), 5);
  const auto program =
      start("mpirun", config, {mpirun, "--allow-run-as-root", "--oversubscribe", "-n", "2"});
  EXPECT_EQ(program->wait(), 0) << program->said();
  EXPECT_THAT(program->said(), HasSubstr("Open MPI: 1 node x 2 ranks"));
  EXPECT_EQ(find_newest_intact(config.run.dir), 5);
}

}  // namespace
}  // namespace basin
