// TensorBoard reads what training wrote, over a resume.
#include <gmock/gmock.h>

#include <map>

#include "tests/support/clients.h"
#include "tests/train/program_runs.h"

namespace basin {
namespace {

class TensorboardTest : public RunsTest {};

TEST_F(TensorboardTest, ReadsEveryRowOfTwoSessions) {
  const std::string python = python_of("tests");
  // tests/run.sh installs it; a plain ctest may not have.
  if (python.empty())
    GTEST_SKIP() << "no TensorBoard: 'bash configs/setup.sh --tests' installs it";
  RunConfig config = tiny_config("run");
  config.train.schedule = {.kind = ScheduleKind::kConstant};
  config.train.validation.every = 10;
  for (const int64_t steps : {20, 40}) {
    config.train.steps = steps;
    ASSERT_EQ(train(config, ""), 0) << error_text();
  }
  ASSERT_EQ(
      shell(script_line(python, "train/read_events.py", "'" + (root_ / "run").string() + "'") +
            " >'" + (root_ / "events").string() + "' 2>'" + (root_ / "err").string() + "'"),
      0)
      << error_text();
  std::map<std::string, std::map<int64_t, double>> read;  // tag, step
  std::istringstream lines(read_file(root_ / "events"));
  std::string tag;
  double value = 0;
  for (int64_t step = 0; lines >> tag >> step >> value;) {
    EXPECT_FALSE(read[tag].contains(step)) << tag << ' ' << step;
    read[tag][step] = value;
  }
  const auto all = rows("run");
  ASSERT_EQ(all.size(), 40u);
  size_t validations = 0;
  for (const nlohmann::json& row : all) {
    const int64_t step = row.at("step");
    for (const auto& [name, key] : {std::pair("train/loss", "loss"),
                                    {"train/lr", "lr"},
                                    {"train/grad_norm", "grad_norm"},
                                    {"train/tokens", "tokens"},
                                    {"validation/loss", "val_loss"}}) {
      if (row.at(key).is_null()) continue;
      validations += key == std::string("val_loss");
      ASSERT_TRUE(read[name].contains(step)) << name << ' ' << step;
      EXPECT_FLOAT_EQ(static_cast<float>(read[name][step]), row.at(key).get<float>())
          << name << ' ' << step;
    }
  }
  EXPECT_EQ(validations, 4u);
  EXPECT_EQ(read["train/loss"].size(), 40u);
  EXPECT_EQ(read["validation/loss"].size(), 4u);
}

}  // namespace
}  // namespace basin
