#include "configs/config_node.h"

#include <gtest/gtest.h>

#include <array>
#include <limits>

#include "tests/configs/sample_config.h"

namespace basin {
namespace {

TEST(ParseInteger, TakesOnlyExactWholeNumbers) {
  EXPECT_EQ(parse_integer("12"), 12);
  EXPECT_EQ(parse_integer("-3"), -3);
  EXPECT_EQ(parse_integer("+3"), 3);
  EXPECT_EQ(parse_integer("1_000_000"), 1000000);
  EXPECT_EQ(parse_integer("1e6"), 1000000);
  EXPECT_EQ(parse_integer("2.5e3"), 2500);
  EXPECT_EQ(parse_integer("9223372036854775807"), std::numeric_limits<int64_t>::max());
  EXPECT_EQ(parse_integer("-9223372036854775808"), std::numeric_limits<int64_t>::min());
  for (const char* text : {"",
                           "-",
                           "1.5",
                           "1e-3",
                           "1e16",
                           "9223372036854775808",
                           "0x10",
                           "1 0",
                           "12a",
                           "_1",
                           "1_",
                           "1__0",
                           "+-1",
                           "-+1",
                           "nan",
                           ".inf",
                           "e5"})
    EXPECT_EQ(parse_integer(text), std::nullopt) << text;
}

TEST(ParseNumber, TakesDecimalNumbersAndInfinity) {
  EXPECT_EQ(parse_number("3e-4"), 3e-4);
  EXPECT_EQ(parse_number("7"), 7.0);
  EXPECT_EQ(parse_number("-.5"), -0.5);
  EXPECT_EQ(parse_number("1_000.5"), 1000.5);
  EXPECT_EQ(parse_number("-.inf"), -std::numeric_limits<double>::infinity());
  for (const char* text : {"", "inf", "nan", "infinity", "1e", "1.2.3", "0x1p3", "--1", "one"})
    EXPECT_EQ(parse_number(text), std::nullopt) << text;
}

TEST(ConfigNode, AtFollowsADottedKey) {
  const ConfigNode root = parse_yaml("a:\n  b: {c: 1}\n  b: 2\nd: [3]\n", "f");
  ASSERT_NE(root.at("a.b.c"), nullptr);
  EXPECT_EQ(root.at("a.b.c")->scalar, "1") << "the first of two";
  EXPECT_EQ(root.at("d")->items.size(), 1u);
  for (const char* key : {"", ".", "b", "a.", "a.c", "a.b.c.d", "d.0", ".a", "a..b"})
    EXPECT_EQ(root.at(key), nullptr) << key;
}

TEST(EnumValue, IsTheInverseOfEnumName) {
  for (const Color color : {Color::kRed, Color::kGreen, Color::kBlue})
    EXPECT_EQ(enum_value<Color>(enum_name(color)), color);
  for (const char* name : {"", "re", "Red", "redd"})
    EXPECT_EQ(enum_value<Color>(name), std::nullopt) << name;
}

TEST(EditDistance, CountsInsertionsRemovalsReplacementsAndSwaps) {
  EXPECT_EQ(edit_distance("", "abc"), 3u);
  EXPECT_EQ(edit_distance("abc", "abc"), 0u);
  EXPECT_EQ(edit_distance("steps", "step"), 1u);
  EXPECT_EQ(edit_distance("trian", "train"), 1u);
  EXPECT_EQ(edit_distance("kitten", "sitting"), 3u);
}

TEST(Closest, TakesTheNearestAndRefusesTheFar) {
  constexpr std::array<std::string_view, 3> kWords{"steps", "seed", "precision"};
  EXPECT_EQ(closest("step", kWords), "steps");
  EXPECT_EQ(closest("sede", kWords), "seed");
  EXPECT_EQ(closest("precison", kWords), "precision");
  EXPECT_EQ(closest("banana", kWords), "");
  EXPECT_EQ(closest("lr", kWords), "");
}

}  // namespace
}  // namespace basin
