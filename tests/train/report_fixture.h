// Run directories with numbers chosen so that what the report says of them is known beforehand.
#pragma once

#include <fmt/format.h>
#include <gtest/gtest.h>

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
#include "configs/scratch_folder.h"
#include "train/report.h"
#include "train/report_findings.h"
#include "train/report_maps.h"
#include "train/report_plots.h"
#include "train/report_svg.h"

namespace basin {

namespace fs = std::filesystem;
using Json = nlohmann::json;

inline bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

/// What a run's files say.
struct Numbers {
  std::string sink = "none";
  double ppl_0 = 20, ppl_1 = 20, ppl_4 = 20;  // by kept tokens
  double low = -0.01, high = 0.01;            // interval of row 0 against row 4, nats
  std::string source = "heldout";
  int64_t cache = 64, tokens = 301;  // tokens of the one document
  std::string dtype = "float32";
  int64_t step = 20;
  bool by_name = false;  // the step was asked for by its name
};

inline Json row(const std::string& mode, int64_t sinks, double perplexity, const Numbers& n) {
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

inline std::string npy(int64_t rows,
                       int64_t columns,
                       const std::function<float(int64_t, int64_t)>& value) {
  std::string header =
      fmt::format("{{'descr': '<f4', 'fortran_order': False, 'shape': ({}, {}), }}", rows, columns);
  header.append(64 - (10 + header.size() + 1) % 64, ' ').push_back('\n');
  std::string bytes =
      std::string("\x93NUMPY\x01\x00", 8) + static_cast<char>(header.size()) + '\0' + header;
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
  fs::path file(const std::string& name, const std::string& part) const {
    const fs::path path = root_ / name / part;
    fs::create_directories(path.parent_path());
    return path;
  }

  void config(const std::string& name,
              const std::string& sink,
              const std::string& more = "") const {
    write_file(file(name, "config.yaml"),
               fmt::format("run: {{dir: runs/{}}}\nmodel: {{hidden_size: 64, sink: {{kind: "
                           "{}}}}}\ndata: {{heldout: data/heldout}}\n{}",
                           name,
                           sink,
                           more));
  }

  void metrics(const std::string& name, double end_loss) const {
    std::string lines;
    for (int64_t step = 1; step <= 20; ++step) {
      const Json validation = step == 20 ? Json(end_loss) : Json(nullptr);
      lines += Json{{"step", step},
                    {"tokens", step * 1000},
                    {"loss", end_loss + 1.0 / static_cast<double>(step)},
                    {"lr", 1e-3},
                    {"grad_norm", 1},
                    {"tokens_per_second", 25000},
                    {"mfu", nullptr},
                    {"val_loss", validation},
                    {"sink_metric", 0.25},
                    {"skipped", 0},
                    {"seconds", step}}
                   .dump() +
               "\n";
    }
    write_file(file(name, "metrics.jsonl"), lines);
  }

  std::string stem(const Numbers& n) const {
    return fmt::format("eval/evaluate-{}-C{}{}{}",
                       n.source,
                       n.cache,
                       n.dtype == "float32" ? "" : "-" + n.dtype,
                       n.by_name ? fmt::format("-step-{:08}", n.step) : "");
  }

  void evaluation(const std::string& name, const Numbers& n, bool per_token = true) const {
    const Json document = {
        {"name", "one"}, {"tokens", n.tokens}, {"scored", n.tokens - 1}, {"bytes", nullptr}};
    const Json json = {{"model", "runs/" + name + "/final"},
                       {"step", n.step},
                       {"sink", {{"kind", n.sink}, {"count", 1}}},
                       {"cache", n.cache},
                       {"dtype", n.dtype},
                       {"source", n.source},
                       {"documents", {document}},
                       {"rows",
                        {row("window", 0, n.ppl_0, n),
                         row("stream", 1, n.ppl_1, n),
                         row("stream", 4, n.ppl_4, n)}}};
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

  const ScratchFolder folder_;
  const fs::path root_ = folder_.path();
};

const Numbers kUses{
    .sink = "token", .ppl_0 = 22, .ppl_1 = 20.04, .ppl_4 = 20, .low = 0.09, .high = 0.1};
const Numbers kUnused{.ppl_0 = 20.02, .ppl_1 = 20.01, .low = -0.0004, .high = 0.0024};

// ---- sentences

/// Empty when every tag is closed in order and no bare & or < stands in the text; else what is
/// wrong.
inline std::string ill_formed(const std::string& html) {
  static const std::regex entity("&(amp|lt|gt|quot|#39);"),
      tag("<(/?)([a-z0-9]+)((\\s+[a-zA-Z0-9:_-]+=\"[^\"<]*\")*)\\s*(/?)>");
  std::vector<std::string> open;
  for (size_t i = 15; i < html.size(); ++i) {  // behind <!DOCTYPE html>
    std::cmatch match;
    if (html[i] == '&' && !std::regex_search(html.data() + i,
                                             html.data() + html.size(),
                                             match,
                                             entity,
                                             std::regex_constants::match_continuous)) {
      return "bare & at " + html.substr(i, 40);
    }
    if (html[i] != '<') continue;
    const size_t close = html.find('>', i);
    if (close == std::string::npos ||
        close - i > 2000) {  // an image: its data is too long for the regex engine
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
      return "closes " + match[2].str() + " inside " + (open.empty() ? "nothing" : open.back()) +
             " at " + html.substr(i, 60);
    } else {
      open.pop_back();
    }
  }
  return open.empty() ? "" : "never closed: " + open.back();
}

}  // namespace basin
