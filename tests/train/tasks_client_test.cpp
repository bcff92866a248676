// lm-eval scores tasks on checkpoints as `evaluate --tasks` does.
#include <gtest/gtest.h>

#include "tests/support/clients.h"
#include "tests/train/program_runs.h"

namespace basin {
namespace {

class ZeroShotTest : public RunsTest {};

TEST_F(ZeroShotTest, LmEvalFindsTheSameNumbers) {
  const std::string python = python_of("clients");
  if (python.empty())
    GTEST_SKIP() << "no lm-eval: 'bash configs/setup.sh --clients' installs it";
  EXPECT_EQ(shell(script_line(python, "client/zero_shot.py", program()) + " >'" +
                  (root_ / "out").string() + "' 2>'" + (root_ / "err").string() + "'"),
            0)
      << read_file(root_ / "out") << error_text();
}

}  // namespace
}  // namespace basin
