// The verb `report`.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "configs/files.h"
#include "configs/json_text.h"
#include "configs/log.h"
#include "train/commands.h"
#include "train/report.h"
#include "train/report_findings.h"
#include "train/report_plots.h"
#include "train/report_svg.h"

namespace basin {
namespace {

namespace fs = std::filesystem;

struct ReportOptions {
  std::vector<fs::path> runs;
  fs::path out, svg_directory;
  bool json = false;
};

fs::path output_file(const ReportOptions& options) {
  if (!options.out.empty()) return options.out;
  const fs::path directory = without_slash(options.runs.front());
  return (options.runs.size() == 1 ? directory : directory.parent_path()) / "report.html";
}

std::string command_line(const ReportOptions& options) {
  std::string command = "build/basin report";
  for (const fs::path& run : options.runs) command += " " + shell_word(run.string());
  return command + " --out " + shell_word(output_file(options).string());
}

void write_parent(const fs::path& file, const std::string& bytes) {
  make_writable_place(file);
  write_file(file, bytes);
}

void write_pictures(const std::vector<RunRecord>& runs, const fs::path& directory) {
  const Comparison comparison = compare(runs);
  const std::string loss = loss_plot(runs), eviction = eviction_plot(runs),
                    streaming = comparison.groups.empty() ? "" : streaming_plot(runs, comparison.groups.front());
  if (!loss.empty()) write_parent(directory / "loss.svg", svg_file(loss));
  if (!eviction.empty()) write_parent(directory / "eviction.svg", svg_file(eviction));
  if (!streaming.empty()) write_parent(directory / "streaming.svg", svg_file(streaming));
  if (loss.empty()) log_warn("no {}: none of the runs has a training log", (directory / "loss.svg").string());
  if (streaming.empty()) {
    log_warn("no {}: {}", (directory / "streaming.svg").string(),
             comparison.refusal.empty() ? "run " + evaluate_command(runs.front(), comparison) : comparison.refusal);
  }
}

/// {page, runs: [{name, directory}], headline: [text], findings: [{run: its place or null, text}]}
std::string json_text(const std::vector<RunRecord>& runs, const fs::path& page) {
  const Comparison comparison = compare(runs);
  nlohmann::ordered_json json;
  json["page"] = page.string();
  json["runs"] = nlohmann::ordered_json::array();
  for (const RunRecord& run : runs)
    json["runs"].push_back({{"name", run.name}, {"directory", run.directory.string()}});
  json["headline"] = headline(runs, comparison);
  json["findings"] = nlohmann::ordered_json::array();
  for (const Finding& finding : findings(runs, comparison)) {
    nlohmann::ordered_json run = nullptr;
    if (finding.run >= 0) run = finding.run;
    json["findings"].push_back({{"run", run}, {"text", finding.text}});
  }
  return to_text(json);
}

void make_report(const ReportOptions& options) {
  const std::vector<RunRecord> runs = read_runs(options.runs);
  const fs::path file = output_file(options);
  write_parent(file, report_page(runs, command_line(options)));
  if (!options.svg_directory.empty()) write_pictures(runs, options.svg_directory);
  write_stdout(options.json ? json_text(runs, file)
                            : fmt::format("{}{}\n", report_summary(runs), file.string()));
}

}  // namespace

void add_report(CLI::App& app) {
  auto options = std::make_shared<ReportOptions>();
  CLI::App* verb = app.add_subcommand(
      "report",
      "one self-contained HTML page about one or more runs: loss curves, one kept token against four, attention");
  verb->add_option("RUN", options->runs, "run directories; those to compare in one page, vanilla first")->required();
  verb->add_option("--out", options->out,
                   "the page; default report.html in the run, or beside the runs when there are several");
  verb->add_option("--svg", options->svg_directory, "also write loss.svg, streaming.svg and, where earlier steps were streamed, eviction.svg into this directory");
  verb->add_flag("--json", options->json, "print the findings as one JSON document");
  verb->footer("Example:\n  basin report runs/demo-none runs/demo-sink --out runs/demo/report.html");
  verb->callback([options] { make_report(*options); });
}

}  // namespace basin
