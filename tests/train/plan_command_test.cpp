// The real program's `plan`: exit status, JSON, messages.
#include <gmock/gmock.h>
#include <sys/wait.h>

#include <cstdlib>
#include <nlohmann/json.hpp>

#include "configs/files.h"
#include "configs/scratch_folder.h"

namespace basin {
namespace {

using nlohmann::json;
using testing::HasSubstr;

class PlanCommandTest : public testing::Test {
 protected:
  /// Exit status of `basin plan` of a file of configs/.
  int plan(const std::string& arguments) {
    const std::string line = "'" BASIN_PROGRAM "' plan '" BASIN_SOURCE_DIR "/configs/'" + arguments +
                             " >'" + (directory_.path() / "out").string() + "' 2>'" +
                             (directory_.path() / "err").string() + "'";
    const int status = std::system(line.c_str());
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  }
  std::string out() const { return read_file(directory_.path() / "out"); }
  std::string err() const { return read_file(directory_.path() / "err"); }

  ScratchFolder directory_;
};

TEST_F(PlanCommandTest, ExitStatusSaysWhetherItFits) {
  EXPECT_EQ(plan("pythia-160m.yaml --gpus 8 --gpu h100"), 0) << err();
  EXPECT_THAT(out(), HasSubstr("fits"));
  EXPECT_EQ(plan("pythia-160m.yaml --gpus 8 --gpu h100 --memory 6GiB"), 1) << err();
  EXPECT_THAT(out(), HasSubstr("of 6.44 GB: does not fit"));
  EXPECT_EQ(plan("pythia-160m.yaml"), 0) << "nothing to compare with";
}

TEST_F(PlanCommandTest, JsonIsOneDocument) {
  ASSERT_EQ(plan("pythia-160m.yaml --gpus 8 --gpu h100 --memory 6GiB --scaling --json"), 1)
      << err();
  const json document = json::parse(out());
  EXPECT_EQ(document["parameters"]["total"], 162'322'944);
  EXPECT_EQ(document["memory_limit_bytes"], 6.0 * 1024 * 1024 * 1024);
  EXPECT_FALSE(document["fits"].get<bool>());
  EXPECT_EQ(document["knobs"].size(), 4u);
  EXPECT_EQ(document["scaling"].size(), 4u);
  EXPECT_GT(document["time"]["step_s"].get<double>(), 0);
  ASSERT_EQ(plan("llama-60m.yaml --set model.vocab_size=32000 --json"), 0) << err();
  EXPECT_TRUE(json::parse(out())["time"].is_null());
}

TEST_F(PlanCommandTest, PrecisionChoosesThePeak) {
  ASSERT_EQ(plan("pythia-160m.yaml --gpu h100 --json"), 0);
  const double bf16 = json::parse(out())["time"]["step_s"];
  ASSERT_EQ(plan("pythia-160m.yaml --gpu h100 --set train.precision=fp32 --set train.micro_batch=2 "
                 "--json"),
            0)
      << out();
  const double fp32 = json::parse(out())["time"]["step_s"];
  EXPECT_NEAR(fp32 / bf16, 989.0 / 67, 0.01);
}

TEST_F(PlanCommandTest, WrongCommandLinesAreRefused) {
  EXPECT_EQ(plan("pythia-160m.yaml --memory 80gigs"), 2);
  EXPECT_THAT(err(), HasSubstr("--memory: \"80gigs\" is no size; write it like 80GiB"));
  EXPECT_EQ(plan("pythia-160m.yaml --gpus 7"), 2);
  EXPECT_THAT(err(), HasSubstr("multiple of 7"));
  EXPECT_EQ(plan("pythia-160m.yaml --gpus 8 --ranks 8"), 2);
  EXPECT_EQ(plan("pythia-160m.yaml --gpu h900"), 2);
  EXPECT_EQ(plan("pythia-160m.yaml --scaling"), 2);
  EXPECT_THAT(err(), HasSubstr("--scaling needs to know a device"));
  EXPECT_EQ(plan("llama-60m.yaml --set data.train=nowhere"), 2);
  EXPECT_THAT(err(), HasSubstr("model.vocab_size is 0"));
}

}  // namespace
}  // namespace basin
