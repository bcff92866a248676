// What the report reads from run directories, and what it refuses.
#include "tests/train/report_fixture.h"

namespace basin {
namespace {

TEST_F(ReportTest, RefusesToCompareDifferentText) {
  whole_run("none", kUnused, 3.0);
  Numbers elsewhere = kUses;
  elsewhere.source = "other";
  whole_run("sink", elsewhere, 3.0);
  std::string html = page({"none", "sink"});
  EXPECT_TRUE(contains(
      html,
      "Not compared: the runs were evaluated on different text (none on heldout, sink on other)."));
  EXPECT_FALSE(contains(html, "against 4 kept, nats/token"));
  EXPECT_TRUE(contains(html, "<title>loss over training tokens</title>"));
  EXPECT_FALSE(contains(html, "streams on one kept token"));

  Numbers longer = kUses;  // the same name, cut into other tokens
  longer.tokens = 280;
  fs::remove_all(root_ / "sink");
  whole_run("sink", longer, 3.0);
  html = page({"none", "sink"});
  EXPECT_TRUE(contains(
      html,
      "is not the same text, or not cut into the same tokens, in all runs (none 1 documents of 301 "
      "tokens, sink 1 documents of 280 tokens)."));
  EXPECT_TRUE(contains(html, "the levels cannot"));
}

TEST_F(ReportTest, RefusesToCompareDifferentTokenizersAndCaches) {
  whole_run("none", kUnused, 3.0);
  Numbers smaller = kUses;
  smaller.cache = 32;
  whole_run("sink", smaller, 3.0);
  EXPECT_TRUE(contains(page({"none", "sink"}),
                       "no cache size in common (none with cache 64, sink with cache 32)"));
  evaluation("sink", kUses);
  EXPECT_EQ(compare(read({"none", "sink"})).refusal, "");
  write_file(file("none", "step-00000020/tokenizer.model"), "one");
  write_file(file("sink", "step-00000020/tokenizer.model"), "two");
  EXPECT_TRUE(contains(compare(read({"none", "sink"})).refusal, "different tokenizers"));
}

TEST_F(ReportTest, ArithmeticsAreNotMixed) {
  whole_run("none", kUnused, 3.0);
  Numbers rounded = kUses;
  rounded.dtype = "bfloat16";
  config("sink", "token");
  evaluation("sink", rounded);
  EXPECT_TRUE(contains(compare(read({"none", "sink"})).refusal,
                       "(none with cache 64, sink with cache 64 in bfloat16)"));
  evaluation("none", rounded);  // beside what it has in float32
  const auto runs = read({"none", "sink"});
  const Comparison both = compare(runs);
  ASSERT_EQ(both.groups.size(), 1u);
  EXPECT_EQ(both.groups[0].dtype, "bfloat16");
  EXPECT_TRUE(contains(page({"none", "sink"}), "a cache of 64 entries, bfloat16."));
}

TEST_F(ReportTest, OneTextIsFoundHoweverItsFolderIsSpelled) {
  whole_run("none", kUnused, 3.0);
  whole_run("sink", kUses, 3.0);
  Json json = Json::parse(read_file(file("sink", stem(kUses) + ".json")));
  json["source"] = "/elsewhere/heldout";
  write_file(file("sink", stem(kUses) + ".json"), json.dump());
  EXPECT_EQ(compare(read({"none", "sink"})).refusal, "");
}

TEST_F(ReportTest, Float32HeadsThePageWhereThereAreTwoArithmetics) {
  whole_run("none", kUses, 3.0);
  Numbers rounded = kUnused;
  rounded.dtype = "bfloat16";
  evaluation("none", rounded);
  const auto runs = read({"none"});
  const Comparison both = compare(runs);
  ASSERT_EQ(both.groups.size(), 2u);
  EXPECT_EQ(both.groups[0].dtype, "float32");
}

// ---- what is read

TEST_F(ReportTest, ATextMayBeCalledLikeAStep) {
  whole_run("none", kUnused, 3.0);
  Numbers n = kUses;
  n.source = "two-step-by-step-5";
  evaluation("none", n);
  EXPECT_EQ(read({"none"}).front().evaluations.size(), 2u);
  n.by_name = true;
  evaluation("none", n);
  EXPECT_EQ(read({"none"}).front().evaluations.size(), 2u);
}

TEST_F(ReportTest, SaysHowManyTokensComeAfterAnEviction) {
  whole_run("none", kUnused, 3.0);
  EXPECT_FALSE(contains(page({"none"}), "left the cache"));
  Json json = Json::parse(read_file(file("none", stem(kUnused) + ".json")));
  json["after_eviction"] = 236;
  write_file(file("none", stem(kUnused) + ".json"), json.dump());
  EXPECT_TRUE(
      contains(page({"none"}), "300 scored tokens, 236 of them after tokens have left the cache"));
}

TEST_F(ReportTest, SaysOfWhichTextAttentionIs) {
  attention("m");
  EXPECT_TRUE(contains(page({"m"}), "attention of 100 sequences of 64 positions, queries"));
  Json json = Json::parse(read_file(file("m", "eval/attention.json")));
  json["source"] = "data/heldout";
  write_file(file("m", "eval/attention.json"), json.dump());
  EXPECT_TRUE(contains(page({"m"}), "of 64 positions of data/heldout, queries"));
}

TEST_F(ReportTest, RefusesWhatIsNoRun) {
  EXPECT_TRUE(error_of({"nowhere"}).ends_with("nowhere: no such run directory"));
  write_file(file("some", "config.json"), "{}");
  EXPECT_TRUE(error_of({"sme"}).ends_with("sme: no such run directory; did you mean " +
                                          (root_ / "some").string() + "?"));
  file("empty", "other.txt");
  const std::string error = error_of({"empty"});
  EXPECT_TRUE(contains(
      error, "looked for config.yaml, metrics.jsonl, eval/evaluate-*.json and eval/attention.json"))
      << error;
  EXPECT_EQ(std::ranges::count(error, '\n'), 0);
  config("a", "none");
  EXPECT_THROW(read({"a", "a"}), std::invalid_argument);
  EXPECT_THROW(read({"nowhere"}), std::runtime_error);
}

TEST_F(ReportTest, NamesDamagedFiles) {
  whole_run("m", kUses, 3.0);
  const std::string metrics_text = read_file(file("m", "metrics.jsonl"));
  write_file(file("m", "metrics.jsonl"),
             metrics_text + "{\"step\": 21, \"tok");  // still being written
  EXPECT_EQ(read({"m"}).front().metrics.size(), 20u);
  write_file(file("m", "metrics.jsonl"), "nonsense\n" + metrics_text);
  EXPECT_TRUE(contains(error_of({"m"}), "metrics.jsonl:1: no logged step"));
  write_file(file("m", "metrics.jsonl"), metrics_text);

  const fs::path values = file("m", stem(kUses) + ".npy");
  const std::string bytes = read_file(values);
  write_file(values, bytes.substr(0, bytes.size() - 4));
  EXPECT_TRUE(contains(error_of({"m"}), "C64.npy: 3596 bytes of values, expected 3600"));
  write_file(values, npy(2, 300, [](int64_t, int64_t) { return 1.0f; }));
  EXPECT_TRUE(contains(error_of({"m"}), "expected float32 of shape (3, 300)"));
  write_file(values, "PK");
  EXPECT_TRUE(contains(error_of({"m"}), "no .npy file"));
  write_file(values, bytes);

  write_file(file("m", "eval/attention.json"), "{\"epsilon\": 0.3}");
  EXPECT_TRUE(contains(error_of({"m"}), "attention.json: "));
  write_file(file("m", "eval/attention.json"), "");
  EXPECT_TRUE(contains(error_of({"m"}), "write it anew with `basin attention ... --save`"));
}

// ---- pictures

}  // namespace
}  // namespace basin
