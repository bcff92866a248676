// Configurations back to text: YAML that reads back to the same, differences, the reference.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "tests/configs/sample_config.h"

namespace basin {
namespace {

struct Values {
  std::string text;
  double number = 0;
  int64_t whole = 0;
  std::vector<std::string> texts;
  std::vector<double> numbers;
  template <class Self, class Visitor>
  static void visit_fields(Self& self, Visitor&& visit) {
    visit("text", self.text, Field{.doc = "any"});
    visit("number", self.number, Field{.doc = "any"});
    visit("whole", self.whole, Field{.doc = "any"});
    visit("texts", self.texts, Field{.doc = "any"});
    visit("numbers", self.numbers, Field{.doc = "any"});
  }
};

Values round_trip(const Values& values) {
  return config_from_text<Values>(to_yaml(values), "printed.yaml");
}

TEST(ToYaml, WritesEveryDefaultInBlockLayout) {
  SampleConfig c;
  c.sources = {{"runs/a", 1}, {"b c", 0.5}};
  c.ids = {1, 2};
  EXPECT_EQ(to_yaml(c), R"(name: demo
color: green
sources:
  - path: runs/a
    weight: 1.0
  - path: "b c"
    weight: 0.5
ids: [1, 2]
labels: []
train:
  steps: 100
  seed: 1
  optimizer:
    lr: 1.0e-05
    betas: [0.9, 0.95]
    fused: true
)");
  EXPECT_TRUE(differences(read_sample(to_yaml(c)), c).empty());
}

TEST(ToYaml, TextComesBackWhateverItContains) {
  for (const char* text : {"",
                           " ",
                           "a b",
                           "true",
                           "No",
                           "null",
                           "~",
                           "1e5",
                           "007",
                           ".5",
                           ".inf",
                           "-",
                           "- a",
                           "a: b",
                           "a #b",
                           "#",
                           "[x]",
                           "{x}",
                           "&a",
                           "*a",
                           "!t",
                           "%d",
                           "@h",
                           "`q`",
                           "'",
                           "\"q\"",
                           "back\\slash",
                           "line\nbreak\r\ttab",
                           "\x01\x7f",
                           "\xc3\xa9\xe2\x96\x81",
                           "./x",
                           "../y",
                           "/abs/p-1.2",
                           "a,b",
                           "x:",
                           "?",
                           "|",
                           ">",
                           "=",
                           "<<"}) {
    Values v;
    v.text = text;
    v.texts = {text, "second", text};
    const Values back = round_trip(v);
    EXPECT_EQ(back.text, v.text) << to_yaml(v);
    EXPECT_EQ(back.texts, v.texts) << to_yaml(v);
  }
}

TEST(ToYaml, QuotesOnlyWhereNeeded) {
  EXPECT_EQ(inline_yaml(to_node(std::string("runs/demo-sink_1.yaml"))), "runs/demo-sink_1.yaml");
  EXPECT_EQ(inline_yaml(to_node(std::string("../x"))), "../x");
  EXPECT_EQ(inline_yaml(to_node(std::string("true"))), "\"true\"");
  EXPECT_EQ(inline_yaml(to_node(std::string("12"))), "\"12\"");
}

TEST(ToYaml, NumbersComeBackToTheLastBit) {
  const double least = std::numeric_limits<double>::denorm_min(),
               most = std::numeric_limits<double>::max(),
               inf = std::numeric_limits<double>::infinity();
  for (const double number : {0.1,
                              1.0 / 3,
                              3e-4,
                              1e-5,
                              1e16,
                              123456789.0,
                              1e300,
                              -0.0,
                              least,
                              most,
                              inf,
                              -inf,
                              std::nextafter(1.0, 2.0)}) {
    Values v;
    v.number = number;
    v.numbers = {number, 0.5};
    v.whole = std::numeric_limits<int64_t>::min();
    const Values back = round_trip(v);
    EXPECT_EQ(back.number, number) << to_yaml(v);
    EXPECT_EQ(std::signbit(back.number), std::signbit(number)) << to_yaml(v);
    EXPECT_EQ(back.numbers, v.numbers);
    EXPECT_EQ(back.whole, v.whole);
  }
}

TEST(NumberText, IsShortAndANumberToEveryYamlReader) {
  EXPECT_EQ(number_text(0.95), "0.95");
  EXPECT_EQ(number_text(3), "3.0");
  EXPECT_EQ(number_text(3e-4), "0.0003");
  EXPECT_EQ(number_text(1e-5), "1.0e-05");
  EXPECT_EQ(number_text(1e300), "1.0e+300");
}

TEST(Differences, NameTheKeyAndBothValues) {
  SampleConfig a, b;
  EXPECT_TRUE(differences(a, b).empty());
  b.name = "two words";
  b.train.optimizer.betas = {0.9};
  b.sources = {{"x", 1}};
  a.ids = {1};
  const std::vector<Difference> found = differences(a, b);
  std::string lines;
  for (const Difference& d : found) lines += d.key + "|" + d.a + "|" + d.b + "\n";
  EXPECT_EQ(lines,
            "name|demo|\"two words\"\n"
            "sources|[]|\n"
            "ids|[1]|[]\n"
            "train.optimizer.betas|[0.9, 0.95]|[0.9]\n"
            "sources.0.path||x\n"
            "sources.0.weight||1.0\n");
}

TEST(Reference, ListsEveryKeyWithTypeDefaultRangeAndMeaning) {
  EXPECT_EQ(reference_markdown<SampleConfig>(),
            "| key | type | default | range | meaning |\n|---|---|---|---|---|\n"
            "| `name` | text | `demo` |  | name of the run |\n"
            "| `color` | one of red, green, blue | `green` |  | color of its line |\n"
            "| `sources` | a list of sections | `[]` |  | what it reads |\n"
            "| `sources.N.path` | text | `\"\"` |  | where it lies |\n"
            "| `sources.N.weight` | a number | `1.0` | 0 to 10 | share |\n"
            "| `ids` | a list of whole numbers | `[]` | 0 to 9 | ids |\n"
            "| `labels` | a list of text | `[]` |  | labels |\n"
            "| `train.steps` | a whole number | `100` | at least 1 | optimizer steps |\n"
            "| `train.seed` | a whole number | `1` |  | seed |\n"
            "| `train.optimizer.lr` | a number | `1.0e-05` | 0 to 1 | peak learning rate |\n"
            "| `train.optimizer.betas` | a list of numbers | `[0.9, 0.95]` | 0 to 1 | decay of the "
            "moments |\n"
            "| `train.optimizer.fused` | true or false | `true` |  | one pass \\| one kernel |\n");
}

}  // namespace
}  // namespace basin
