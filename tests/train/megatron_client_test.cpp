// Token datasets cross to Megatron-LM and GPT-NeoX and back: an independent reader and writer of
// their format in Python.
#include <fmt/format.h>
#include <gmock/gmock.h>

#include "data/tokenizer.h"
#include "tests/support/clients.h"
#include "tests/train/program_runs.h"

namespace basin {
namespace {

using Documents = std::vector<std::vector<int64_t>>;

class MegatronTest : public RunsTest {
 protected:
  void SetUp() override {
    RunsTest::SetUp();
    python_ = python_of("tests");
    if (python_.empty()) python_ = python_of("clients");
    if (python_.empty()) GTEST_SKIP() << "no numpy: 'bash configs/setup.sh --tests' installs it";
  }
  /// Exit status of megatron.py; what it prints goes to `root_ / "out"`.
  int megatron(const std::string& arguments) {
    return shell(script_line(python_, "data/megatron.py", arguments) + " >'" +
                 (root_ / "out").string() + "' 2>'" + (root_ / "err").string() + "'");
  }
  nlohmann::json read_elsewhere(const std::string& name) {
    EXPECT_EQ(megatron("read '" + (root_ / name).string() + "'"), 0) << error_text();
    return nlohmann::json::parse(read_file(root_ / "out"));
  }
  void write_elsewhere(const std::string& to,
                       const std::string& dtype,
                       const nlohmann::json& what) {
    write_file(root_ / "in", what.dump());
    ASSERT_EQ(megatron("write '" + (root_ / to).string() + "' " + dtype + " <'" +
                       (root_ / "in").string() + "'"),
              0)
        << error_text();
  }
  /// The tokens of the dataset `name` cut into sequences of 700 with an empty one after every
  /// third, and documents of one or two sequences or none.
  nlohmann::json cut_up(const std::string& name) const {
    const IndexedDataset ours(root_ / name);
    std::vector<int64_t> tokens(static_cast<size_t>(ours.num_tokens()));
    ours.read(0, tokens);
    Documents sequences;
    for (size_t begin = 0; begin < tokens.size(); begin += 700) {
      sequences.emplace_back(
          tokens.begin() + static_cast<ptrdiff_t>(begin),
          tokens.begin() + static_cast<ptrdiff_t>(std::min(begin + 700, tokens.size())));
      if (sequences.size() % 4 == 3) sequences.emplace_back();
    }
    std::vector<size_t> boundaries = {0, 1, 1};
    while (boundaries.back() + 2 < sequences.size()) boundaries.push_back(boundaries.back() + 2);
    boundaries.push_back(sequences.size());
    return {{"documents", sequences}, {"boundaries", boundaries}};
  }

  std::string python_;
};

// Byte for byte what Megatron-LM's own builder writes: else the tests below would prove nothing.
TEST_F(MegatronTest, TheOtherSideWritesWhatMegatronDoes) {
  write_elsewhere(
      "golden", "uint16", {{"documents", Documents{{5, 6, 7, 2}, {8, 2}, {9, 10, 11, 12, 13, 2}}}});
  const auto hex = [this](const char* file) {
    std::string text;
    for (const char byte : read_file(root_ / file))
      text += fmt::format("{:02x}", static_cast<unsigned char>(byte));
    return text;
  };
  EXPECT_EQ(hex("golden.bin"), "05000600070002000800020009000a000b000c000d000200");
  EXPECT_EQ(
      hex("golden.idx"),
      "4d4d494449445800000100000000000000080300000000000000040000000000000004000000020000000600"
      "0000000000000000000008000000000000000c00000000000000000000000000000001000000000000000200"
      "0000000000000300000000000000");
}

TEST_F(MegatronTest, ReadsWhatPrepareWrites) {
  const std::filesystem::path model =
      BASIN_SOURCE_DIR "/tests/golden/sink-effect-none/tokenizer.model";
  const std::vector<std::string> texts = {
      "We hold these truths.\n", "Über den Fluß, 日本 and \xF0\x9F\x98\x80.", "A third text."};
  for (size_t i = 0; i < texts.size(); ++i) {
    std::filesystem::create_directories(root_ / "text");
    write_file(root_ / "text" / (std::to_string(i) + ".txt"), texts[i]);
  }
  ASSERT_EQ(shell(program() + " prepare --input '" + (root_ / "text").string() + "' --out '" +
                  (root_ / "corpus").string() + "' --tokenizer '" + model.string() +
                  "' --holdout 2.txt >'" + (root_ / "out").string() + "' 2>'" +
                  (root_ / "err").string() + "'"),
            0)
      << error_text();
  const Tokenizer tokenizer = Tokenizer::load(model);
  const auto expected = [&](size_t i) {
    std::vector<int32_t> ids = tokenizer.encode(texts[i]);
    ids.push_back(static_cast<int32_t>(tokenizer.eos_id()));
    return std::vector<int64_t>(ids.begin(), ids.end());
  };
  const nlohmann::json train = read_elsewhere("corpus_train");
  EXPECT_EQ(train.at("dtype"), "uint16");
  EXPECT_EQ(train.at("documents"), (Documents{expected(0), expected(1)}));
  EXPECT_EQ(read_elsewhere("corpus_heldout").at("documents"), Documents{expected(2)});
}

TEST_F(MegatronTest, TrainsOnDatasetsWrittenElsewhere) {
  RunConfig config = tiny_config("ours");
  config.train.steps = 30;
  ASSERT_EQ(train(config, ""), 0) << error_text();
  const std::vector<double> expected = losses("ours");
  EXPECT_LT(expected.back(), expected.front() - 0.5);
  for (const std::string dtype : {"uint16", "int32"}) {
    SCOPED_TRACE(dtype);
    write_elsewhere(dtype, dtype, cut_up("train"));
    config.run.dir = (root_ / ("run-" + dtype)).string();
    config.data.train[0].path = (root_ / dtype).string();
    ASSERT_EQ(train(config, ""), 0) << error_text();
    EXPECT_EQ(losses("run-" + dtype), expected);
  }
}

}  // namespace
}  // namespace basin
