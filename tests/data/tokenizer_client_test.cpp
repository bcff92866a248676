// Ids and texts of the `tokenizers` package, from small tokenizers of every kind that it has
// trained.
#include <gtest/gtest.h>

#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <string>
#include <vector>

#include "configs/files.h"
#include "data/tokenizer.h"
#include "infer/utf8.h"
#include "tests/data/data_fixture.h"
#include "tests/support/clients.h"

namespace basin {
namespace {

namespace fs = std::filesystem;

/// Rows of a file that make_tokenizers.py wrote.
std::vector<std::string> read_rows(const fs::path& path, size_t item_bytes) {
  const std::string bytes = read_file(path);
  size_t at = 0;
  const auto number = [&] {
    uint32_t value = 0;
    std::memcpy(&value, bytes.data() + at, sizeof(value));
    at += sizeof(value);
    return value;
  };
  std::vector<std::string> rows(number());
  for (std::string& row : rows) {
    const size_t size = number() * item_bytes;
    row = bytes.substr(at, size);
    at += size;
  }
  EXPECT_EQ(at, bytes.size());
  return rows;
}

std::vector<std::string> read_texts(const fs::path& path) {
  return read_rows(path, 1);
}

std::vector<std::vector<int32_t>> read_ids(const fs::path& path) {
  std::vector<std::vector<int32_t>> lists;
  for (const std::string& row : read_rows(path, sizeof(int32_t))) {
    lists.emplace_back(row.size() / sizeof(int32_t));
    std::memcpy(lists.back().data(), row.data(), row.size());
  }
  return lists;
}

/// The text as it comes out piece by piece; fails when a part of it ends inside a character.
std::string streamed(const Tokenizer& tokenizer, const std::vector<int32_t>& ids) {
  Utf8Stream characters;
  std::string text;
  for (const int32_t id : ids) {
    std::string part = characters.push(tokenizer.decode({&id, 1}));
    EXPECT_EQ(sanitize_utf8(part), 0);
    text += part;
  }
  return text + characters.finish();
}

class TokenizersPackage : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    const std::string python = python_of("clients");
    if (python.empty())
      GTEST_SKIP() << "no tokenizers package: 'bash configs/setup.sh --clients' installs it";
    const std::string command =
        "OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false " +
        script_line(python,
                    "data/make_tokenizers.py",
                    "'" + (folder_ / "made").string() + "' " + GetParam() + " >'" +
                        (folder_ / "log").string() + "' 2>&1");
    ASSERT_EQ(std::system(command.c_str()), 0) << read_file(folder_ / "log");
    path_ = folder_ / "made" / GetParam();
    tokenizer_.emplace(Tokenizer::load(path_ / "tokenizer.json"));
  }

  TemporaryFolder folder_;
  fs::path path_;
  std::optional<Tokenizer> tokenizer_;
};

TEST_P(TokenizersPackage, GivesTheSameIdsAndTexts) {
  const std::vector<std::string> texts = read_texts(path_ / "texts"),
                                 decoded = read_texts(path_ / "decoded");
  const std::vector<std::vector<int32_t>> expected = read_ids(path_ / "ids"),
                                          full = read_ids(path_ / "full");
  ASSERT_GE(texts.size(), 3000);
  ASSERT_EQ(texts.size(), expected.size());
  EncodeCache cache;
  int wrong = 0;
  for (size_t i = 0; i < texts.size() && wrong < 5; ++i) {
    const std::vector<int32_t> ids = tokenizer_->encode(texts[i]);
    wrong += ids != expected[i];
    EXPECT_EQ(ids, expected[i]) << i << ": " << texts[i];
    std::vector<int32_t> cached;
    tokenizer_->encode(texts[i], cache, cached);
    EXPECT_EQ(cached, ids) << i << ": " << texts[i];
    const std::string text = tokenizer_->decode_text(ids);
    wrong += text != decoded[i];
    EXPECT_EQ(text, decoded[i]) << i;
    std::string at_once = tokenizer_->decode(ids);
    int64_t bytes = 0;
    for (const int32_t id : ids) bytes += tokenizer_->piece_bytes(id);
    EXPECT_EQ(bytes, static_cast<int64_t>(at_once.size()));
    sanitize_utf8(at_once);
    EXPECT_EQ(streamed(*tokenizer_, ids), at_once) << texts[i];
    if (i < full.size()) {
      std::vector<int32_t> all(tokenizer_->prepended_ids().begin(),
                               tokenizer_->prepended_ids().end());
      all.insert(all.end(), ids.begin(), ids.end());
      all.insert(all.end(), tokenizer_->appended_ids().begin(), tokenizer_->appended_ids().end());
      EXPECT_EQ(all, full[i]);
    }
  }
  const std::vector<std::vector<int32_t>> wild = read_ids(path_ / "random_ids");
  const std::vector<std::string> wild_texts = read_texts(path_ / "random_text");
  ASSERT_EQ(wild.size(), 1000);
  for (size_t i = 0; i < wild.size(); ++i) {
    ASSERT_EQ(tokenizer_->decode_text(wild[i]), wild_texts[i]) << i;
    std::string at_once = tokenizer_->decode(wild[i]);
    sanitize_utf8(at_once);
    ASSERT_EQ(streamed(*tokenizer_, wild[i]), at_once);
  }
}

INSTANTIATE_TEST_SUITE_P(Kinds,
                         TokenizersPackage,
                         ::testing::Values("gpt_neox",
                                           "gpt2_prefix",
                                           "llama3",
                                           "qwen2",
                                           "falcon",
                                           "llama2",
                                           "llama2_v5",
                                           "mistral",
                                           "metaspace",
                                           "removed",
                                           "previous",
                                           "next",
                                           "contiguous"),
                         [](const auto& kind) { return std::string(kind.param); });

}  // namespace
}  // namespace basin
