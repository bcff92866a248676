#include "data/prepare.h"

#include <atomic>
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>

#include "data/byte_alphabet.h"
#include "data/ordered_pipeline.h"
#include "data/tokenizer.h"
#include "tests/data/data_fixture.h"

namespace basin {
namespace {

class PrepareTest : public ::testing::Test {
 protected:
  void SetUp() override {
    for (int i = 0; i < 6; ++i) {
      texts_.push_back(invented_text(i, 3000 + 500 * i));
      folder_.write("in/text-" + std::to_string(i) + ".txt", texts_.back());
    }
    std::string lines;
    for (int i = 0; i < 300; ++i) {
      texts_.push_back(invented_text(100 + i, 20));
      lines += nlohmann::json{{"text", texts_.back()}}.dump() + "\n";
    }
    folder_.write("in/web.jsonl", lines);
    options_.inputs = {(folder_ / "in").string()};
    options_.prefix = folder_ / "out/demo";
    options_.vocab_size = 384;
    options_.threads = 2;
  }
  std::map<std::string, std::string> output() const {
    std::map<std::string, std::string> files;
    if (std::filesystem::exists(folder_ / "out")) {
      for (const auto& entry : std::filesystem::directory_iterator(folder_ / "out")) {
        files[entry.path().filename().string()] = read_file(entry.path());
      }
    }
    return files;
  }

  TemporaryFolder folder_;
  std::vector<std::string> texts_;  // in the order of the input
  PrepareOptions options_;
};

TEST_F(PrepareTest, EveryDocumentDecodesToItsTextAndEnds) {
  const PrepareResult result = prepare(options_);
  const IndexedDataset train(folder_ / "out/demo_train");
  const Tokenizer tokenizer = Tokenizer::load(folder_ / "out/demo.model");
  ASSERT_EQ(train.num_documents(), static_cast<int64_t>(texts_.size()));
  int64_t bytes = 0;
  for (int64_t i = 0; i < train.num_documents(); ++i) {
    const auto [begin, end] = train.document(i);
    std::vector<int64_t> tokens(end - begin);
    train.read(begin, tokens);
    ASSERT_EQ(tokens.back(), kEosId);
    ASSERT_EQ(tokenizer.decode(std::vector<int32_t>(tokens.begin(), tokens.end())), texts_[i]);
    bytes += static_cast<int64_t>(texts_[i].size());
  }
  EXPECT_EQ(result.sidecar.train.documents, train.num_documents());
  EXPECT_EQ(result.sidecar.train.tokens, train.num_tokens());
  EXPECT_EQ(result.sidecar.train.bytes, bytes);
  EXPECT_FALSE(result.sidecar.heldout);
  EXPECT_EQ(output().size(), 4);  // model, json, bin, idx
  const auto info = find_dataset_info(folder_ / "out/demo_train");
  ASSERT_TRUE(info);
  EXPECT_EQ(info->vocab_size, 384);
  EXPECT_EQ(info->tokenizer_hash, tokenizer.hash());
  EXPECT_EQ(info->tokenizer_path, folder_ / "out/demo.model");
  EXPECT_FALSE(find_dataset_info(folder_ / "out/demo"));
  EXPECT_FALSE(find_dataset_info(folder_ / "out/other_train"));
}

TEST_F(PrepareTest, OutputDoesNotDependOnThreadsOrRuns) {
  options_.holdout = {"0.1"};
  options_.sample_bytes = 60'000;  // less than there is, so that lines are drawn
  options_.threads = 1;
  prepare(options_);
  const auto one = output();
  std::filesystem::remove_all(folder_ / "out");
  options_.threads = 4;
  prepare(options_);
  EXPECT_EQ(output(), one);
  ASSERT_EQ(one.size(), 6);
}

TEST_F(PrepareTest, HoldsOutByGlobOnFiles) {
  options_.holdout = {"text-1*", "text-4"};  // a name, a stem
  const PrepareResult result = prepare(options_);
  EXPECT_EQ(result.sidecar.heldout->documents, 2);
  EXPECT_EQ(result.sidecar.heldout->bytes,
            static_cast<int64_t>(texts_[1].size() + texts_[4].size()));
  EXPECT_EQ(IndexedDataset(folder_ / "out/demo_heldout").num_documents(), 2);
  EXPECT_EQ(result.sidecar.train.documents, static_cast<int64_t>(texts_.size()) - 2);
  options_.holdout = {"*in/text-2.txt"};  // a path
  EXPECT_EQ(prepare(options_).sidecar.heldout->documents, 1);
  options_.holdout = {"web"};
  EXPECT_EQ(prepare(options_).sidecar.heldout->documents, 300);
}

TEST_F(PrepareTest, HoldsOutAFractionOfTheDocuments) {
  options_.holdout = {"0.2"};
  const PrepareResult first = prepare(options_);
  EXPECT_NEAR(
      first.sidecar.heldout->documents, 0.2 * texts_.size(), 5 * std::sqrt(0.16 * texts_.size()));
  EXPECT_EQ(first.sidecar.heldout->documents + first.sidecar.train.documents,
            static_cast<int64_t>(texts_.size()));
  options_.seed = 2;
  const auto before = output();
  prepare(options_);
  EXPECT_NE(output().at("demo_heldout.bin"), before.at("demo_heldout.bin"));
}

TEST_F(PrepareTest, AFractionOfTxtFilesIsExactAndALoneFileIsSplit) {
  options_.inputs = {(folder_ / "in/*.txt").string()};
  options_.holdout = {"0.3"};
  EXPECT_EQ(prepare(options_).sidecar.heldout->documents, 2);  // of 6
  options_.holdout = {"0.001"};
  EXPECT_EQ(prepare(options_).sidecar.heldout->documents, 1);
  options_.inputs = {(folder_ / "in/text-5.txt").string()};
  options_.holdout = {"0.25"};
  const PrepareResult lone = prepare(options_);
  EXPECT_EQ(lone.sidecar.train.bytes + lone.sidecar.heldout->bytes,
            static_cast<int64_t>(texts_[5].size()));
  EXPECT_NEAR(lone.sidecar.heldout->bytes, 0.25 * texts_[5].size(), 300);
  const std::vector<int64_t> tokens = all_tokens(IndexedDataset(folder_ / "out/demo_heldout"));
  const std::string text = Tokenizer::load(folder_ / "out/demo.model")
                               .decode(std::vector<int32_t>(tokens.begin(), tokens.end()));
  EXPECT_TRUE(texts_[5].ends_with(text));
  EXPECT_EQ(texts_[5][texts_[5].size() - text.size() - 1], '\n') << "cut at the end of a line";
}

// The tokenizer must not have seen held-out text.
TEST_F(PrepareTest, TheTokenizerLearnsFromTrainingTextAlone) {
  options_.holdout = {"text-0*"};
  prepare(options_);
  const std::string model = output().at("demo.model");
  folder_.write("in/text-0.txt", "zzzz qqqq jjjj " + invented_text(55, 9000));
  EXPECT_FALSE(prepare(options_).up_to_date);
  EXPECT_EQ(output().at("demo.model"), model);
}

TEST_F(PrepareTest, ASecondRunIsUpToDateUntilSomethingChanges) {
  EXPECT_FALSE(prepare(options_).up_to_date);
  const PrepareResult again = prepare(options_);
  EXPECT_TRUE(again.up_to_date);
  EXPECT_EQ(again.sidecar.train.documents, static_cast<int64_t>(texts_.size()));
  options_.threads = 3;
  EXPECT_TRUE(prepare(options_).up_to_date) << "threads change nothing";
  folder_.write("in/text-0.txt", texts_[0]);
  EXPECT_TRUE(prepare(options_).up_to_date) << "the same content with a new time";
  std::string changed = texts_[0];
  changed[5] = changed[5] == 'a' ? 'b' : 'a';
  folder_.write("in/text-0.txt", changed);
  EXPECT_FALSE(prepare(options_).up_to_date) << "the same size with another content";
  std::filesystem::resize_file(folder_ / "out/demo_train.bin", 100);
  EXPECT_FALSE(prepare(options_).up_to_date) << "damaged output";
  options_.vocab_size = 512;
  EXPECT_FALSE(prepare(options_).up_to_date) << "another option";
  folder_.write("in/more.txt", "more");
  EXPECT_FALSE(prepare(options_).up_to_date) << "another file";
  EXPECT_TRUE(prepare(options_).up_to_date);
}

TEST_F(PrepareTest, AnOldHeldOutPartDoesNotSurvive) {
  options_.holdout = {"text-1*"};
  prepare(options_);
  options_.holdout.clear();
  prepare(options_);
  EXPECT_EQ(output().count("demo_heldout.bin"), 0);
  EXPECT_EQ(output().count("demo_heldout.idx"), 0);
}

TEST_F(PrepareTest, ReplacesOnlyWhatItWrote) {
  for (const char* name : {"demo.json", "demo.model", "demo_train.bin"}) {
    const std::filesystem::path foreign = folder_.write(std::string("out/") + name, "{\"a\": 1}");
    expect_contains(message_of<std::invalid_argument>([&] { prepare(options_); }),
                    foreign.string() + " is there, and no");
    EXPECT_EQ(output().size(), 1u);
    EXPECT_EQ(read_file(foreign), "{\"a\": 1}");
    std::filesystem::remove(foreign);
  }
  folder_.write("out/demo.json", "{}");
  options_.force = true;
  EXPECT_FALSE(prepare(options_).up_to_date);
  options_.force = false;
  EXPECT_TRUE(prepare(options_).up_to_date);
  folder_.write("out/demo.json", "{\"format\": \"basin-dataset-1\", torn");
  EXPECT_FALSE(prepare(options_).up_to_date) << "damaged, but its own";
}

TEST_F(PrepareTest, WhatWasCutShortIsKnown) {
  prepare(options_);
  const std::filesystem::path train = folder_ / "out/demo_train";
  const auto problem = [&] { return message_of<std::runtime_error>([&] { find_dataset_info(train); }); };
  write_file(folder_ / "out/demo.json", unfinished_sidecar());
  expect_contains(problem(), "left by a `basin prepare` that was cut short");
  std::filesystem::remove(folder_ / "out/demo.json");
  expect_contains(problem(), "demo.model is there and");
  write_file(folder_ / "out/demo.json", unfinished_sidecar());
  folder_.write("out/demo_train.bin.tmp.999999999", "rest");
  EXPECT_FALSE(prepare(options_).up_to_date);
  EXPECT_EQ(output().size(), 4u) << "the rest is gone";
  EXPECT_TRUE(find_dataset_info(train));
}

TEST_F(PrepareTest, TakesAGivenTokenizer) {
  prepare(options_);
  PrepareOptions other = options_;
  other.tokenizer = folder_ / "out/demo.model";
  other.vocab_size = 0;
  other.prefix = folder_ / "out/other";
  prepare(other);
  EXPECT_EQ(output().at("other.model"), output().at("demo.model"));
  EXPECT_EQ(output().at("other_train.bin"), output().at("demo_train.bin"));
  other.vocab_size = 512;
  expect_contains(message_of<std::invalid_argument>([&] { prepare(other); }), "has 384 pieces");
}

TEST_F(PrepareTest, TakesATokenizerJson) {
  nlohmann::json vocabulary;
  for (int byte = 0; byte < 256; ++byte) {
    vocabulary[byte_characters()[byte]] = byte;
  }
  const nlohmann::json end = {{"id", 256}, {"content", "<|endoftext|>"}, {"special", true}},
                       other = {{"id", 257}, {"content", "<|other|>"}, {"special", true}},
                       bytes = {{"type", "ByteLevel"}, {"add_prefix_space", false}},
                       model = {{"vocab", vocabulary}, {"merges", nlohmann::json::array()}};
  const nlohmann::json tokenizer = {{"added_tokens", nlohmann::json::array({end, other})},
                                    {"pre_tokenizer", bytes},
                                    {"decoder", {{"type", "ByteLevel"}}},
                                    {"post_processor", bytes},
                                    {"model", model}};
  options_.vocab_size = 0;
  options_.tokenizer = folder_.write("foreign/tokenizer.json", tokenizer.dump());
  prepare(options_);
  EXPECT_TRUE(prepare(options_).up_to_date);
  const IndexedDataset train(folder_ / "out/demo_train");
  const auto [first, last] = train.document(0);
  std::vector<int64_t> tokens(last - first);
  train.read(first, tokens);
  const Tokenizer used = Tokenizer::load(folder_ / "out/demo.model");
  EXPECT_EQ(tokens.back(), 256);
  EXPECT_EQ(used.decode(std::vector<int32_t>(tokens.begin(), tokens.end())), texts_[0]);
  EXPECT_EQ(find_dataset_info(folder_ / "out/demo_train")->tokenizer_hash, used.hash());
  folder_.write("foreign/tokenizer_config.json", R"({"eos_token": "<|other|>"})");
  EXPECT_FALSE(prepare(options_).up_to_date) << "another token ends the documents";
  EXPECT_EQ(all_tokens(IndexedDataset(folder_ / "out/demo_train")).back(), 257);
  EXPECT_TRUE(prepare(options_).up_to_date);
}

TEST_F(PrepareTest, OptionsMayHoldBytesThatAreNoText) {
  folder_.write("in/caf\xE9.txt", "text");
  options_.holdout = {"caf\xE9"};
  EXPECT_EQ(prepare(options_).sidecar.heldout->documents, 1);
}

TEST_F(PrepareTest, RefusesOptionsThatCannotBeMet) {
  const auto message = [&](auto change) {
    PrepareOptions options = options_;
    change(options);
    return message_of<std::invalid_argument>([&] { prepare(options); });
  };
  expect_contains(message([](auto& o) { o.holdout = {"1.5"}; }), "between 0 and 1");
  expect_contains(message([](auto& o) { o.holdout = {"nothing*"}; }),
                  "matches none of the 7 input files");
  expect_contains(message([](auto& o) { o.holdout = {"*"}; }), "leaves no file for training");
  expect_contains(message([](auto& o) { o.holdout = {"0.000001"}; }),
                  "holds out none of the 306 documents");
  expect_contains(message([](auto& o) { o.vocab_size = 0; }), "--vocab-size");
  expect_contains(message([](auto& o) { o.vocab_size = 400; }), "nearest: 384 or 512");
  expect_contains(message([](auto& o) { o.vocab_size = 65536; }), "supports at most");
  expect_contains(message([&](auto& o) { o.prefix = folder_ / "in"; }), "is a folder");
  EXPECT_TRUE(output().empty()) << "a refused run leaves nothing";
  options_.prefix = "/proc/nowhere/demo";
  expect_contains(message_of<std::runtime_error>([&] { prepare(options_); }),
                  "cannot write into /proc/nowhere");
}

TEST_F(PrepareTest, BadInputLeavesNothingBehindAndTheOldOutputWhole) {
  prepare(options_);
  const auto before = output();
  folder_.write("in/z.jsonl", "{\"text\": \"fine\"}\n{broken\n");
  expect_contains(message_of<std::runtime_error>([&] { prepare(options_); }), "z.jsonl:2");
  PrepareOptions given = options_;
  given.tokenizer = folder_ / "out/demo.model";  // the error comes when output is half written
  given.prefix = folder_ / "out/given";
  expect_contains(message_of<std::runtime_error>([&] { prepare(given); }), "z.jsonl:2");
  EXPECT_EQ(output(), before);
  options_.inputs = {folder_.write("empty.txt", "")};
  expect_contains(message_of<std::runtime_error>([&] { prepare(options_); }),
                  "no text to train on");
}

TEST_F(PrepareTest, CountsWhatItChanged) {
  folder_.write("in/odd.txt", "a text with one bad byte \xFF and one \u2581 in it");
  folder_.write("in/zero.txt", "");
  const PrepareResult result = prepare(options_);
  EXPECT_EQ(result.sidecar.replaced_sequences, 1);
  EXPECT_EQ(result.sidecar.literal_u2581, 1);
  EXPECT_EQ(result.sidecar.empty_documents, 1);
}

TEST(OrderedPipeline, KeepsTheOrderAndTheBound) {
  OrderedPipeline<int, int> pipeline;
  int produced = 0;
  std::atomic<int> written = 0, largest_gap = 0;
  pipeline.next = [&]() -> std::optional<int> {
    largest_gap = std::max(largest_gap.load(), produced - written.load());
    return produced < 500 ? std::optional(produced++) : std::nullopt;
  };
  pipeline.work = [](int i, int) {
    std::this_thread::sleep_for(std::chrono::microseconds(keyed_hash(1, i, 0) % 300));
    return i * i;
  };
  pipeline.write = [&](int square) {
    const int i = written++;
    ASSERT_EQ(square, i * i);
  };
  pipeline.threads = 3;
  pipeline.run();
  EXPECT_EQ(written.load(), 500);
  EXPECT_LE(largest_gap.load(), 2 * 3 + 2 + 2);
}

TEST(OrderedPipeline, BoundsBytesButLetsOneLargeInputPass) {
  OrderedPipeline<int, int> pipeline;
  int produced = 0;
  std::atomic<int> written = 0, largest_gap = 0;
  pipeline.next = [&]() -> std::optional<int> {
    largest_gap = std::max(largest_gap.load(), produced - written.load());
    return produced < 50 ? std::optional(produced++) : std::nullopt;
  };
  pipeline.bytes = [](const int& i) { return size_t{i == 7 ? 1000u : 60u}; };
  pipeline.max_bytes = 100;
  pipeline.work = [](int i, int) { return i; };
  pipeline.write = [&](int) { ++written; };
  pipeline.threads = 4;
  pipeline.run();
  EXPECT_EQ(written.load(), 50);
  EXPECT_LE(largest_gap.load(), 1 + 1 + 1);  // in order_, waiting for room, being written
}

TEST(OrderedPipeline, ThrowsTheFirstFailureInOrder) {
  for (int round = 0; round < 20; ++round) {
    OrderedPipeline<int, int> pipeline;
    int produced = 0, written = 0;
    pipeline.next = [&]() -> std::optional<int> { return produced++; };  // never ends
    pipeline.work = [](int i, int) {
      if (i >= 40) {
        throw std::runtime_error("input " + std::to_string(i));
      }
      return i;
    };
    pipeline.write = [&](int) { ++written; };
    pipeline.threads = 4;
    EXPECT_EQ(message_of<std::runtime_error>([&] { pipeline.run(); }), "input 40");
    EXPECT_EQ(written, 40);
  }
}

}  // namespace
}  // namespace basin
