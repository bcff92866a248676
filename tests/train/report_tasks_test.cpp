// Zero-shot tasks in the report.
#include "tests/train/report_fixture.h"

namespace basin {
namespace {

class ReportTasksTest : public ReportTest {
 protected:
  void task(const std::string& run,
            const std::string& name,
            const Json& measures,
            const std::string& dtype = "float32") const {
    Json one = {{"name", name}, {"examples", 100}};
    one.update(measures);
    const Json json = {
        {"model", "runs/" + run + "/final"}, {"step", 20}, {"dtype", dtype}, {"tasks", {one}}};
    const std::string suffix = dtype == "float32" ? "" : "-" + dtype;
    write_file(file(run, "eval/tasks-" + name + suffix + ".json"), json.dump());
  }
  static Json choices(double acc, double error) {
    return {{"acc", acc}, {"acc_stderr", error}, {"acc_norm", 0.5}, {"acc_norm_stderr", error}};
  }
};

TEST_F(ReportTasksTest, StandSideBySideAndTheClearlyBetterIsBold) {
  whole_run("none", kUnused, 3.0);
  whole_run("sink", kUses, 3.0);
  EXPECT_FALSE(contains(page({"none", "sink"}), "Zero-shot"));
  task("none", "piqa", choices(0.52, 0.02));
  task("sink", "piqa", choices(0.61, 0.02));
  task("none",
       "words",
       {{"acc", 0.1}, {"acc_stderr", nullptr}, {"perplexity", 30}, {"perplexity_stderr", 1}});
  task("sink",
       "words",
       {{"acc", 0.2}, {"acc_stderr", nullptr}, {"perplexity", 40}, {"perplexity_stderr", 1}});
  const std::string html = page({"none", "sink"});
  EXPECT_EQ(ill_formed(html), "");
  EXPECT_TRUE(contains(html, "<h2>Zero-shot tasks</h2>"));
  EXPECT_TRUE(contains(html, "52.0 %<span class=\"soft\">± 2.0</span>"));
  EXPECT_TRUE(contains(html, "<b>61.0 %</b>"));
  EXPECT_FALSE(contains(html, "<b>50.0 %</b>"));                   // no difference
  EXPECT_TRUE(contains(html, "<td class=\"first\">20.0 %</td>"));  // no error, so nothing to say
  EXPECT_TRUE(contains(html, "<b>30</b><span class=\"soft\">± 1</span>"));  // less is better
}

TEST_F(ReportTasksTest, ArithmeticsHaveRowsOfTheirOwn) {
  whole_run("none", kUnused, 3.0);
  whole_run("sink", kUses, 3.0);
  task("none", "piqa", choices(0.52, 0.02));
  task("none", "piqa", choices(0.51, 0.02), "bfloat16");
  task("sink", "piqa", choices(0.71, 0.02), "bfloat16");
  const std::string html = page({"none", "sink"});
  const size_t exact = html.find("<tr><th>piqa <span class=\"soft\">acc<"),
               rounded = html.find("<tr><th>piqa, bfloat16 <span class=\"soft\">acc<");
  ASSERT_LT(exact, rounded);
  ASSERT_NE(rounded, std::string::npos);
  EXPECT_TRUE(contains(html.substr(exact, html.find("</tr>", exact) - exact), "n/a"));
  const std::string row = html.substr(rounded, html.find("</tr>", rounded) - rounded);
  EXPECT_TRUE(contains(row, "51.0 %") && contains(row, "<b>71.0 %</b>")) << row;
}

TEST_F(ReportTasksTest, ATaskMayBeCalledLikeAStep) {
  whole_run("none", kUnused, 3.0);
  task("none", "two-step-by-step-5", choices(0.52, 0.02));
  EXPECT_EQ(read({"none"}).front().tasks.size(), 1u);
}

TEST_F(ReportTasksTest, WhatOneRunLacksOrMeasuredElsewhereIsSaid) {
  whole_run("none", kUnused, 3.0);
  whole_run("sink", kUses, 3.0);
  task("sink", "piqa", choices(0.6, 0.02));
  EXPECT_TRUE(contains(page({"none", "sink"}), "<td class=\"first\">n/a</td>"));
  write_file(file("sink", "step-00000040/manifest.json"), "{}");  // a newer step than was measured
  EXPECT_TRUE(read({"sink"}).front().tasks.empty());
  write_file(file("sink", "eval/tasks-piqa.json"), "{\"tasks\": []}");
  EXPECT_TRUE(contains(error_of({"sink"}), "tasks-piqa.json: "));
  EXPECT_TRUE(contains(error_of({"sink"}), "--tasks FILE --save"));
}

}  // namespace
}  // namespace basin
