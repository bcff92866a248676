#include "train/slurm.h"

#include <gmock/gmock.h>

#include <stdexcept>

namespace basin {
namespace {

using testing::ElementsAre;

TEST(Slurm, FirstHostOfANodeList) {
  EXPECT_EQ(first_host("node7"), "node7");
  EXPECT_EQ(first_host("x3,gnode[01,20-22]"), "x3");
  EXPECT_EQ(first_host("gnode[01,20-22],x3"), "gnode01");
  EXPECT_EQ(first_host("gnode[020-022]"), "gnode020");
  EXPECT_EQ(first_host("rack[2-3]n[07,9]-ib"), "rack2n07-ib");
  for (const char* bad : {"", ",a", "gnode[01", "gnode[]", "gnode]", "a[-3]"})
    EXPECT_THROW(first_host(bad), std::invalid_argument) << bad;
}

TEST(Slurm, TasksPerNode) {
  EXPECT_THAT(tasks_per_node("4"), ElementsAre(4));
  EXPECT_THAT(tasks_per_node("4(x2),3"), ElementsAre(4, 4, 3));
  EXPECT_THAT(tasks_per_node("1,2(x3)"), ElementsAre(1, 2, 2, 2));
  for (const char* bad : {"", "4(x2", "4x2", "a", "4,", "4(x2)3", "-1"})
    EXPECT_THROW(tasks_per_node(bad), std::invalid_argument) << bad;
}

}  // namespace
}  // namespace basin
