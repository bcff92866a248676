#include "data/unicode.h"

#include <gtest/gtest.h>

#include "data/byte_alphabet.h"

namespace basin {
namespace {

TEST(Nfc, ComposesAndOrdersMarks) {
  EXPECT_EQ(to_nfc("plain e\u0301"), "plain \u00e9");
  EXPECT_EQ(to_nfc("s\u0307\u0323"), "\u1e69");
  EXPECT_EQ(to_nfc("\u212b\u2126"), "\u00c5\u03a9");
  EXPECT_EQ(to_nfc("\u1112\u1161\u11ab\uae00"), "\ud55c\uae00");
  EXPECT_EQ(to_nfc("\u0958"), "\u0915\u093c");  // excluded from composition
  EXPECT_EQ(to_nfc("\u09c7\u09be"), "\u09cb");  // two that are no marks
  EXPECT_EQ(to_nfc("x\u0301日本\u0301"), "x\u0301日本\u0301");
  EXPECT_EQ(to_nfc(std::string("\0a", 2)), std::string("\0a", 2));
  EXPECT_EQ(to_nfc("\u0301e\u0301"), "\u0301\u00e9");
}

// tokenizers 0.23 follows Unicode 9 here: later marks stay where they are, and nothing is composed
// over them.
TEST(Nfc, LeavesNewerMarksAlone) {
  EXPECT_EQ(to_nfc("a\u1abf\u0323"), "a\u1abf\u0323");
  EXPECT_EQ(to_nfc("a\U00010efd\u0301"), "a\U00010efd\u0301");
}

// A quadratic sort would need minutes.
TEST(Nfc, IsLinearInARunOfMarks) {
  std::string text = "a", sorted = "a";
  constexpr int kMarks = 200'000;
  for (int i = 0; i < kMarks; ++i) text += i % 2 ? "\u0316" : "\u0300";  // classes 220 and 230
  for (int i = 0; i < kMarks / 2; ++i) sorted += "\u0316";
  EXPECT_EQ(to_nfc(text).substr(0, 8), "\u00e0\u0316\u0316\u0316");
  EXPECT_EQ(to_nfc(text).size(), text.size() - 1);
}

TEST(Unicode, ClassifiesAsThePackageDoes) {
  for (const char32_t c : U"0²½ⅷ٣\U00010d40")
    EXPECT_EQ(is_numeric(c), c != 0) << static_cast<uint32_t>(c);
  for (const char32_t c : U"a-語\u2460x") EXPECT_EQ(is_numeric(c), c == 0x2460);
  for (const char32_t c : U"!$+_^~¿«。\u166d") EXPECT_EQ(is_punctuation(c), c != 0);
  for (const char32_t c : U"a1 €\u2e52") EXPECT_FALSE(is_punctuation(c));
  for (const char32_t c : U"\t\n \u0085\u00a0\u3000") EXPECT_EQ(is_whitespace(c), c != 0);
  EXPECT_FALSE(is_whitespace(0x200b));
  for (const char32_t c : U"aé_9語\u0301\u200dⓐ") EXPECT_EQ(is_word_character(c), c != 0);
  for (const char32_t c : U"- .½\u20ac") EXPECT_FALSE(is_word_character(c));
}

TEST(Unicode, ReadsInvalidBytesOneByOne) {
  const std::string text = "\xff\xc3(\xe8\xaa\x9e\xf0\x9f";
  std::u32string read;
  for (size_t i = 0; i < text.size();) read += next_character(text, i);
  EXPECT_EQ(read, U"\ufffd\ufffd(語\ufffd\ufffd");
}

TEST(ByteAlphabet, SpellsEveryByte) {
  std::string all;
  for (int byte = 0; byte < 256; ++byte) all += static_cast<char>(byte);
  EXPECT_EQ(from_byte_characters(to_byte_characters(all)), all);
  EXPECT_EQ(to_byte_characters(" a\n\xad"), "ĠaĊŃ");
  EXPECT_EQ(from_byte_characters("a b"), std::nullopt);
  EXPECT_EQ(from_byte_characters("\u0144"), std::nullopt);
}

}  // namespace
}  // namespace basin
