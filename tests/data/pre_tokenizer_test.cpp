#include "data/pre_tokenizer.h"

#include <gmock/gmock.h>

#include "configs/json_text.h"
#include "data/text_normalizer.h"
#include "tests/data/data_fixture.h"

namespace basin {
namespace {

using ::testing::ElementsAre;
using Words = std::vector<std::string>;

template <class Part>
Part parse(const std::string& json) {
  const nlohmann::json document = parse_untrusted_json(json, "f");
  return Part::parse(JsonPlace(document, "f"));
}

Words words(const std::string& json, const std::string& text, bool at_start = true) {
  Words found;
  parse<PreTokenizer>(json).cut(
      text, at_start, [&](std::string_view word) { found.emplace_back(word); });
  return found;
}

Words split(const std::string& behavior, const std::string& text, const char* invert = "false") {
  return words(R"({"type": "Split", "pattern": {"String": "-"}, "behavior": ")" + behavior +
                   R"(", "invert": )" + invert + "}",
               text);
}

// The package's own documentation of its behaviours.
TEST(PreTokenizer, SplitsInFiveWays) {
  const std::string text = "the-final--countdown";
  EXPECT_THAT(split("Removed", text), ElementsAre("the", "final", "countdown"));
  EXPECT_THAT(split("Isolated", text), ElementsAre("the", "-", "final", "-", "-", "countdown"));
  EXPECT_THAT(split("MergedWithPrevious", text), ElementsAre("the-", "final-", "-", "countdown"));
  EXPECT_THAT(split("MergedWithNext", text), ElementsAre("the", "-final", "-", "-countdown"));
  EXPECT_THAT(split("Contiguous", text), ElementsAre("the", "-", "final", "--", "countdown"));
  EXPECT_THAT(split("Removed", text, "true"), ElementsAre("-", "-", "-"));
  EXPECT_THAT(split("MergedWithNext", "--"), ElementsAre("-", "-"));
  EXPECT_THAT(split("MergedWithPrevious", "--a"), ElementsAre("-", "-", "a"));
  EXPECT_THAT(split("Removed", ""), ElementsAre());
}

TEST(PreTokenizer, KnowsGpt2sWords) {
  EXPECT_THAT(words(R"({"type": "ByteLevel", "add_prefix_space": false})", "I'll go  12é!\n\n x"),
              ElementsAre("I", "'ll", " go", " ", " 12", "é", "!", "\n\n", " x"));
  EXPECT_THAT(
      words(R"({"type": "ByteLevel", "add_prefix_space": true, "use_regex": false})", "a b"),
      ElementsAre(" a b"));
  EXPECT_TRUE(
      parse<PreTokenizer>(R"({"type": "ByteLevel", "add_prefix_space": true})").gives_bytes());
}

// Letters and numbers since Unicode 15 count, as in the package: CJK Extension H, Kaktovik
// numerals.
TEST(PreTokenizer, KnowsNewerLettersAndNumbers) {
  EXPECT_THAT(words(R"({"type": "ByteLevel", "add_prefix_space": false})",
                    "a\U00031350!\U0001d2c0"
                    "1"),
              ElementsAre("a\U00031350",
                          "!",
                          "\U0001d2c0"
                          "1"));
}

// Behind ByteLevel others see its alphabet: here a superscript two that is a byte of "²".
TEST(PreTokenizer, MapsBytesForWhatFollows) {
  const char* const both = R"({"type": "Sequence", "pretokenizers": [
      {"type": "ByteLevel", "add_prefix_space": false}, {"type": "Digits", "individual_digits": true}]})";
  EXPECT_FALSE(parse<PreTokenizer>(both).gives_bytes());
  EXPECT_THAT(words(both, " a12 ²"), ElementsAre("Ġa", "1", "2", "ĠÂ", "²"));
}

TEST(PreTokenizer, PutsMetaspacesInFront) {
  const auto metaspace = [](const char* scheme, const char* text, bool at_start) {
    return words(R"({"type": "Metaspace", "replacement": "▁", "prepend_scheme": ")" +
                     std::string(scheme) + R"("})",
                 text,
                 at_start);
  };
  EXPECT_THAT(metaspace("always", "a b", false), ElementsAre("▁a", "▁b"));
  EXPECT_THAT(metaspace("always", " a", true), ElementsAre("▁a"));
  EXPECT_THAT(metaspace("first", "a  b", true), ElementsAre("▁a", "▁", "▁b"));
  EXPECT_THAT(metaspace("first", "a", false), ElementsAre("a"));
  EXPECT_THAT(metaspace("never", "a b", true), ElementsAre("a", "▁b"));
}

TEST(PreTokenizer, CutsAtPunctuationAndDigits) {
  EXPECT_THAT(words(R"({"type": "Punctuation", "behavior": "Contiguous"})", "a+-b。c"),
              ElementsAre("a", "+-", "b", "。", "c"));
  EXPECT_THAT(words(R"({"type": "Digits"})", "a12½b"), ElementsAre("a", "12½", "b"));
}

TEST(PreTokenizer, RefusesByName) {
  const auto refusal = [](const std::string& json) {
    return message_of<std::runtime_error>([&] { parse<PreTokenizer>(json); });
  };
  expect_contains(refusal(R"({"type": "Sequence", "pretokenizers": [{"type": "Whitespace"}]})"),
                  "f: pretokenizers[0]: the pre-tokenizer Whitespace is not supported");
  expect_contains(
      refusal(R"({"type": "Split", "pattern": {"Regex": "(a"}, "behavior": "Isolated"})"),
      "f: pattern: the regular expression \"(a\" is refused by Oniguruma: end pattern");
  expect_contains(
      refusal(R"({"type": "Split", "pattern": {"Regex": "a"}, "behavior": "Isolatet"})"),
      "f: behavior: the behaviour Isolatet is not known");
  expect_contains(
      refusal(R"({"type": "Split", "pattern": {"String": ""}, "behavior": "Isolated"})"),
      "an empty string cannot be searched for");
  expect_contains(refusal(R"({"type": "Metaspace", "replacement": "ab"})"),
                  "f: replacement: expected one character");
  expect_contains(refusal(R"({"type": "ByteLevel"})"), "f: add_prefix_space: is missing");
}

// A regular expression that backtracks without end stops with an error.
TEST(PreTokenizer, GivesUpOnRunawayExpressions) {
  expect_contains(
      message_of<std::runtime_error>([] {
        words(R"({"type": "Split", "pattern": {"Regex": "(a|aa)+[bd]"}, "behavior": "Isolated"})",
              std::string(60, 'a') + "c");
      }),
      "gave up on a text");
}

TEST(TextNormalizer, AppliesItsSteps) {
  const auto normalizer = parse<TextNormalizer>(R"({"type": "Sequence", "normalizers": [
      {"type": "NFC"}, {"type": "Prepend", "prepend": "▁"},
      {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
      {"type": "Replace", "pattern": {"Regex": "x+"}, "content": ""}]})");
  std::string storage;
  EXPECT_EQ(normalizer.apply("e\u0301 xx b", storage), "▁é▁▁b");
  EXPECT_EQ(normalizer.apply("", storage), "");
  expect_contains(
      message_of<std::runtime_error>([] { parse<TextNormalizer>(R"({"type": "Lowercase"})"); }),
      "f: the normalizer Lowercase is not supported");
}

}  // namespace
}  // namespace basin
