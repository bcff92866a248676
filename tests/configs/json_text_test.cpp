#include "configs/json_text.h"

#include <gmock/gmock.h>

#include <stdexcept>

namespace basin {
namespace {

using testing::HasSubstr;
using testing::Not;

std::string refusal(const std::string& text) {
  try {
    parse_untrusted_json(text, "x.json");
    return "";
  } catch (const std::runtime_error& e) {
    return e.what();
  }
}

TEST(JsonText, ParsesAndNamesWhatItRefuses) {
  EXPECT_EQ(parse_untrusted_json(R"( {"a":[1,{"a":null}],"b":{"a":"x"}} )", "x")["b"]["a"], "x");
  EXPECT_EQ(refusal(R"({"a":1,"b":{"c":1,"c":2}})"), "x.json: key \"c\" occurs twice");
  EXPECT_EQ(refusal("{"),
            "x.json: no valid JSON: parse error at line 1, column 2: syntax error while parsing "
            "object key - unexpected end of input; expected string literal");
  EXPECT_THAT(refusal(""), HasSubstr("x.json: no valid JSON: "));
  EXPECT_THAT(refusal("{} x"), HasSubstr("no valid JSON"));
  EXPECT_THAT(refusal("{\"a\": \"\xff\"}"), HasSubstr("no valid JSON"));
  EXPECT_THAT(refusal(R"({"a": 1e999})"), HasSubstr("no valid JSON: number overflow"));
}

TEST(JsonText, MessagesStayShortAndInOneLine) {
  for (const std::string& text :
       {"[\"" + std::string(100'000, 'x'),
        "[1,\n\n2,\n \"" + std::string(1000, '\t'),
        "{\"" + std::string(5000, 'k') + "\":1,\"" + std::string(5000, 'k') + "\":1}"}) {
    EXPECT_LT(refusal(text).size(), 400u) << refusal(text);
    EXPECT_THAT(refusal(text), Not(HasSubstr("\n")));
    EXPECT_THAT(refusal(text), HasSubstr("x.json: "));
  }
}

TEST(JsonText, DeepNestingIsRefusedBeforeItCosts) {
  const auto nested = [](size_t levels) {
    return std::string(levels, '[') + std::string(levels, ']');
  };
  EXPECT_EQ(refusal(nested(100)), "");
  EXPECT_EQ(refusal(nested(102)), "x.json: JSON nested more than 100 levels deep");
  EXPECT_EQ(refusal(std::string(50'000'000, '[')), refusal(nested(102)));
  std::string objects;
  for (int i = 0; i < 1000; ++i) objects += "{\"a\":";
  EXPECT_EQ(refusal(objects), refusal(nested(102)));
}

TEST(JsonText, PrintableEscapesAndCuts) {
  EXPECT_EQ(printable("plain.weight"), "plain.weight");
  EXPECT_EQ(printable("a\nb\x1b[31m\"\\"), "a\\nb\\u001b[31m\\\"\\\\");
  EXPECT_EQ(printable("\xff"), "\xef\xbf\xbd");
  EXPECT_EQ(printable("\xc3\xa9"), "\xc3\xa9");
  EXPECT_EQ(printable(std::string(120, 'x')), std::string(120, 'x'));
  EXPECT_EQ(printable(std::string(121, 'x')), std::string(120, 'x') + "...");
  EXPECT_EQ(printable(std::string(119, 'x') + "\xc3\xa9y"), std::string(119, 'x') + "...")
      << "no half characters";
  EXPECT_EQ(printable_json(nlohmann::json::parse(R"([1, "a\n"])")), R"([1,"a\n"])");
}

TEST(JsonText, MessagesThatQuoteStayInOneLine) {
  EXPECT_EQ(one_line("a\n\tb \xc3\xa9"), "a\\x0a\\x09b \xc3\xa9");
  EXPECT_EQ(one_line(std::string(1001, 'x')), std::string(1000, 'x') + "...");
}

TEST(JsonText, DocumentsAreTextWithoutBytesThatAreNone) {
  const nlohmann::ordered_json json{{"b", "\xff"}, {"a", 1}};
  EXPECT_EQ(to_text(json), "{\n \"b\": \"\xef\xbf\xbd\",\n \"a\": 1\n}\n");
  EXPECT_EQ(to_line(json), "{\"b\":\"\xef\xbf\xbd\",\"a\":1}\n");
}

}  // namespace
}  // namespace basin
