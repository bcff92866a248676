#include "data/bpe_model.h"

#include <fmt/format.h>
#include <gmock/gmock.h>

#include <chrono>
#include <limits>
#include <map>

#include "configs/json_text.h"
#include "data/encode_cache.h"
#include "tests/data/data_fixture.h"

namespace basin {
namespace {

using ::testing::ElementsAre;
using Ids = std::vector<int32_t>;

BpeModel parse(const std::string& json, bool word_bytes = false) {
  const nlohmann::json document = parse_untrusted_json(json, "f");
  return BpeModel::parse(JsonPlace(document, "f"), word_bytes);
}

Ids encode(const BpeModel& model, const std::string& word) {
  BpeModel::Work work;
  Ids ids, cached;
  model.encode(word, work, nullptr, ids);
  static constexpr int kTwice = 2;  // the second time from the cache
  EncodeCache cache;
  for (int i = 0; i < kTwice; ++i) {
    cached.clear();
    model.encode(word, work, &cache, cached);
    EXPECT_EQ(cached, ids);
  }
  return ids;
}

const char* const kSmall = R"("vocab": {"a": 0, "b": 1, "c": 2, "ab": 3, "bc": 4, "abc": 5, "?": 6},
                              "merges": ["b c", ["a", "b"], "a bc"])";

TEST(BpeModel, MergesByRankThenFromTheLeft) {
  const BpeModel model = parse(std::string("{") + kSmall + "}");
  EXPECT_THAT(encode(model, "abc"), ElementsAre(5));
  EXPECT_THAT(encode(model, "abab"), ElementsAre(3, 3));
  EXPECT_THAT(encode(model, "aabcb"), ElementsAre(0, 5, 1));
  const BpeModel pairs = parse(R"({"vocab": {"a": 0, "aa": 1}, "merges": ["a a"]})");
  EXPECT_THAT(encode(pairs, "aaaaa"), ElementsAre(1, 1, 0));
}

TEST(BpeModel, TakesWholeWordsWhereMergesAreIgnored) {
  const char* const word = R"("vocab": {"a": 0, "b": 1, "ab": 2, "aba": 3}, "merges": ["a b"])";
  EXPECT_THAT(encode(parse(std::string("{") + word + "}"), "aba"), ElementsAre(2, 0));
  const BpeModel model = parse(std::string(R"({"ignore_merges": true, )") + word + "}");
  EXPECT_THAT(encode(model, "aba"), ElementsAre(3));
  EXPECT_THAT(encode(model, "abaa"), ElementsAre(2, 0, 0));
}

TEST(BpeModel, SpellsUnknownCharacters) {
  const std::string unknown = R"({"unk_token": "?", )" + std::string(kSmall) + "}";
  EXPECT_THAT(encode(parse(std::string("{") + kSmall + "}"), "aéb"), ElementsAre(3));  // dropped
  EXPECT_THAT(encode(parse(unknown), "éxa"), ElementsAre(6, 6, 0));
  EXPECT_THAT(encode(parse(R"({"fuse_unk": true, )" + unknown.substr(1)), "éxa"),
              ElementsAre(6, 0));
  const BpeModel bytes = parse(
      R"({"byte_fallback": true, "unk_token": "?", "vocab": {"?": 0, "<0xC3>": 1, "<0xA9>": 2}, "merges": []})");
  EXPECT_THAT(encode(bytes, "éè"), ElementsAre(1, 2, 0));
  EXPECT_THAT(encode(bytes, "èé"), ElementsAre(1, 2, 0));  // the package's order
}

TEST(BpeModel, ReadsBytesOfWords) {
  const BpeModel model = parse(R"({"vocab": {"Ġ": 0, "a": 1, "Ġa": 2, "Ã": 3, "©": 4, "Ã©": 5},
                                   "merges": ["Ġ a", "Ã ©"]})",
                               true);
  EXPECT_THAT(encode(model, " aé"), ElementsAre(2, 5));
}

/// All byte pieces, letters, and what a few rounds of merging make of "abcdefgh".
std::string complete_vocabulary() {
  nlohmann::json vocab, merges = nlohmann::json::array();
  for (int byte = 0; byte < 256; ++byte) vocab[fmt::format("<0x{:02X}>", byte)] = byte;
  std::vector<std::string> tokens = {"a", "b", "c", "d", "e", "f", "g", "h", "▁"};
  for (const std::string& token : tokens) vocab[token] = vocab.size();
  for (uint64_t i = 0; i < 150; ++i) {
    const std::string left = tokens[keyed_hash(1, i, 0) % tokens.size()],
                      right = tokens[keyed_hash(1, i, 1) % 8];
    if (left.size() + right.size() > 6 || vocab.contains(left + right)) continue;
    vocab[left + right] = vocab.size();
    merges.push_back({left, right});
    tokens.push_back(left + right);
  }
  return nlohmann::json{{"byte_fallback", true}, {"vocab", vocab}, {"merges", merges}}.dump();
}

/// The definition: again and again the leftmost of the pairs with the smallest rank.
Ids merge_slowly(const nlohmann::json& model, const std::string& text) {
  std::vector<std::string> parts;
  for (size_t i = 0; i < text.size();) {
    const size_t length = text[i] == '\xE2' ? 3 : 1;
    parts.push_back(text.substr(i, length));
    i += length;
  }
  std::map<std::pair<std::string, std::string>, size_t> ranks;
  for (const auto& merge : model["merges"])
    ranks.emplace(std::pair(merge[0], merge[1]), ranks.size());
  for (;;) {
    size_t best = std::numeric_limits<size_t>::max(), at = 0;
    for (size_t i = 0; i + 1 < parts.size(); ++i) {
      const auto found = ranks.find({parts[i], parts[i + 1]});
      if (found != ranks.end() && found->second < best) {
        best = found->second;
        at = i;
      }
    }
    if (best == std::numeric_limits<size_t>::max()) break;
    parts[at] += parts[at + 1];
    parts.erase(parts.begin() + static_cast<std::ptrdiff_t>(at) + 1);
  }
  Ids ids;
  for (const std::string& part : parts) ids.push_back(model["vocab"][part]);
  return ids;
}

// Long words fall into stretches that are encoded on their own; the ids are those of the whole.
TEST(BpeModel, CutsLongWordsWithoutATrace) {
  const std::string json = complete_vocabulary();
  const BpeModel model = parse(json);
  const nlohmann::json document = nlohmann::json::parse(json);
  for (uint64_t i = 0; i < 300; ++i) {
    std::string word;
    for (uint64_t j = 0; j < 10 + i; ++j) {
      const uint64_t draw = keyed_hash(2, i, j) % 11;
      word += draw < 8 ? std::string(1, static_cast<char>('a' + draw)) : "▁";
    }
    ASSERT_EQ(encode(model, word), merge_slowly(document, word)) << word;
  }
}

// With a quadratic search this would take minutes.
TEST(BpeModel, EncodesVeryLongWordsQuickly) {
  const BpeModel model =
      parse(R"({"vocab": {"a": 0, "aa": 1, "aaaa": 2}, "merges": ["a a", "aa aa"]})");
  BpeModel::Work work;
  Ids ids;
  const auto started = std::chrono::steady_clock::now();
  model.encode(std::string(2'000'000, 'a'), work, nullptr, ids);
  EXPECT_LT(std::chrono::steady_clock::now() - started, std::chrono::seconds(30));
  EXPECT_EQ(ids, Ids(500'000, 2));
}

TEST(BpeModel, RefusesByName) {
  const auto refusal = [](const std::string& json) {
    return message_of<std::runtime_error>([&] { parse(json); });
  };
  const auto with = [](const std::string& more) {
    return "{" + more + R"(, "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": ["a b"]})";
  };
  EXPECT_EQ(refusal(with(R"("type": "Unigram")")),
            "f: type: models of type Unigram are not supported, only BPE");
  EXPECT_EQ(refusal(with(R"("continuing_subword_prefix": "##")")),
            "f: continuing_subword_prefix: is not supported");
  EXPECT_EQ(refusal(with(R"("dropout": 0.1)")), "f: dropout: encoding at random is not supported");
  EXPECT_EQ(refusal(with(R"("unk_token": "<unk>")")),
            "f: unk_token: \"<unk>\" is not in the vocabulary");
  EXPECT_EQ(refusal(R"({"merges": []})"), "f: vocab: is missing");
  EXPECT_EQ(refusal(R"({"vocab": {"a": 0, "b": 0}, "merges": []})"),
            "f: vocab: \"a\" and \"b\" have the same id 0");
  EXPECT_EQ(refusal(R"({"vocab": {"a": 99999999}, "merges": []})"),
            "f: vocab.a: expected 0 to 65537, found 99999999");
  EXPECT_EQ(refusal(R"({"vocab": {"a": 0.5}, "merges": []})"),
            "f: vocab.a: expected an integer, found number");
  EXPECT_EQ(refusal(R"({"vocab": {"a": 0, "b": 1}, "merges": ["a b"]})"),
            "f: merges[0]: \"ab\" is not in the vocabulary");
  EXPECT_EQ(refusal(R"({"vocab": {"a": 0, "aa": 1}, "merges": ["a a", "c a"]})"),
            "f: merges[1]: \"c\" is not in the vocabulary");
  expect_contains(refusal(R"({"vocab": {"a": 0, "aa": 1}, "merges": ["a a", ["a"]]})"),
                  "f: merges[1]: expected two pieces");
  expect_contains(refusal(R"({"vocab": {"a": 0}, "merges": ["a a a"]})"),
                  "f: merges[0]: expected two pieces");
}

}  // namespace
}  // namespace basin
