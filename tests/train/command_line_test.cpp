// The real program's command line: what it says of words and numbers that it does not take, and
// streams that are closed or full.
#include <gmock/gmock.h>

#include "tests/data/data_fixture.h"
#include "tests/train/program_runs.h"

namespace basin {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

class CommandLineTest : public RunsTest {
 protected:
  /// Exit status of `basin ARGUMENTS`.
  int basin(const std::string& arguments) {
    return shell(program() + " " + arguments + " >'" + (root_ / "out").string() + "' 2>'" +
                 (root_ / "err").string() + "'");
  }
};

TEST_F(CommandLineTest, AWordThatIsNoVerbIsNamed) {
  EXPECT_EQ(basin("evalute x"), 2);
  EXPECT_EQ(error_text(), "error: unknown verb evalute; did you mean evaluate?\n");
  EXPECT_EQ(basin("chat --help"), 2);
  EXPECT_THAT(error_text(), HasSubstr("unknown verb chat; there are prepare, plan, train"));
  EXPECT_EQ(basin("bench decod x"), 2);
  EXPECT_EQ(error_text(), "error: unknown verb decod; did you mean decode?\n");
  EXPECT_EQ(basin("bench decode --help"), 0);
  EXPECT_THAT(read_file(root_ / "out"), HasSubstr("SUBJECT"));
}

TEST_F(CommandLineTest, NumbersThatAreNotTakenAreNamedInAShortLine) {
  EXPECT_EQ(basin("evaluate x --text y --max-tokens -2"), 2);
  EXPECT_THAT(error_text(), HasSubstr("--max-tokens: -2 is less than 0"));
  EXPECT_EQ(basin("evaluate x --text y --sinks 0,,4"), 2);
  EXPECT_THAT(
      error_text(),
      HasSubstr("--sinks: 0,,4: expected whole numbers with commas between them, found \"\""));
  EXPECT_EQ(basin("bench stream x --cache 64,"), 2);
  EXPECT_THAT(error_text(), HasSubstr("--cache: 64,: expected whole numbers"));
  EXPECT_EQ(basin("generate x --seed -1"), 2);
  EXPECT_THAT(error_text(), HasSubstr("--seed: Value -1 not in range 0 to 9000000000000000"));
}

TEST_F(CommandLineTest, OptionsThatWouldChangeNothingAreRefused) {
  EXPECT_EQ(basin("evaluate x --text y --mode dense --sinks 0"), 2);
  EXPECT_THAT(error_text(), HasSubstr("--sinks is for mode stream"));
  EXPECT_EQ(basin("export x --format gguf --out y --max-shard-size 1GB"), 2);
  EXPECT_THAT(error_text(), HasSubstr("--max-shard-size is for --format hf"));
}

TEST_F(CommandLineTest, AnInputOfTheWrongKindIsCalledWhatItIs) {
  write_file(root_ / "x.gguf", "GGUF");
  EXPECT_EQ(basin("evaluate '" + (root_ / "x.gguf").string() + "' --text y"), 1);
  EXPECT_THAT(error_text(), HasSubstr("x.gguf: is a file; a model is a directory"));
}

TEST_F(CommandLineTest, HelpThatDoesNotArriveIsAFailure) {
  EXPECT_EQ(shell(program() + " train --help >/dev/full 2>'" + (root_ / "err").string() + "'"), 1);
  EXPECT_THAT(error_text(), HasSubstr("cannot write to standard output"));
}

TEST_F(CommandLineTest, WhatIsPrintedToAClosedStreamGoesIntoNoFile) {
  RunConfig config = tiny_config("run");
  config.train.steps = 4;
  config.train.schedule.warmup_steps = 0;
  config.train.checkpoint.every = 2;
  write_file(root_ / "run.yaml", to_yaml(config));
  const std::string line = program() + " train '" + (root_ / "run.yaml").string() + "' ";
  EXPECT_EQ(shell(line + "<&- >&- 2>&-"), 0);
  EXPECT_EQ(rows("run").size(), 4u);
  for (const auto& entry : std::filesystem::recursive_directory_iterator(root_ / "run")) {
    if (!entry.is_regular_file()) continue;
    EXPECT_THAT(read_file(entry.path()),
                AllOf(Not(HasSubstr("final: step 4")), Not(HasSubstr(" info: "))))
        << entry.path();
  }
}

TEST_F(CommandLineTest, ForeignDataIsSaidToGiveNoTokenizer) {
  RunConfig config = tiny_config("run");
  config.train.steps = 1;
  config.train.schedule.warmup_steps = 0;
  ASSERT_EQ(train(config, ""), 0) << error_text();
  EXPECT_THAT(error_text(), HasSubstr("checkpoints get no tokenizer"));
  const std::string run = (root_ / "run").string();
  ASSERT_EQ(basin("report '" + run + "' --json"), 0) << error_text();
  const auto json = nlohmann::json::parse(read_file(root_ / "out"));
  EXPECT_EQ(json.at("page"), run + "/report.html");
  EXPECT_EQ(json.at("runs").at(0).at("name"), "run");
  EXPECT_FALSE(json.at("findings").empty());
}

}  // namespace
}  // namespace basin
