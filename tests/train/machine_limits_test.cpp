// Against made-up /proc and /sys.
#include "train/machine_limits.h"

#include <gtest/gtest.h>

#include <limits>

#include "configs/files.h"
#include "configs/scratch_folder.h"

namespace basin {
namespace {

class MachineLimitsTest : public testing::Test {
 protected:
  void set(const std::string& file, const std::string& text) const {
    std::filesystem::create_directories((root() / file).parent_path());
    write_file(root() / file, text);
  }
  std::filesystem::path root() const { return folder_.path(); }

  ScratchFolder folder_;
};

TEST_F(MachineLimitsTest, NothingIsSaid) {
  EXPECT_GE(available_cpus(root()), 1);
  EXPECT_EQ(available_cpus(root()), available_cpus("/nowhere"));
  EXPECT_EQ(available_bytes(root()), std::numeric_limits<double>::max());
  EXPECT_LT(available_bytes(), 1e15);
}

TEST_F(MachineLimitsTest, TheTightestGroupCounts) {
  set("proc/meminfo", "MemTotal: 9000 kB\nMemAvailable:    5000 kB\n");
  set("proc/self/cgroup", "4:memory:/old\n0::/job/step\n");
  EXPECT_EQ(available_bytes(root()), 5000 * 1024);
  set("sys/fs/cgroup/job/step/memory.max", "max\n");
  set("sys/fs/cgroup/job/step/memory.current", "1000\n");
  set("sys/fs/cgroup/job/step/cpu.max", "max 100000\n");
  EXPECT_EQ(available_bytes(root()), 5000 * 1024);
  EXPECT_EQ(available_cpus(root()), available_cpus("/nowhere"));
  set("sys/fs/cgroup/job/memory.max", "3000000\n");
  set("sys/fs/cgroup/job/memory.current", "1000000\n");
  set("sys/fs/cgroup/job/memory.stat",
      "anon 5\nfile 400000\ninactive_file 300000\nactive_file 100000\n");
  EXPECT_EQ(available_bytes(root()), 2'400'000);
  set("sys/fs/cgroup/job/memory.current", "4000000\n");
  EXPECT_EQ(available_bytes(root()), 0);
  set("sys/fs/cgroup/cpu.max", "50000 100000\n");
  EXPECT_EQ(available_cpus(root()), 0.5);
}

TEST_F(MachineLimitsTest, AGroupOfItsOwnNamespace) {
  set("proc/self/cgroup", "0::/\n");
  set("sys/fs/cgroup/cpu.max", "25000 100000\n");
  EXPECT_EQ(available_cpus(root()), 0.25);
}

}  // namespace
}  // namespace basin
