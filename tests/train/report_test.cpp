// The report: what it reads from run directories, the sentences it computes, the page it writes. Run directories are
// written here, with numbers chosen so that each sentence is known beforehand.
#include "train/report.h"

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <functional>
#include <limits>
#include <nlohmann/json.hpp>
#include <regex>
#include <stdexcept>
#include <string>
#include <vector>

#include "configs/files.h"
#include "train/report_findings.h"
#include "train/report_maps.h"
#include "train/report_plots.h"
#include "train/report_svg.h"

namespace basin {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

/// What a run's files say.
struct Numbers {
  std::string sink = "none";
  double ppl_0 = 20, ppl_1 = 20, ppl_4 = 20;  // by kept tokens
  double low = -0.01, high = 0.01;            // interval of row 0 against row 4, nats
  std::string source = "heldout";
  int64_t cache = 64, tokens = 301;  // tokens of the one document
  int64_t step = 20;
  bool by_name = false;  // the step was asked for by its name
};

Json row(const std::string& mode, int64_t sinks, double perplexity, const Numbers& n) {
  const Json interval = sinks == 0 ? Json{n.low, n.high} : Json{-0.001, 0.001};
  return {{"mode", mode},
          {"sinks", sinks},
          {"recent", n.cache - sinks},
          {"tokens", n.tokens - 1},
          {"nll", std::log(perplexity)},
          {"perplexity", perplexity},
          {"bits_per_byte", 1.5},
          {"nll_delta", std::log(perplexity / n.ppl_4)},
          {"nll_delta_ci95", interval},
          {"tokens_per_second", 31000}};
}

std::string npy(int64_t rows, int64_t columns, const std::function<float(int64_t, int64_t)>& value) {
  std::string header = fmt::format("{{'descr': '<f4', 'fortran_order': False, 'shape': ({}, {}), }}", rows, columns);
  header.append(64 - (10 + header.size() + 1) % 64, ' ').push_back('\n');
  std::string bytes = std::string("\x93NUMPY\x01\x00", 8) + static_cast<char>(header.size()) + '\0' + header;
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < columns; ++c) {
      const float v = value(r, c);
      bytes.append(reinterpret_cast<const char*>(&v), sizeof v);
    }
  }
  return bytes;
}

class ReportTest : public testing::Test {
 protected:
  void SetUp() override {
    root_ = fs::temp_directory_path() / fmt::format("basin_report_test_{}_{}", getpid(),
                                                    testing::UnitTest::GetInstance()->current_test_info()->name());
    fs::remove_all(root_);
  }
  void TearDown() override { fs::remove_all(root_); }

  fs::path file(const std::string& name, const std::string& part) const {
    const fs::path path = root_ / name / part;
    fs::create_directories(path.parent_path());
    return path;
  }

  void config(const std::string& name, const std::string& sink, const std::string& more = "") const {
    write_file(file(name, "config.yaml"), fmt::format("run: {{dir: runs/{}}}\nmodel: {{hidden_size: 64, sink: {{kind: "
                                                      "{}}}}}\ndata: {{heldout: data/heldout}}\n{}",
                                                      name, sink, more));
  }

  void metrics(const std::string& name, double end_loss) const {
    std::string lines;
    for (int64_t step = 1; step <= 20; ++step) {
      const Json validation = step == 20 ? Json(end_loss) : Json(nullptr);
      lines += Json{{"step", step},   {"tokens", step * 1000},  {"loss", end_loss + 1.0 / static_cast<double>(step)},
                    {"lr", 1e-3},     {"grad_norm", 1},         {"tokens_per_second", 25000},
                    {"mfu", nullptr}, {"val_loss", validation}, {"sink_metric", 0.25},
                    {"skipped", 0},   {"seconds", step}}
                   .dump() +
               "\n";
    }
    write_file(file(name, "metrics.jsonl"), lines);
  }

  std::string stem(const Numbers& n) const {
    return fmt::format("eval/evaluate-{}-C{}{}", n.source, n.cache, n.by_name ? fmt::format("-step-{:08}", n.step) : "");
  }

  void evaluation(const std::string& name, const Numbers& n, bool per_token = true) const {
    const Json document = {{"name", "one"}, {"tokens", n.tokens}, {"scored", n.tokens - 1}, {"bytes", nullptr}};
    const Json json = {
        {"model", "runs/" + name + "/final"},
        {"step", n.step},
        {"sink", {{"kind", n.sink}, {"count", 1}}},
        {"cache", n.cache},
        {"dtype", "float32"},
        {"source", n.source},
        {"documents", {document}},
        {"rows", {row("window", 0, n.ppl_0, n), row("stream", 1, n.ppl_1, n), row("stream", 4, n.ppl_4, n)}}};
    write_file(file(name, stem(n) + ".json"), json.dump());
    if (per_token) {
      write_file(file(name, stem(n) + ".npy"), npy(3, n.tokens - 1, [&](int64_t r, int64_t) {
                   return static_cast<float>(std::log(r == 0 ? n.ppl_0 : n.ppl_4));
                 }));
    }
  }

  // Two layers of one head; the second head is over the threshold.
  void attention(const std::string& name, int64_t size = 4) const {
    std::vector<float> map(static_cast<size_t>(size * size), 0.25f);
    const Json json = {{"epsilon", 0.3},
                       {"positions", 64},
                       {"sequences", 100},
                       {"sink_first", 0.5},
                       {"sink_first_text", 0.0},
                       {"alpha", {{0.07}, {0.61}}},
                       {"alpha_first_text", {{0.02}, {0.03}}},
                       {"maps", {{"size", size}, {"values", {{map}, {map}}}}}};
    write_file(file(name, "eval/attention.json"), json.dump());
  }

  void whole_run(const std::string& name, const Numbers& n, double end_loss) const {
    config(name, n.sink);
    metrics(name, end_loss);
    evaluation(name, n);
    attention(name);
  }

  std::vector<RunRecord> read(const std::vector<std::string>& names) const {
    std::vector<fs::path> directories;
    for (const auto& name : names) directories.push_back(root_ / name);
    return read_runs(directories);
  }

  std::string page(const std::vector<std::string>& names) const {
    return report_page(read(names), "build/basin report");
  }

  /// The sentences about one run with these numbers.
  std::string sentences(const Numbers& n) const {
    evaluation("m", n, false);
    return streaming_sentences("m", read({"m"}).front().evaluations.front());
  }

  std::string error_of(const std::vector<std::string>& names) const {
    try {
      read(names);
    } catch (const std::exception& error) {
      return error.what();
    }
    return "no error";
  }

  fs::path root_;
};

const Numbers kUses{.sink = "token", .ppl_0 = 22, .ppl_1 = 20.04, .ppl_4 = 20, .low = 0.09, .high = 0.1};
const Numbers kUnused{.ppl_0 = 20.02, .ppl_1 = 20.01, .low = -0.0004, .high = 0.0024};

// ---- sentences

TEST_F(ReportTest, SaysThatOneTokenDoesTheWorkOfFour) {
  const std::string text = sentences(kUses);
  EXPECT_EQ(text,
            "m uses its first token: perplexity is 22.00 with none of them kept and 20.00 with four (+10.0 %), 95 % "
            "interval +0.090 to +0.100 nats a token. "
            "One kept token does the work of four: 20.04 against 20.00, +0.20 %.");
}

TEST_F(ReportTest, SaysThatTheFirstTokenIsNotUsed) {
  const std::string text = sentences(kUnused);
  EXPECT_TRUE(contains(text,
                       "m makes no measurable use of its first tokens: perplexity is 20.02 with none of them kept and "
                       "20.00 with four (+0.10 %)"))
      << text;
  EXPECT_TRUE(contains(text, "\u22120.0004 to +0.0024 nats a token does not exclude zero.")) << text;
  EXPECT_TRUE(contains(text, "but so is none: there is no work for the slot to do.")) << text;
}

TEST_F(ReportTest, AnIntervalThatTouchesZeroClaimsNothing) {
  Numbers touching = kUses;
  touching.low = 0;
  const std::string text = sentences(touching);
  EXPECT_TRUE(contains(text, "no measurable use")) << text;
  EXPECT_TRUE(contains(text, "interval 0 to +0.100 nats")) << text;
  EXPECT_FALSE(contains(text, "does the work of four")) << text;
  EXPECT_FALSE(contains(text, "so is none")) << text;  // 22 against 20 is not the same
}

TEST_F(ReportTest, TellsTheOtherReadingsApart) {
  Numbers n = kUses;
  n.ppl_1 = 20.11;  // +0.55 %
  EXPECT_TRUE(contains(sentences(n), "One kept token does not do the work of four: 20.11 against 20.00, +0.55 %."));
  EXPECT_TRUE(contains(sentences(n), "uses its first tokens:"));
  n.ppl_1 = 20.099;  // just below the limit of 0.5 %
  EXPECT_TRUE(contains(sentences(n), "does the work of four"));
  n.ppl_1 = 19;
  EXPECT_TRUE(contains(sentences(n), "One kept token does better than four"));
  n.ppl_0 = 18, n.low = -0.2, n.high = -0.1;
  EXPECT_TRUE(contains(sentences(n), "m streams better without its first tokens"));
  n.ppl_0 = 19.99, n.low = -0.0007, n.high = -0.0003;
  EXPECT_TRUE(contains(sentences(n), "m makes no use of its first tokens"));
  evaluation("m", n, false);
  EXPECT_EQ(first_tokens(read({"m"}).front().evaluations.front()), FirstTokens::kUnused);
}

TEST_F(ReportTest, WithoutAnIntervalNothingIsSaidAboutUse) {
  evaluation("m", kUses, false);
  Json json = Json::parse(read_file(file("m", stem(kUses) + ".json")));
  json["rows"][0]["nll_delta_ci95"] = nullptr;
  write_file(file("m", stem(kUses) + ".json"), json.dump());
  const SavedEvaluation evaluation = read({"m"}).front().evaluations.front();
  EXPECT_EQ(first_tokens(evaluation), FirstTokens::kUnknown);
  EXPECT_TRUE(contains(streaming_sentences("m", evaluation), "was not measured"));
}

TEST_F(ReportTest, HeadsThePageWithEachModel) {
  whole_run("none", kUnused, 3.0);
  whole_run("sink", kUses, 3.03);
  const std::string html = page({"none", "sink"});
  EXPECT_TRUE(contains(
      html,
      "<span>none makes no measurable use of its first token</span> <span>sink streams on one kept token</span>"));
  EXPECT_TRUE(contains(html, "none 3.000 after 20.0 k tokens, sink 3.030 after 20.0 k tokens. They end 1.0 % apart."));
  EXPECT_TRUE(contains(html,
                       "1 of its 2 heads (50 %) give more than 0.3 of their attention to the sink token, none "
                       "to the first token of the text."));
  EXPECT_TRUE(contains(html, "1 of its 2 heads (50 %) give more than 0.3 of their attention to the first token."));
}

// ---- the page

TEST_F(ReportTest, ShowsTheTableWithIntervals) {
  whole_run("none", kUnused, 3.0);
  whole_run("sink", kUses, 3.0);
  const std::string html = page({"none", "sink"});
  EXPECT_TRUE(contains(
      html,
      "<b>22.00</b></td><td>+0.095<span class=\"soft\">+0.090 to +0.100</span></td><td>1.500</td><td>31.0 k</td>"))
      << html;
  EXPECT_TRUE(contains(html, "<b>20.00</b></td><td><span class=\"soft\">reference</span></td>"));
  EXPECT_TRUE(contains(html, "1 kept <span class=\"soft\">+ 63 recent</span>"));
  EXPECT_EQ(std::ranges::count(html, '\0'), 0);
}

TEST_F(ReportTest, ShowsRowsThatKeepEverythingAndRowsThatScoreFewer) {
  evaluation("m", kUses, false);
  Json json = Json::parse(read_file(file("m", stem(kUses) + ".json")));
  Json dense = row("dense", 0, 41.9, kUses), recompute = row("recompute", 0, 20.75, kUses);
  dense["recent"] = nullptr;
  recompute["tokens"] = 120;
  recompute["nll_delta_ci95"] = nullptr;
  json["rows"].insert(json["rows"].end(), {dense, recompute});
  write_file(file("m", stem(kUses) + ".json"), json.dump());
  const std::string html = page({"m"});
  EXPECT_TRUE(contains(html, "dense <span class=\"soft\">nothing evicted</span></th><td class=\"first\"><b>41.90</b></td>"));
  EXPECT_TRUE(contains(html, "<b>20.75</b><span class=\"soft\">120 tokens</span>"));
  EXPECT_LT(html.find("4 kept <span"), html.find("recompute <span"));
}

TEST_F(ReportTest, IsSelfContainedAndSmall) {
  whole_run("none", kUnused, 3.0);
  whole_run("sink", kUses, 3.0);
  const std::string html = page({"none", "sink"});
  EXPECT_FALSE(contains(html, "http:"));
  EXPECT_FALSE(contains(html, "https:"));
  EXPECT_FALSE(contains(html, "<script"));
  EXPECT_FALSE(contains(html, "<link"));
  EXPECT_FALSE(contains(html, "url("));
  const std::regex reference("(src|href)=\"([^\"]{0,22})");
  int64_t references = 0;
  for (std::sregex_iterator it(html.begin(), html.end(), reference), end; it != end; ++it, ++references)
    EXPECT_EQ((*it)[2], "data:image/png;base64,");
  EXPECT_EQ(references, 2);
  EXPECT_LT(html.size(), 200000u);
}

/// Empty when every tag is closed in order and no bare & or < stands in the text; else what is wrong.
std::string ill_formed(const std::string& html) {
  static const std::regex entity("&(amp|lt|gt|quot|#39);"),
      tag("<(/?)([a-z0-9]+)((\\s+[a-zA-Z0-9:_-]+=\"[^\"<]*\")*)\\s*(/?)>");
  std::vector<std::string> open;
  for (size_t i = 15; i < html.size(); ++i) {  // behind <!DOCTYPE html>
    std::cmatch match;
    if (html[i] == '&' && !std::regex_search(html.data() + i, html.data() + html.size(), match, entity,
                                             std::regex_constants::match_continuous)) {
      return "bare & at " + html.substr(i, 40);
    }
    if (html[i] != '<') continue;
    const size_t close = html.find('>', i);
    if (close == std::string::npos || close - i > 2000) {  // an image: its data is too long for the regex engine
      if (html.compare(i, 7, "<image ") == 0 && html.compare(close - 1, 2, "/>") == 0) continue;
      return "unclosed tag at " + html.substr(i, 40);
    }
    if (html.compare(i, 6, "<path ") == 0) continue;
    if (!std::regex_match(html.data() + i, html.data() + close + 1, match, tag))
      return "no tag: " + html.substr(i, close + 1 - i);
    if (match[2] == "meta" || match[2] == "br" || match[5] == "/") continue;
    if (match[1] != "/") {
      open.push_back(match[2]);
    } else if (open.empty() || open.back() != match[2]) {
      return "closes " + match[2].str() + " inside " + (open.empty() ? "nothing" : open.back()) + " at " +
             html.substr(i, 60);
    } else {
      open.pop_back();
    }
  }
  return open.empty() ? "" : "never closed: " + open.back();
}

TEST_F(ReportTest, IsWellFormed) {
  EXPECT_NE(ill_formed("<!DOCTYPE html><p><b></p></b>"), "");
  EXPECT_NE(ill_formed("<!DOCTYPE html><p>a & b</p>"), "");
  EXPECT_NE(ill_formed("<!DOCTYPE html><p>"), "");
  whole_run("none", kUnused, 3.0);
  whole_run("sink", kUses, 3.0);
  config("bare", "token");
  EXPECT_EQ(ill_formed(page({"none", "sink"})), "");
  EXPECT_EQ(ill_formed(page({"none", "bare"})), "");
  EXPECT_EQ(ill_formed(page({"bare"})), "");
}

TEST_F(ReportTest, EscapesNames) {
  Numbers n = kUses;
  n.source = "a<b>&\"c\"";
  const std::string name = "x<i>&'y'";
  config(name, "token");
  metrics(name, 3);
  evaluation(name, n);
  const std::string html = page({name});
  EXPECT_EQ(ill_formed(html), "");
  EXPECT_TRUE(contains(html, "x&lt;i&gt;&amp;&#39;y&#39;"));
  EXPECT_TRUE(contains(html, "a&lt;b&gt;&amp;&quot;c&quot;"));
  EXPECT_FALSE(contains(html, "<i>"));
}

TEST_F(ReportTest, NamesTheCommandForWhatIsMissing) {
  config("bare", "token");
  const std::string html = page({"bare"}), directory = (root_ / "bare").string();
  EXPECT_TRUE(contains(html, "build/basin evaluate " + directory +
                                 " --dataset data/heldout --mode stream,dense --sinks 0,1,2,4 --save"));
  EXPECT_TRUE(contains(html, "build/basin attention " + directory + " --dataset data/heldout --save"));
  EXPECT_TRUE(contains(html, "build/basin train " + directory + "/config.yaml"));
  EXPECT_TRUE(contains(html, "<span>bare: not streamed yet</span>"));
  EXPECT_EQ(shell_word("a b'c"), "'a b'\\''c'");
}

TEST_F(ReportTest, SamePageForSameRuns) {
  whole_run("sink", kUses, 3.0);
  EXPECT_EQ(page({"sink"}), page({"sink"}));
}

// ---- what is compared

TEST_F(ReportTest, CallsItSinkAgainstVanillaOnlyWhenThatIsAll) {
  whole_run("none", kUnused, 3.0);
  whole_run("sink", kUses, 3.0);
  EXPECT_TRUE(contains(page({"none", "sink"}), "sink against vanilla"));
  config("sink", "token", "train: {seed: 2}\n");
  const std::string html = page({"none", "sink"});
  EXPECT_FALSE(contains(html, "sink against vanilla"));
  EXPECT_TRUE(contains(html, "<th><code>train.seed</code></th><td><span class=\"soft\">none</span></td><td>2</td>"));
  EXPECT_TRUE(contains(html, "<th><code>model.sink.kind</code></th><td>none</td><td>token</td>"));
  EXPECT_FALSE(contains(html, "<th><code>model.hidden_size</code></th><td>64</td><td>64</td>"));
  config("sink", "none");
  EXPECT_FALSE(contains(page({"none", "sink"}), "sink against vanilla"));
}

TEST_F(ReportTest, RefusesToCompareDifferentText) {
  whole_run("none", kUnused, 3.0);
  Numbers elsewhere = kUses;
  elsewhere.source = "other";
  whole_run("sink", elsewhere, 3.0);
  std::string html = page({"none", "sink"});
  EXPECT_TRUE(
      contains(html, "Not compared: the runs were evaluated on different text (none on heldout, sink on other)."));
  EXPECT_FALSE(contains(html, "against 4 kept, nats/token"));
  EXPECT_TRUE(contains(html, "<title>loss over training tokens</title>"));
  EXPECT_FALSE(contains(html, "streams on one kept token"));

  Numbers longer = kUses;  // the same name, cut into other tokens
  longer.tokens = 280;
  fs::remove_all(root_ / "sink");
  whole_run("sink", longer, 3.0);
  html = page({"none", "sink"});
  EXPECT_TRUE(contains(html,
                       "is not the same text, or not cut into the same tokens, in all runs (none 1 documents of 301 "
                       "tokens, sink 1 documents of 280 tokens)."));
  EXPECT_TRUE(contains(html, "the levels cannot"));
}

TEST_F(ReportTest, RefusesToCompareDifferentTokenizersAndCaches) {
  whole_run("none", kUnused, 3.0);
  Numbers smaller = kUses;
  smaller.cache = 32;
  whole_run("sink", smaller, 3.0);
  EXPECT_TRUE(contains(page({"none", "sink"}), "no cache size in common (none with cache 64, sink with cache 32)"));
  evaluation("sink", kUses);
  EXPECT_EQ(compare(read({"none", "sink"})).refusal, "");
  write_file(file("none", "step-00000020/tokenizer.model"), "one");
  write_file(file("sink", "step-00000020/tokenizer.model"), "two");
  EXPECT_TRUE(contains(compare(read({"none", "sink"})).refusal, "different tokenizers"));
}

// ---- what is read

TEST_F(ReportTest, BinsLossesByPosition) {
  Numbers n;
  n.tokens = 1001;
  evaluation("m", n, false);
  const auto nll = [](int64_t r, int64_t c) {
    return r == 1 && (c < 300 || c % 2 == 1) ? std::numeric_limits<float>::quiet_NaN()
                                             : static_cast<float>(c < 500 ? 1 : 2);
  };
  write_file(file("m", stem(n) + ".npy"), npy(3, 1000, nll));
  const auto runs = read({"m"});
  const SavedEvaluation& e = runs.front().evaluations.front();
  ASSERT_EQ(e.by_position.size(), 3u);
  EXPECT_EQ(e.bins.front(), 1);
  EXPECT_EQ(e.bins.back(), 1001);
  EXPECT_TRUE(std::ranges::is_sorted(e.bins));
  for (size_t b = 0; b + 1 < e.bins.size(); ++b) {
    for (const int64_t r : {0, 1}) {  // the mean over the bin's scored positions, one document
      double sum = 0, count = 0;
      for (int64_t position = e.bins[b]; position < e.bins[b + 1]; ++position) {
        if (!std::isnan(nll(r, position - 1))) sum += nll(r, position - 1), count += 1;
      }
      const double found = e.by_position[static_cast<size_t>(r)][b];
      EXPECT_TRUE(count >= kFewestTokens ? std::abs(found - std::exp(sum / count)) < 1e-9 : std::isnan(found))
          << r << " " << e.bins[b] << " " << found;
    }
  }
  EXPECT_TRUE(std::isnan(e.by_position[1].front()));
  EXPECT_TRUE(std::isfinite(e.by_position[1].back()));
  EXPECT_NEAR(e.by_position[0].front(), std::exp(1.0), 1e-9);
  EXPECT_FALSE(position_plot(runs, compare(runs).groups.front(), 0).empty());
}

TEST_F(ReportTest, DrawsWhatEvictionCostsOverTraining) {
  whole_run("sink", kUses, 3);
  for (const auto& [step, ppl_0] : {std::pair{10, 20.0}, std::pair{20, 22.0}}) {
    Numbers n = kUses;
    n.ppl_0 = ppl_0;
    n.step = step;
    n.by_name = true;
    evaluation("sink", n);
  }
  const std::vector<RunRecord> runs = read({"sink"});
  ASSERT_EQ(runs.front().evaluations.size(), 1u) << "earlier steps are no results of the run";
  ASSERT_EQ(runs.front().trajectory.size(), 2u) << "the newest step counts once";
  EXPECT_EQ(runs.front().trajectory.front().step, 10);
  EXPECT_NEAR(runs.front().trajectory.back().streaming_row(0)->nll_delta, std::log(1.1), 1e-12);
  const std::string plot = eviction_plot(runs);
  const std::regex dot("<circle");
  EXPECT_EQ(std::distance(std::sregex_iterator(plot.begin(), plot.end(), dot), std::sregex_iterator()), 3)
      << "one in the legend: " << plot;
  EXPECT_TRUE(contains(page({"sink"}), "none kept against four"));
}

TEST_F(ReportTest, LeavesOutWhatWasMeasuredBeforeTrainingWentOn) {
  whole_run("sink", kUses, 3);  // measured at step 20
  write_file(file("sink", "step-00000020/manifest.json"), "{}");
  EXPECT_EQ(read({"sink"}).front().evaluations.size(), 1u);
  write_file(file("sink", "step-00000060/manifest.json"), "{}");
  EXPECT_EQ(read({"sink"}).front().evaluations.size(), 0u);
  EXPECT_EQ(read({"sink"}).front().trajectory.size(), 1u);
  EXPECT_TRUE(contains(page({"sink"}), "sink has not been streamed."));
}

TEST_F(ReportTest, RefusesWhatIsNoRun) {
  EXPECT_TRUE(contains(error_of({"nowhere"}), "nowhere: no such run directory"));
  file("empty", "other.txt");
  const std::string error = error_of({"empty"});
  EXPECT_TRUE(contains(error, "looked for config.yaml, metrics.jsonl, eval/evaluate-*.json and eval/attention.json"))
      << error;
  EXPECT_EQ(std::ranges::count(error, '\n'), 0);
  config("a", "none");
  EXPECT_THROW(read({"a", "a"}), std::invalid_argument);
  EXPECT_THROW(read({"nowhere"}), std::runtime_error);
}

TEST_F(ReportTest, NamesDamagedFiles) {
  whole_run("m", kUses, 3.0);
  const std::string metrics_text = read_file(file("m", "metrics.jsonl"));
  write_file(file("m", "metrics.jsonl"), metrics_text + "{\"step\": 21, \"tok");  // still being written
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

TEST_F(ReportTest, MapsStayBelowTheirLimit) {
  SavedAttention attention{.epsilon = 0.3,
                           .sink_first = 0,
                           .sink_first_text = 0,
                           .positions = 64,
                           .sequences = 1,
                           .map_size = 64,
                           .alpha = {{0.1, 0.4}},
                           .maps = {{}}};
  std::vector<float> noise(64 * 64);
  uint32_t state = 1;
  for (float& v : noise)
    v = static_cast<float>((state = state * 1664525u + 1013904223u) >> 8) / static_cast<float>(1 << 24);
  attention.maps[0] = {noise, noise};
  const std::string full = draw_attention(attention, "sink-0", 1000000),
                    small = draw_attention(attention, "sink-0", 1500);
  EXPECT_GT(full.size(), 5000u);
  EXPECT_LT(small.size(), 4500u);
  EXPECT_EQ(ill_formed("<!DOCTYPE html>" + small), "");
  EXPECT_TRUE(contains(full, "tile over\"><title>layer 0, head 1: 0.400"));
  EXPECT_TRUE(contains(full, "tile\"><title>layer 0, head 0: 0.100"));
}

TEST(ReportSvg, Base64MatchesRfc4648) {
  EXPECT_EQ(base64(""), "");
  EXPECT_EQ(base64("f"), "Zg==");
  EXPECT_EQ(base64("fo"), "Zm8=");
  EXPECT_EQ(base64("foo"), "Zm9v");
  EXPECT_EQ(base64("foobar"), "Zm9vYmFy");
}

TEST(ReportSvg, PngHasTheRightSizeAndChunks) {
  const std::string png = encode_png({0, 128, 255, 7, 8, 9}, 3, 2);
  EXPECT_EQ(png.substr(0, 8), "\x89PNG\r\n\x1a\n");
  EXPECT_EQ(png.substr(12, 4), "IHDR");
  EXPECT_EQ(png.substr(16, 8), std::string("\0\0\0\3\0\0\0\2", 8));
  for (const char* type : {"PLTE", "tRNS", "IDAT"}) EXPECT_TRUE(contains(png, type));
  EXPECT_EQ(png.substr(png.size() - 8), "IEND\xae\x42\x60\x82");  // its checksum is known
}

TEST(ReportSvg, PlotsAreFilesOfTheirOwn) {
  Plot plot{.title = "a < b", .x_label = "x", .y_label = "y"};
  plot.curves.push_back({.label = "one & two",
                         .colour = "sink-0",
                         .mark = PlotCurve::Mark::kLine,
                         .points = {{1, 2}, {2, NAN}, {3, 4}, {4, 5}}});
  const std::string svg = svg_file(draw_plot(plot));
  EXPECT_EQ(svg.rfind("<svg xmlns=\"http://www.w3.org/2000/svg\" class=\"plot\"", 0), 0u) << svg.substr(0, 80);
  EXPECT_EQ(ill_formed("<!DOCTYPE html>" + draw_plot(plot)), "");
  EXPECT_TRUE(contains(svg, "a &lt; b"));
  const size_t path = svg.find("d=\"M");
  EXPECT_EQ(std::ranges::count(svg.substr(path, svg.find('"', path + 3) - path), 'M'), 2);  // the gap lifts the pen
}

TEST(ReportText, FormatsNumbers) {
  EXPECT_EQ(format_change(0.0621), "+6.2 %");
  EXPECT_EQ(format_change(-0.0012), "\u22120.12 %");
  EXPECT_EQ(format_change(0), "0.00 %");
  EXPECT_EQ(format_nats(0.0604), "+0.060");
  EXPECT_EQ(format_nats(-0.00042), "\u22120.0004");
  EXPECT_EQ(format_nats(NAN), "n/a");
  EXPECT_EQ(format_perplexity(29214), "29\u202f214");
  EXPECT_EQ(format_perplexity(1235.2), "1\u202f235");
  EXPECT_EQ(format_perplexity(999.96), "1000.0");
  EXPECT_EQ(format_perplexity(18.014), "18.01");
}

}  // namespace
}  // namespace basin
