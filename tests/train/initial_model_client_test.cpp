// train.init_from takes a directory that transformers wrote, and transformers takes what comes out.
#include <fmt/format.h>
#include <gmock/gmock.h>

#include "tests/data/data_fixture.h"
#include "tests/support/clients.h"
#include "tests/train/program_runs.h"

namespace basin {
namespace {

class InitFromClientTest : public RunsTest {
 protected:
  void SetUp() override {
    RunsTest::SetUp();
    if (python_of("clients").empty())
      GTEST_SKIP() << "no transformers: 'bash configs/setup.sh --clients' installs it";
  }
  int python(const std::string& arguments) {
    return shell(fmt::format("{0} >'{1}/out' 2>'{1}/err'",
                             script_line(python_of("clients"), "client/init_from.py", arguments),
                             root_.string()));
  }
  int basin(const std::string& arguments) {
    return shell(
        fmt::format("{0} {1} >'{2}/out' 2>'{2}/err'", program(), arguments, root_.string()));
  }
  /// Datasets PREFIX_train and PREFIX_heldout where `prefix` is not empty, else train and heldout.
  int train_from(const std::string& name,
                 double lr,
                 int64_t steps,
                 const std::string& prefix = "") {
    write_file(
        root_ / "run.yaml",
        fmt::format("run: {{dir: {0}/{1}}}\n"
                    "model: {{sink: {{kind: token}}}}\n"
                    "data: {{train: {0}/{4}train, heldout: {0}/{4}heldout, sequence_length: 16}}\n"
                    "train: {{init_from: {0}/theirs, steps: {2}, global_batch: 8, device: cpu, "
                    "log_every: 1, optimizer: {{lr: {3}, min_lr: 0}}, "
                    "validation: {{every: {2}, tokens: 640}}}}\n",
                    root_.string(),
                    name,
                    steps,
                    lr,
                    prefix));
    return basin(fmt::format("train '{}/run.yaml'", root_.string()));
  }
};

TEST_F(InitFromClientTest, GoesOnWithAModelOfTransformersAndGivesItASink) {
  const std::string root = root_.string();
  ASSERT_EQ(python(fmt::format("write {}/theirs {}", root, kTestVocabulary)), 0) << error_text();
  ASSERT_EQ(train_from("still", 0, 1), 0) << error_text();  // no rate, so nothing moves
  ASSERT_EQ(python(fmt::format("check {0}/theirs {0}/still/final {0}/heldout.bin 16 40", root)), 0)
      << error_text();
  const double theirs = std::stod(read_file(root_ / "out"));
  EXPECT_NEAR(rows("still").back().at("val_loss").get<double>(), theirs, 1e-4);
  ASSERT_EQ(train_from("on", 0.01, 60), 0) << error_text();
  EXPECT_LT(rows("on").back().at("val_loss").get<double>(), theirs - 0.5);
}

TEST_F(InitFromClientTest, ATokenizerJsonGoesAlongAndPutsTheSinkInFront) {
  const std::string root = root_.string();
  write_file(root_ / "text.txt", invented_text(3, 6000));
  constexpr int64_t kPieces = 384, kRows = 400;  // so the sink takes a row that no piece has
  ASSERT_EQ(python(fmt::format("write {}/theirs {}", root, kRows)), 0) << error_text();
  ASSERT_EQ(python(fmt::format("tokenizer {0}/theirs {0}/text.txt {1}", root, kPieces)), 0)
      << error_text();
  const auto prepare_with = [&](const std::string& model, const std::string& out) {
    return basin(
        fmt::format("prepare --input {0}/text.txt --holdout 0.2 --out {0}/{1} --tokenizer {0}/{2}",
                    root,
                    out,
                    model));
  };
  ASSERT_EQ(prepare_with("theirs", "corpus"), 0) << error_text();
  ASSERT_EQ(train_from("run", 0.01, 30, "corpus_"), 0) << error_text();
  const auto config = nlohmann::json::parse(read_file(root_ / "run/final/config.json"));
  EXPECT_EQ(config.at("vocab_size"), kRows);
  EXPECT_EQ(config.at("bos_token_id"), kPieces);
  EXPECT_EQ(config.at("eos_token_id"), nlohmann::json({0, 2}))
      << "<|end|>, as tokenizer_config.json says, and what generation_config.json had";
  EXPECT_EQ(basin(fmt::format("train {0}/run.yaml --set run.dir={0}/hole "
                              "--set 'model.sink.token_ids=[390]'",
                              root)),
            2);
  EXPECT_THAT(error_text(), testing::HasSubstr("390 is no piece of the tokenizer in"));

  EXPECT_EQ(python(fmt::format("encode {0}/run/final {0}/text.txt {1}", root, kPieces)), 0)
      << error_text();
  EXPECT_EQ(basin(fmt::format("evaluate {0}/run --dataset {0}/corpus_heldout --cache 15 --sinks 1",
                              root)),
            0)
      << error_text();
  ASSERT_EQ(prepare_with("run/final", "again"), 0) << error_text();
  EXPECT_EQ(read_file(root_ / "again_train.bin"), read_file(root_ / "corpus_train.bin"));
}

}  // namespace
}  // namespace basin
