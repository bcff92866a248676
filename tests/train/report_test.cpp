// The report: the sentences it computes, the page it writes.
#include "tests/train/report_fixture.h"

namespace basin {
namespace {

TEST_F(ReportTest, SaysThatOneTokenDoesTheWorkOfFour) {
  const std::string text = sentences(kUses);
  EXPECT_EQ(text,
            "m uses its first token: perplexity is 22.00 with none of them kept and 20.00 with "
            "four (+10.0 %), 95 % "
            "interval +0.090 to +0.100 nats a token. "
            "One kept token does the work of four: 20.04 against 20.00, +0.20 %.");
}

TEST_F(ReportTest, SaysThatTheFirstTokenIsNotUsed) {
  const std::string text = sentences(kUnused);
  EXPECT_TRUE(contains(text,
                       "m makes no measurable use of its first tokens: perplexity is 20.02 with "
                       "none of them kept and "
                       "20.00 with four (+0.10 %)"))
      << text;
  EXPECT_TRUE(contains(text, "\u22120.0004 to +0.0024 nats a token does not exclude zero."))
      << text;
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
  EXPECT_TRUE(contains(
      sentences(n), "One kept token does not do the work of four: 20.11 against 20.00, +0.55 %."));
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
  EXPECT_TRUE(contains(html,
                       "<span>none makes no measurable use of its first token</span> <span>sink "
                       "streams on one kept token</span>"));
  EXPECT_TRUE(contains(
      html,
      "none 3.000 after 20.0 k tokens, sink 3.030 after 20.0 k tokens. They end 1.0 % apart."));
  EXPECT_TRUE(contains(
      html,
      "1 of its 2 heads (50 %) give more than 0.3 of their attention to the sink token, none "
      "to the first token of the text."));
  EXPECT_TRUE(contains(
      html, "1 of its 2 heads (50 %) give more than 0.3 of their attention to the first token."));
}

// ---- the page

TEST_F(ReportTest, ShowsTheTableWithIntervals) {
  whole_run("none", kUnused, 3.0);
  whole_run("sink", kUses, 3.0);
  const std::string html = page({"none", "sink"});
  EXPECT_TRUE(contains(html,
                       "<b>22.00</b></td><td>+0.095<span class=\"soft\">+0.090 to "
                       "+0.100</span></td><td>1.500</td><td>31.0 k</td>"))
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
  EXPECT_TRUE(contains(html,
                       "dense <span class=\"soft\">nothing evicted</span></th><td "
                       "class=\"first\"><b>41.90</b></td>"));
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
  for (std::sregex_iterator it(html.begin(), html.end(), reference), end; it != end;
       ++it, ++references)
    EXPECT_EQ((*it)[2], "data:image/png;base64,");
  EXPECT_EQ(references, 2);
  EXPECT_LT(html.size(), 200000u);
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
  EXPECT_TRUE(contains(html,
                       "build/basin evaluate " + directory +
                           " --dataset data/heldout --mode stream,dense --sinks 0,1,2,4 --save"));
  EXPECT_TRUE(
      contains(html, "build/basin attention " + directory + " --dataset data/heldout --save"));
  EXPECT_TRUE(contains(html, "build/basin train " + directory + "/config.yaml"));
  EXPECT_TRUE(contains(html, "<span>bare: not streamed yet</span>"));
  EXPECT_EQ(shell_word("a b'c"), "'a b'\\''c'");
  config("a b", "token");
  EXPECT_TRUE(contains(page({"a b"}),
                       "--set &#39;run.dir=" + (root_ / "a b").string() + "-again&#39;\n"));
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
  EXPECT_TRUE(contains(
      html, "<th><code>train.seed</code></th><td><span class=\"soft\">none</span></td><td>2</td>"));
  EXPECT_TRUE(contains(html, "<th><code>model.sink.kind</code></th><td>none</td><td>token</td>"));
  EXPECT_FALSE(contains(html, "<th><code>model.hidden_size</code></th><td>64</td><td>64</td>"));
  config("sink", "none");
  EXPECT_FALSE(contains(page({"none", "sink"}), "sink against vanilla"));
}

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
      EXPECT_TRUE(count >= kFewestTokens ? std::abs(found - std::exp(sum / count)) < 1e-9
                                         : std::isnan(found))
          << r << " " << e.bins[b] << " " << found;
    }
  }
  EXPECT_TRUE(std::isnan(e.by_position[1].front()));
  EXPECT_TRUE(std::isfinite(e.by_position[1].back()));
  EXPECT_NEAR(e.by_position[0].front(), std::exp(1.0), 1e-9);
  EXPECT_FALSE(position_plot(runs, compare(runs).groups.front(), 0).empty());
}

TEST_F(ReportTest, BinsOfSeveralDocumentsHaveEnoughTokens) {
  evaluation("m", kUses, false);
  Json json = Json::parse(read_file(file("m", stem(kUses) + ".json")));
  json["documents"].clear();
  const std::vector<int64_t> scored = {300, 10, 0, 1000, 40, 40, 7};
  for (const int64_t n : scored)
    json["documents"].push_back({{"tokens", n + 1}, {"scored", n}, {"bytes", nullptr}});
  write_file(file("m", stem(kUses) + ".json"), json.dump());
  const auto runs = read({"m"});
  const std::vector<int64_t>& bins = runs.front().evaluations.front().bins;
  EXPECT_EQ(bins.front(), 1);
  EXPECT_EQ(bins.back(), 1001);
  EXPECT_EQ(bins[1], 13) << "six documents reach position 7, five 10, four 12";
  for (size_t b = 0; b + 1 < bins.size(); ++b) {
    int64_t tokens = 0;
    for (const int64_t n : scored)
      tokens += std::max<int64_t>(0, std::min(n + 1, bins[b + 1]) - bins[b]);
    EXPECT_GE(tokens, 2 * kFewestTokens);
  }
}

// Text so short that it is one bin, in which all rows agree.
TEST_F(ReportTest, APlotOfOneNumberIsDrawn) {
  Numbers n = kUses;
  n.tokens = 61;
  n.ppl_0 = n.ppl_4;
  evaluation("m", n);
  const auto runs = read({"m"});
  ASSERT_EQ(runs.front().evaluations.front().bins.size(), 2u);
  const std::string plot = position_plot(runs, compare(runs).groups.front(), 0);
  EXPECT_TRUE(contains(plot, "<path")) << plot;
  EXPECT_FALSE(contains(plot, "nan")) << plot;
  EXPECT_FALSE(contains(plot, "inf")) << plot;
}

TEST_F(ReportTest, HeldOutLossesStandWithTheTokensThatTheyWereMeasuredAt) {
  metrics("m", 3.0);
  std::string lines = read_file(file("m", "metrics.jsonl"));
  Json later = Json::parse(lines.substr(lines.rfind('{')));
  later["step"] = 30, later["tokens"] = 30000, later["val_loss"] = nullptr;
  write_file(file("m", "metrics.jsonl"), lines + later.dump() + "\n");
  EXPECT_TRUE(contains(page({"m"}), "m 3.000 after 20.0 k tokens."));
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
  EXPECT_EQ(
      std::distance(std::sregex_iterator(plot.begin(), plot.end(), dot), std::sregex_iterator()), 3)
      << "one in the legend: " << plot;
  EXPECT_TRUE(contains(page({"sink"}), "none kept against four"));
}

// Steps that were saved need not be steps that were logged, and the cache with most of them counts.
TEST_F(ReportTest, DrawsEvictionOfStepsThatWereNotLogged) {
  whole_run("sink", kUses, 3);  // logs 1 to 20
  Numbers other = kUses;
  other.cache = 32;
  evaluation("sink", other);
  for (const int64_t step : {15, 33}) {
    Numbers n = kUses;
    n.step = step;
    n.by_name = true;
    evaluation("sink", n);
  }
  const std::string plot = eviction_plot(read({"sink"}));
  EXPECT_TRUE(contains(plot, "none kept against 4, cache 64")) << plot;
  const std::regex dot("<circle");
  EXPECT_EQ(
      std::distance(std::sregex_iterator(plot.begin(), plot.end(), dot), std::sregex_iterator()), 4)
      << "one in the legend: " << plot;
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

}  // namespace
}  // namespace basin
