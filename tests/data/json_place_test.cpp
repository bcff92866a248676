#include "data/json_place.h"

#include "tests/data/data_fixture.h"

namespace basin {
namespace {

TEST(JsonPlace, SaysWhereAValueStands) {
  const nlohmann::json document =
      nlohmann::json::parse(R"({"a": {"b": [1, "x", -1, true]}, "n": null})");
  const JsonPlace root(document, "f");
  const JsonPlace list = root.at("a").at("b");
  EXPECT_EQ(list.size(), 4);
  EXPECT_EQ(list[0].integer(1), 1);
  EXPECT_EQ(list[1].string(), "x");
  EXPECT_TRUE(list[3].boolean());
  EXPECT_TRUE(root.find("n").is_null());
  EXPECT_TRUE(root.find("n").boolean_or(true));
  const auto fails = [](auto&& f) { return message_of<std::runtime_error>(f); };
  EXPECT_EQ(fails([&] { list[0].integer(0); }), "f: a.b[0]: expected 0 to 0, found 1");
  EXPECT_EQ(fails([&] { list[2].integer(9); }), "f: a.b[2]: expected 0 to 9, found -1");
  EXPECT_EQ(fails([&] { list[1].integer(9); }), "f: a.b[1]: expected an integer, found string");
  EXPECT_EQ(fails([&] { list[0].string(); }), "f: a.b[0]: expected a string, found an integer");
  EXPECT_EQ(fails([&] { list[0].boolean(); }),
            "f: a.b[0]: expected true or false, found an integer");
  EXPECT_EQ(fails([&] { root.at("n"); }), "f: n: is missing");
  EXPECT_EQ(fails([&] { list.at("x"); }), "f: a.b: expected an object, found array");
  EXPECT_EQ(fails([&] { root.size(); }), "f: expected a list, found object");
}

}  // namespace
}  // namespace basin
