// Several ranks of the real program: found through a launcher's variables, and stopped together.
#include "tests/train/program_fixture.h"
#include "train/run_directory.h"
#include "train/state.h"

namespace basin {
namespace {

using testing::HasSubstr;
using testing::IsEmpty;

class RanksTest : public ProgramTest {
 protected:
  /// The run has one checkpoint, of the last step that it logged, and nothing half-written.
  static void expect_one_checkpoint(const RunConfig& config, const std::string& said) {
    Words names;
    for (const auto& entry : std::filesystem::directory_iterator(config.run.dir))
      if (entry.is_directory()) names.push_back(entry.path().filename().string());
    const auto step = find_newest_intact(config.run.dir);
    ASSERT_TRUE(step) << said;
    EXPECT_THAT(names,
                testing::ElementsAre(step_directory(config.run.dir, *step).filename().string()))
        << said;
    const std::string rows = read_file(std::filesystem::path(config.run.dir) / "metrics.jsonl");
    EXPECT_EQ(std::count(rows.begin(), rows.end(), '\n'), *step) << said;
  }
};

TEST_F(RanksTest, SlurmTasksFindEachOther) {
  RunConfig config = tiny_config("run");
  config.train.steps = 3;
  config.train.schedule.warmup_steps = 0;
  const std::string port = std::to_string(unused_port());
  const auto task = [&](int64_t rank) {
    return start(std::to_string(rank),
                 config,
                 {"env",
                  "SLURM_PROCID=" + std::to_string(rank),
                  "SLURM_LOCALID=" + std::to_string(rank),
                  "SLURM_STEP_NUM_TASKS=2",
                  "SLURM_NTASKS=2",
                  "SLURM_NODEID=0",
                  "SLURM_STEP_ID=0",
                  "SLURM_STEP_TASKS_PER_NODE=2",
                  "SLURM_STEP_NODELIST=node[1-1]",
                  "MASTER_PORT=" + port});
  };
  const auto zero = task(0), one = task(1);
  EXPECT_EQ(zero->wait(), 0) << zero->said();
  EXPECT_EQ(one->wait(), 0) << one->said();
  EXPECT_THAT(zero->said(),
              testing::ContainsRegex("\\(0.02 epochs\\).* Slurm: 1 node x 2 ranks x .*, gloo"));
  EXPECT_EQ(find_newest_intact(config.run.dir), 3);
}

// Clones of one image have the same host name. Here the second rank sees another boot's number.
TEST_F(RanksTest, TheSameHostNameMayBeAnotherMachine) {
  write_file(root_ / "boot_id", "another\n");
  const std::string bind =
      "mount --bind '" + (root_ / "boot_id").string() + "' /proc/sys/kernel/random/boot_id";
  std::string unshare_as;  // root, or a user in a namespace of its own
  for (const char* options : {"-m", "-rm"})
    if (unshare_as.empty() &&
        std::system(("unshare " + std::string(options) + " sh -c \"" + bind + "\" 2>/dev/null")
                        .c_str()) == 0)
      unshare_as = options;
  if (unshare_as.empty())
    GTEST_SKIP() << "no mount namespace of one's own here, neither as root nor as a user";
  RunConfig config = tiny_config("run");
  config.train.steps = 2;
  config.train.schedule.warmup_steps = 0;
  const uint16_t port = unused_port();
  const auto rank = [&](int64_t number, const Words& inside) {
    Words words = as_rank(number, 2, port);
    words.push_back("GLOO_SOCKET_IFNAME=lo");
    words.insert(words.end(), inside.begin(), inside.end());
    return start(std::to_string(number), config, words);
  };
  const auto zero = rank(0, {}),
             one = rank(1, {"unshare", unshare_as, "sh", "-c", bind + " && exec \"$@\"", "sh"});
  EXPECT_EQ(zero->wait(), 0) << zero->said();
  EXPECT_EQ(one->wait(), 0) << one->said();
  EXPECT_THAT(zero->said(), HasSubstr("variables: 2 nodes x 1 rank x "));
}

// As torchrun and srun do, and as a terminal does with Ctrl-C.
TEST_F(RanksTest, ASignalToEverybodyStopsOnce) {
  const RunConfig config = endless_config("run");
  const auto launcher = start("launcher", config, {}, {"--nproc", "2"});
  ASSERT_TRUE(wait_for_steps(config, *launcher, 3)) << launcher->said();
  std::vector<pid_t> all = launcher->children();
  ASSERT_EQ(all.size(), 2u);
  all.push_back(launcher->pid());
  for (const pid_t pid : all) kill(pid, SIGTERM);
  EXPECT_EQ(launcher->wait(), 3) << launcher->said();
  expect_one_checkpoint(config, launcher->said());
  EXPECT_THAT(errors_in(launcher->said()), IsEmpty());
}

TEST_F(RanksTest, OneRankThatIsAskedStopsAll) {
  const RunConfig config = endless_config("run");
  const uint16_t port = unused_port();
  const auto zero = start("zero", config, as_rank(0, 2, port)),
             one = start("one", config, as_rank(1, 2, port));
  ASSERT_TRUE(wait_for_steps(config, *zero, 3)) << zero->said();
  kill(one->pid(), SIGUSR1);
  EXPECT_EQ(zero->wait(), 3) << zero->said();
  EXPECT_EQ(one->wait(), 3) << one->said();
  expect_one_checkpoint(config, zero->said());
  EXPECT_THAT(one->said(), IsEmpty());
}

TEST_F(RanksTest, StopAfterStopsAllAtTheSameStep) {
  RunConfig config = endless_config("run");
  config.train.stop_after = "1s";
  const uint16_t port = unused_port();
  const auto zero = start("zero", config, as_rank(0, 2, port)),
             one = start("one", config, as_rank(1, 2, port));
  EXPECT_EQ(zero->wait(), 3) << zero->said();
  EXPECT_EQ(one->wait(), 3) << one->said();
  expect_one_checkpoint(config, zero->said());
}

// A step that does not end, because a rank is stopped.
TEST_F(RanksTest, ASecondSignalLeavesAtOnce) {
  RunConfig config = endless_config("run");
  config.train.checkpoint.every = 5;
  const auto launcher = start("launcher", config, {}, {"--nproc", "2"});
  ASSERT_TRUE(wait_for_steps(config, *launcher, 20)) << launcher->said();
  const std::vector<pid_t> ranks = launcher->children();
  ASSERT_EQ(ranks.size(), 2u);
  kill(ranks[1], SIGSTOP);
  kill(launcher->pid(), SIGTERM);
  std::this_thread::sleep_for(std::chrono::milliseconds(1300));
  EXPECT_TRUE(launcher->is_running()) << launcher->said();
  kill(launcher->pid(), SIGTERM);
  EXPECT_EQ(launcher->wait(std::chrono::seconds(20)), 128 + SIGTERM);
  for (int tries = 0; tries < 500 && (kill(ranks[0], 0) == 0 || kill(ranks[1], 0) == 0); ++tries)
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  for (const pid_t rank : ranks) EXPECT_NE(kill(rank, 0), 0) << "rank left behind";

  const auto step = find_newest_intact(config.run.dir);
  ASSERT_TRUE(step) << launcher->said();
  config.train.steps = *step + 2;
  const auto again = start("again", config, {}, {"--nproc", "2"});
  EXPECT_EQ(again->wait(), 0) << again->said();
  EXPECT_THAT(again->said(), HasSubstr("resuming from"));
}

}  // namespace
}  // namespace basin
