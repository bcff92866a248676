// What a run says does not arrive: full disks, closed pipes, terminals that go. The work goes on; a
// verb whose result does not arrive fails.
#include "tests/train/program_fixture.h"
#include "tests/train/program_runs.h"
#include "train/run_directory.h"

namespace basin {
namespace {

using testing::HasSubstr;

class UnheardTest : public RunsTest {
 protected:
  /// Runs `basin train` with what `end` puts behind it, in bash.
  int run(const RunConfig& config, const std::string& end) {
    write_file(root_ / "run.yaml", to_yaml(config));
    return shell("bash -c \"" + program() + " train '" + (root_ / "run.yaml").string() + "' " + end +
                 "\"");
  }
  void expect_whole(const std::string& name) const {
    EXPECT_EQ(rows(name).size(), 50u) << name;
    EXPECT_EQ(find_newest_intact(root_ / name), 50) << name;
    EXPECT_TRUE(std::filesystem::exists(root_ / name / "final")) << name;
  }
};

TEST_F(UnheardTest, OnAFullDisk) {
  EXPECT_EQ(run(tiny_config("one"), "2>/dev/full >/dev/full"), 0);
  expect_whole("one");
  EXPECT_EQ(run(tiny_config("two"), "--nproc 2 2>/dev/full >/dev/full"), 0);
  expect_whole("two");
  EXPECT_EQ(run(tiny_config("one"), "--set train.seed=2 2>/dev/full"), 2);
}

TEST_F(UnheardTest, InAPipeThatIsClosed) {
  const std::string lines = " 2>&1 | head -3 >/dev/null; exit \\${PIPESTATUS[0]}";
  EXPECT_EQ(run(tiny_config("one"), lines), 0);
  expect_whole("one");
  EXPECT_EQ(run(tiny_config("two"), "--nproc 2" + lines), 0);
  expect_whole("two");
}

TEST_F(UnheardTest, WhereTheStreamsAreClosed) {
  EXPECT_EQ(run(tiny_config("one"), "<&- >&- 2>&-"), 0);
  expect_whole("one");
}

TEST_F(UnheardTest, AResultThatDoesNotArriveIsAFailure) {
  const RunConfig config = tiny_config("one");
  EXPECT_EQ(run(config, "--print-config >/dev/full 2>/dev/null"), 1);
  EXPECT_EQ(run(config, "--print-config >&- 2>/dev/null"), 1);
  EXPECT_EQ(
      shell(program() + " plan '" + (root_ / "run.yaml").string() + "' >/dev/full 2>/dev/full"), 1);
}

class HangupTest : public ProgramTest {};

TEST_F(HangupTest, SavesAndEndsUnlessNohup) {
  const RunConfig config = endless_config("run");
  {
    const auto launcher = start("launcher", config, {}, {"--nproc", "2"});
    ASSERT_TRUE(wait_for_steps(config, *launcher, 3)) << launcher->said();
    kill(launcher->pid(), SIGHUP);
    EXPECT_EQ(launcher->wait(), 3) << launcher->said();
    EXPECT_TRUE(find_newest_intact(config.run.dir)) << launcher->said();
  }
  const auto kept = start("kept", config, {"nohup"});
  ASSERT_TRUE(wait_for_steps(config, *kept, 200)) << kept->said();
  kill(kept->pid(), SIGHUP);
  std::this_thread::sleep_for(std::chrono::milliseconds(300));
  EXPECT_TRUE(kept->is_running()) << kept->said();
}

}  // namespace
}  // namespace basin
