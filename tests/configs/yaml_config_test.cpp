#include "configs/yaml_config.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <limits>

#include "configs/files.h"
#include "configs/scratch_folder.h"
#include "tests/configs/sample_config.h"

namespace basin {
namespace {

TEST(YamlConfig, ReadsEveryKindOfField) {
  const SampleConfig c = read_sample(R"(
name: "a: b"
color: blue
ids: [1, 2]
labels: [x, "7", 8]
sources:
  - {path: one, weight: 2}
  - two
train:
  steps: 1e6
  seed: -1_000
  optimizer: {lr: 1, betas: [0.5, .25], fused: false}
)");
  EXPECT_EQ(c.name, "a: b");
  EXPECT_EQ(c.color, Color::kBlue);
  EXPECT_EQ(c.ids, (std::vector<int64_t>{1, 2}));
  EXPECT_EQ(c.labels, (std::vector<std::string>{"x", "7", "8"}));
  ASSERT_EQ(c.sources.size(), 2u);
  EXPECT_EQ(c.sources[0].path, "one");
  EXPECT_EQ(c.sources[0].weight, 2);
  EXPECT_EQ(c.sources[1].path, "two");
  EXPECT_EQ(c.sources[1].weight, 1);
  EXPECT_EQ(c.train.steps, 1000000);
  EXPECT_EQ(c.train.seed, -1000);
  EXPECT_EQ(c.train.optimizer.lr, 1.0);
  EXPECT_EQ(c.train.optimizer.betas, (std::vector<double>{0.5, 0.25}));
  EXPECT_FALSE(c.train.optimizer.fused);
}

TEST(YamlConfig, WhatIsNotWrittenKeepsItsDefault) {
  for (const char* text : {"", "# nothing\n", "train:\n", "train: {optimizer: }\n"}) {
    const SampleConfig c = read_sample(text);
    EXPECT_EQ(c.name, "demo") << text;
    EXPECT_EQ(c.train.optimizer.betas, (std::vector<double>{0.9, 0.95})) << text;
  }
}

TEST(YamlConfig, OneSourceMayBeWrittenAsScalarOrSection) {
  const SampleConfig scalar = read_sample("sources: runs/text\n");
  ASSERT_EQ(scalar.sources.size(), 1u);
  EXPECT_EQ(scalar.sources[0].path, "runs/text");
  const SampleConfig section = read_sample("sources: {path: p, weight: 3}\n");
  ASSERT_EQ(section.sources.size(), 1u);
  EXPECT_EQ(section.sources[0].weight, 3);
}

TEST(YamlConfig, AllProblemsComeAtOnceInTheOrderOfTheFile) {
  EXPECT_EQ(
      problems_of(R"(name: [1]
colour: red
train:
  optimizer:
    lr: 2
    lr: 0.5
    weight_decay: 0.1
  steps: yes
  seed: 1.5
ids: [1, 10, x]
color: gren
sources:
  - wieght: 1
)"),
      "run.yaml:1: name: expected text, found a list\n"
      "run.yaml:2: colour: unknown key; did you mean color?\n"
      "run.yaml:5: train.optimizer.lr: 2 is out of range: allowed is 0 to 1\n"
      "run.yaml:6: train.optimizer.lr: duplicate key; first given at run.yaml:5\n"
      "run.yaml:7: train.optimizer.weight_decay: unknown key; train.optimizer has lr, betas, "
      "fused\n"
      "run.yaml:8: train.steps: expected a whole number, found yes\n"
      "run.yaml:9: train.seed: expected a whole number, found 1.5\n"
      "run.yaml:10: ids.1: 10 is out of range: allowed is 0 to 9\n"
      "run.yaml:10: ids.2: expected a whole number, found x\n"
      "run.yaml:11: color: expected one of red, green, blue, found gren; did you mean green?\n"
      "run.yaml:13: sources.0.wieght: unknown key; did you mean sources.N.weight?");
}

TEST(YamlConfig, WrongTypesNameFoundAndExpected) {
  EXPECT_EQ(problems_of("train: {steps: \"5\"}"),
            "run.yaml:1: train.steps: expected a whole number, found the quoted text \"5\"");
  EXPECT_EQ(problems_of("train: {steps: }"),
            "run.yaml:1: train.steps: expected a whole number, found nothing");
  EXPECT_EQ(problems_of("train:\n  steps:\n\n  seed: 1\n"),
            "run.yaml:2: train.steps: expected a whole number, found nothing");
  EXPECT_EQ(problems_of("train: 5"), "run.yaml:1: train: expected a section, found 5");
  EXPECT_EQ(problems_of("\nids: 3"), "run.yaml:2: ids: expected a list of whole numbers, found 3");
  EXPECT_EQ(problems_of("labels: {a: b}"),
            "run.yaml:1: labels: expected a list of text, found a section");
  EXPECT_EQ(problems_of("- a"), "run.yaml:1: expected a section, found a list");
  for (const char* word : {"yes", "True", "on", "1", "\"true\""})
    EXPECT_NE(problems_of(std::string("train: {optimizer: {fused: ") + word + "}}")
                  .find("expected true or false, found "),
              std::string::npos)
        << word;
  EXPECT_EQ(problems_of("name: 2024"), "");  // any scalar is text where text is wanted
}

TEST(YamlConfig, RangesAreInclusiveAndRefuseNan) {
  EXPECT_EQ(problems_of("train: {optimizer: {lr: 0}}"), "");
  EXPECT_EQ(problems_of("train: {optimizer: {lr: 1}}"), "");
  EXPECT_EQ(problems_of("train: {steps: 0}"),
            "run.yaml:1: train.steps: 0 is out of range: allowed is at least 1");
  EXPECT_EQ(problems_of("train: {optimizer: {lr: .nan}}"),
            "run.yaml:1: train.optimizer.lr: expected a number, found .nan");
  EXPECT_EQ(problems_of("train: {optimizer: {lr: .inf}}"),
            "run.yaml:1: train.optimizer.lr: .inf is out of range: allowed is 0 to 1");
}

TEST(YamlConfig, AKeyInTheWrongSectionIsFound) {
  EXPECT_EQ(problems_of("train:\n  lr: 0.1"),
            "run.yaml:2: train.lr: unknown key; did you mean train.optimizer.lr?");
  EXPECT_EQ(problems_of("sources: {weigth: 1}"),
            "run.yaml:1: sources.weigth: unknown key; did you mean sources.N.weight?");
  EXPECT_EQ(problems_of("train: {optim: }"),
            "run.yaml:1: train.optim: unknown key; did you mean train.optimizer?");
  EXPECT_EQ(
      problems_of("zebra: 1"),
      "run.yaml:1: zebra: unknown key; the sections are name, color, sources, ids, labels, train");
  EXPECT_EQ(
      problems_of("train.steps: 5"),
      "run.yaml:1: train.steps: unknown key; in a file, dots do not nest: write indented sections");
}

TEST(YamlConfig, ProblemsOfAStructNameItsKeyAndLine) {
  EXPECT_EQ(problems_of("name: x\ntrain:\n  optimizer:\n    betas: [1]\n  steps: 13\n"),
            "run.yaml:4: train.optimizer: betas has 1 numbers, AdamW takes 2");
  EXPECT_EQ(
      problems_of("name: x\ntrain:\n  seed: 3\n  steps: 13\n"),
      "run.yaml:3: train: choose another number of steps\nrun.yaml:4: train: steps 13 is unlucky");
  // Not on top of a field that is wrong by itself.
  EXPECT_EQ(problems_of("train: {steps: 13, seed: x}"),
            "run.yaml:1: train.seed: expected a whole number, found x");
}

struct Never {
  template <class Self, class Visitor>
  static void visit_fields(Self&, Visitor&&) {}
  std::vector<std::string> problems() const { return {"never right"}; }
};
struct Outer {
  Never inner;
  template <class Self, class Visitor>
  static void visit_fields(Self& self, Visitor&& visit) {
    visit("inner", self.inner, Field{.doc = ""});
  }
};

TEST(YamlConfig, ProblemsOfDefaultsAreFoundToo) {
  try {
    config_from_text<Outer>("", "f");
    FAIL();
  } catch (const ConfigError& error) {
    EXPECT_STREQ(error.what(), "f:1: inner: never right");
  }
}

TEST(YamlConfig, SyntaxErrorsHaveFileAndLine) {
  EXPECT_EQ(problems_of("name: x\nids: [1, 2\ntrain: {}\n").substr(0, 31),
            "run.yaml:3: not valid YAML: end");
  EXPECT_EQ(problems_of("name: x\n\tcolor: red\n").substr(0, 28), "run.yaml:2: not valid YAML: ");
  EXPECT_EQ(problems_of("name: x\n---\nname: y\n"),
            "run.yaml:3: a second YAML document begins here; a run file has one");
  EXPECT_EQ(problems_of("? [a]\n: b\n"), "run.yaml:1: a key must be a plain word");
  EXPECT_EQ(problems_of(std::string("PK\0\1", 4)), "run.yaml: not a text file");
  EXPECT_NE(problems_of("labels: &a [*a]\n").find("run.yaml:1: "), std::string::npos);
}

TEST(Overrides, ReplaceAndAdd) {
  const SampleConfig c = read_sample("train: {steps: 5}\nsources: [a, {path: b, weight: 2}]\n",
                                     {"train.steps=7",
                                      "train.optimizer.lr=3e-4",
                                      "sources.1.weight=4",
                                      "ids=[3, 4]",
                                      "name=",
                                      "color=red",
                                      "color=blue"});
  EXPECT_EQ(c.train.steps, 7);
  EXPECT_EQ(c.train.optimizer.lr, 3e-4);
  EXPECT_EQ(c.sources[1].weight, 4);
  EXPECT_EQ(c.ids, (std::vector<int64_t>{3, 4}));
  EXPECT_EQ(c.name, "");
  EXPECT_EQ(c.color, Color::kBlue);  // the last one wins
}

TEST(Overrides, AnOverrideMendsWhatTheFileHasWrong) {
  EXPECT_EQ(problems_of("train: {steps: 0}\n", {"train.steps=1"}), "");
  EXPECT_EQ(problems_of("train: 5\n", {"train={steps: 2}"}), "");
}

TEST(Overrides, ErrorsNameTheOverride) {
  EXPECT_EQ(problems_of("name: x\nids: [11]\n",
                        {"train.steps=0", "train.sted=3", "trian.steps=4", "color=grene"}),
            "run.yaml:2: ids.0: 11 is out of range: allowed is 0 to 9\n"
            "--set color=grene: color: expected one of red, green, blue, found grene; did you mean "
            "green?\n"
            "--set train.steps=0: train.steps: 0 is out of range: allowed is at least 1\n"
            "--set train.sted=3: train.sted: unknown key; did you mean train.seed?\n"
            "--set trian.steps=4: trian: unknown key; did you mean train?");
  EXPECT_EQ(problems_of("", {"train.steps"}),
            "--set train.steps: expected KEY=VALUE, for example train.steps=100");
  EXPECT_EQ(problems_of("", {"=3"}), "--set =3: expected KEY=VALUE, for example train.steps=100");
  EXPECT_EQ(problems_of("name: x\n", {"name.first=y"}),
            "--set name.first=y: name.first: name is x, not a section (run.yaml:1)");
  EXPECT_EQ(problems_of("sources: [a]\n", {"sources.1.weight=2"}),
            "--set sources.1.weight=2: sources.1.weight: sources is a list of 1, its items are "
            "numbered from 0 (run.yaml:1)");
  EXPECT_NE(problems_of("", {"ids=[1"}).find("--set ids=[1: ids: the value is not valid YAML: "),
            std::string::npos);
  EXPECT_EQ(problems_of("", {"train.steps=13"}),
            "--set train.steps=13: train: steps 13 is unlucky\n--set train.steps=13: train: choose "
            "another number of steps");
}

TEST(YamlConfig, ProblemsOfAnOverriddenKeyAreSaidOfTheOverride) {
  EXPECT_EQ(problems_of("train:\n  steps: 5\n", {"train.steps=13"}),
            "run.yaml:2: train: choose another number of steps\n"
            "--set train.steps=13: train: steps 13 is unlucky");
}

TEST(YamlConfig, ATabIsNamed) {
  EXPECT_EQ(problems_of("train:\n \tsteps: 5\n"),
            "run.yaml:2: not valid YAML: a tab indents this line: use spaces");
}

TEST(YamlConfig, ANumberThatIsTooLargeIsOutOfRange) {
  EXPECT_EQ(problems_of("ids: [18446744073709551616]\n"),
            "run.yaml:1: ids.0: 18446744073709551616 is out of range: allowed is 0 to 9");
}

class ConfigFiles : public testing::Test {
 protected:
  std::string reading(const std::string& name) const {
    try {
      config_from_file<SampleConfig>(directory_ / name);
    } catch (const std::runtime_error& error) {
      return error.what();
    }
    return "";
  }

  const ScratchFolder folder_;
  const std::filesystem::path directory_ = folder_.path();
};

TEST_F(ConfigFiles, AreReadAndNamedInErrors) {
  write_file(directory_ / "demo.yaml", "name: x\ntrain: {steps: 0}\n");
  EXPECT_EQ(config_from_file<SampleConfig>(directory_ / "demo.yaml", {"train.steps=3"}).train.steps,
            3);
  try {
    config_from_file<SampleConfig>(directory_ / "demo.yaml");
    FAIL();
  } catch (const ConfigError& error) {
    EXPECT_EQ(error.what(),
              (directory_ / "demo.yaml").string() +
                  ":2: train.steps: 0 is out of range: allowed is at least 1");
  }
}

TEST_F(ConfigFiles, AMissingFileNamesThoseThatWereMeant) {
  const std::string at = directory_.string() + "/";
  EXPECT_EQ(reading("dmeo.yaml"),
            at + "dmeo.yaml: no such file; " + directory_.string() + " has no .yaml files");
  write_file(directory_ / "demo.yaml", "");
  write_file(directory_ / "llama-60m.yaml", "");
  write_file(directory_ / "demo.txt", "");
  EXPECT_EQ(reading("dmeo.yaml"),
            at + "dmeo.yaml: no such file; did you mean " + at + "demo.yaml?");
  EXPECT_EQ(reading("demo"), at + "demo: no such file; did you mean " + at + "demo.yaml?");
  EXPECT_EQ(
      reading("other.yaml"),
      at + "other.yaml: no such file; there are " + at + "demo.yaml, " + at + "llama-60m.yaml");
  EXPECT_EQ(reading("x/demo.yaml"),
            at + "x/demo.yaml: no such file; there is no directory " + at + "x either");
  const std::filesystem::path run = directory_ / "run";
  std::filesystem::create_directory(run);
  EXPECT_EQ(reading("run"), run.string() + ": is a folder, not a run file");
  write_file(run / "config.yaml", "");
  EXPECT_EQ(reading("run"),
            run.string() + ": is a folder, not a run file; did you mean " + run.string() +
                "/config.yaml?");
}

}  // namespace
}  // namespace basin
