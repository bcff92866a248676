// Puts the report's page together: findings first, then the table, then the plots. Words come from report_findings,
// pictures from report_plots and report_maps; here is only what stands where, and what stands there when a part is
// missing.
#include "train/report.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <torch/headeronly/version.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "configs/progress.h"
#include "train/report_findings.h"
#include "train/report_maps.h"
#include "train/report_plots.h"
#include "train/report_style.h"
#include "train/report_svg.h"

namespace basin {
namespace {

constexpr size_t kMapsLimitBytes = 400000;  // of PNG for all runs together; base64 adds a third

std::string element(const std::string& tag, const std::string& html, const std::string& css = "") {
  return css.empty() ? fmt::format("<{0}>{1}</{0}>\n", tag, html)
                     : fmt::format("<{0} class=\"{2}\">{1}</{0}>\n", tag, html, css);
}

std::string figure(const std::string& svg, const std::string& caption) {
  return svg.empty() ? "" : fmt::format("<figure>{}<figcaption>{}</figcaption></figure>\n", svg, escape_html(caption));
}

std::string missing(const std::string& what, const std::string& command) {
  return fmt::format("<p class=\"missing\">{} To make it:<br><code>{}</code></p>\n", escape_html(what),
                     escape_html(command));
}

std::string run_name(const std::string& name, const std::string& colour) {
  return fmt::format("<span class=\"run {}\">{}</span>", colour, escape_html(name));
}

std::string table(const std::string& head, const std::string& body) {
  return fmt::format("<div class=\"scroll\"><table><thead>{}</thead><tbody>{}</tbody></table></div>\n", head, body);
}

// ---- head of the page

std::string findings_list(const std::vector<RunRecord>& runs, const Comparison& comparison) {
  const auto colours = run_colours(runs);
  std::string items;
  for (const Finding& finding : findings(runs, comparison)) {
    const std::string colour = finding.run < 0 ? "plain" : colours[static_cast<size_t>(finding.run)];
    items += fmt::format("<li class=\"{}\">{}</li>\n", colour, escape_html(finding.text));
  }
  return items.empty() ? "" : "<ul class=\"findings\">\n" + items + "</ul>\n";
}

std::string differences_table(const std::vector<RunRecord>& runs) {
  std::string unknown;
  for (const RunRecord& run : runs) {
    if (run.config.empty())
      unknown += missing(run.name + " has no config.yaml, so how it differs is not known.", train_command(run));
  }
  if (runs.size() < 2) return unknown;
  const auto differences = config_differences(runs);
  const auto colours = run_colours(runs);
  std::string head = "<th>differs in</th>", body;
  for (size_t i = 0; i < runs.size(); ++i) head += element("th", run_name(runs[i].name, colours[i]));
  for (const KeyDifference& difference : differences) {
    std::string cells = "<th><code>" + escape_html(difference.key) + "</code></th>";
    for (const std::string& value : difference.values)
      cells += "<td>" + (value.empty() ? "<span class=\"soft\">none</span>" : escape_html(value)) + "</td>";
    body += element("tr", cells);
  }
  if (differences.empty()) return unknown + "<p class=\"soft\">The configurations are equal in every key.</p>\n";
  return unknown + table(element("tr", head), body) + "<p class=\"soft\">All other keys are equal.</p>\n";
}

std::string title_of(const std::vector<RunRecord>& runs) {
  if (is_sink_against_vanilla(runs)) return "sink against vanilla";
  return runs.size() == 1 ? "one run" : fmt::format("{} runs", runs.size());
}

// ---- the one-versus-four table

/// A row of the table: the same mode and number of kept tokens in every run.
struct RowKey {
  int64_t order;  // streaming rows by kept tokens, then the rest
  std::string mode;
  int64_t sinks;
  auto operator<=>(const RowKey&) const = default;
};

RowKey key_of(const SavedRow& row) {
  return {row.streams()             ? row.sinks
          : row.mode == "recompute" ? 1000
                                    : 1001,
          row.streams() ? "stream" : row.mode, row.streams() ? row.sinks : 0};
}

std::string row_label(const RowKey& key, const SavedRow& row) {
  if (key.mode == "dense") return "dense <span class=\"soft\">nothing evicted</span>";
  if (key.mode == "recompute") return fmt::format("recompute <span class=\"soft\">last {} anew</span>", row.sinks + row.recent + 1);
  return fmt::format("{} kept <span class=\"soft\">+ {} recent</span>", row.sinks, row.recent);
}

std::string evaluate_cells(const SavedRow* row, int64_t most_tokens) {
  if (row == nullptr) return "<td class=\"first\">n/a</td><td></td><td></td><td></td>";
  std::string fewer = row->tokens < most_tokens
                          ? fmt::format("<span class=\"soft\">{} tokens</span>", format_integer(row->tokens))
                          : "";
  std::string delta = "<span class=\"soft\">reference</span>";
  if (!(row->streams() && row->sinks == 4)) {
    delta = format_nats(row->nll_delta);
    if (row->has_interval())
      delta += fmt::format("<span class=\"soft\">{} to {}</span>", format_nats(row->ci_low), format_nats(row->ci_high));
  }
  return fmt::format("<td class=\"first\"><b>{}</b>{}</td><td>{}</td><td>{}</td><td>{}</td>",
                     format_perplexity(row->perplexity), fewer, delta,
                     std::isfinite(row->bits_per_byte) ? fmt::format("{:.3f}", row->bits_per_byte) : "n/a",
                     std::isfinite(row->tokens_per_second) ? format_count(row->tokens_per_second) : "n/a");
}

const SavedRow* find_row(const SavedEvaluation& evaluation, const RowKey& key) {
  const auto it = std::ranges::find(evaluation.rows, key, key_of);
  return it == evaluation.rows.end() ? nullptr : &*it;
}

int64_t scored_tokens(const EvaluationGroup& group) {
  int64_t most = 0;
  for (const SavedEvaluation* evaluation : group.by_run) {
    if (evaluation == nullptr) continue;
    for (const SavedRow& row : evaluation->rows) most = std::max(most, row.tokens);
  }
  return most;
}

std::string streaming_table(const std::vector<RunRecord>& runs, const EvaluationGroup& group) {
  const auto colours = run_colours(runs);
  std::string names = "<th></th>", units = "<th></th>", body;
  std::set<RowKey> keys;
  for (size_t i = 0; i < runs.size(); ++i) {
    if (group.by_run[i] == nullptr) continue;
    names += "<th colspan=\"4\" class=\"first\">" + run_name(runs[i].name, colours[i]) + "</th>";
    units +=
        "<th class=\"first\">perplexity</th><th>against 4 kept, nats/token</th><th>bits/byte</th><th>tokens/s</th>";
    for (const SavedRow& row : group.by_run[i]->rows) keys.insert(key_of(row));
  }
  const int64_t most = scored_tokens(group);
  for (const RowKey& key : keys) {
    std::string label, cells;
    for (const SavedEvaluation* evaluation : group.by_run) {
      if (evaluation == nullptr) continue;
      const SavedRow* row = find_row(*evaluation, key);
      if (row != nullptr) label = row_label(key, *row);
      cells += evaluate_cells(row, most);
    }
    const bool main_row = key.mode == "stream" && (key.sinks == 1 || key.sinks == 4);
    body += element("tr", "<th>" + label + "</th>" + cells, main_row ? "main" : "");
  }
  return table(element("tr", names) + element("tr", units, "units"), body);
}

std::string streaming_note(const EvaluationGroup& group) {
  const auto& evaluation = **std::ranges::find_if(group.by_run, [](const SavedEvaluation* e) { return e != nullptr; });
  const std::string evicting =
      evaluation.after_eviction < 0
          ? ""
          : fmt::format(", {} of them after tokens have left the cache", format_integer(evaluation.after_eviction));
  return fmt::format(
      "Held-out text {}: {} documents, {} scored tokens{}, each document its own stream through a cache of {} entries{}. "
      "Below each difference its "
      "95 % interval: paired per token, blocks of 512 tokens resampled.",
      evaluation.source, evaluation.documents.size(), format_integer(scored_tokens(group)), evicting, group.cache,
      group.unusual_dtype());
}

std::string streaming_section(const std::vector<RunRecord>& runs, const Comparison& comparison) {
  std::string html = element("h2", "One kept token against four");
  if (!comparison.refusal.empty()) html += element("p", escape_html(comparison.refusal), "missing");
  for (const EvaluationGroup& group : comparison.groups) {
    if (&group != &comparison.groups.front())
      html += element("h3", escape_html(fmt::format("{} with a cache of {}{}", group.source, group.cache, group.unusual_dtype())));
    html += streaming_table(runs, group) + element("p", escape_html(streaming_note(group)), "soft");
    if (&group == &comparison.groups.front()) continue;
    for (size_t i = 0; i < runs.size(); ++i) {
      if (group.by_run[i] != nullptr)
        html += element("p", escape_html(streaming_sentences(runs[i].name, *group.by_run[i])));
    }
  }
  for (const RunRecord& run : runs) {
    if (run.evaluations.empty())
      html += missing(run.name + " has not been streamed.", evaluate_command(run, comparison));
  }
  return html;
}

/// The one-versus-four picture and the loss curves, side by side.
std::string main_plots(const std::vector<RunRecord>& runs, const Comparison& comparison) {
  std::string streaming;
  if (!comparison.groups.empty()) streaming = streaming_plot(runs, comparison.groups.front());
  std::string caption =
      "Loss over training tokens: lines are a moving mean of the training loss, dots the loss on held-out text. The "
      "steep first steps lie above the frame.";
  if (!comparison.losses_comparable)
    caption += " Data or tokenizer differ between these runs: the shapes can be compared, the levels cannot.";
  return "<div class=\"grid\">\n" +
         figure(streaming,
                "What it costs to keep fewer than four initial tokens. On the zero line nothing is lost. Bars are 95 % "
                "intervals; the right axis reads the same "
                "difference as a change of perplexity.") +
         figure(loss_plot(runs), caption) + "</div>\n";
}

// ---- zero-shot tasks

/// Nothing where no run has any: they need files of the reader's own.
std::string tasks_section(const std::vector<RunRecord>& runs) {
  const auto colours = run_colours(runs);
  std::vector<std::string> names;
  for (size_t i = 0; i < runs.size(); ++i) names.push_back(run_name(runs[i].name, colours[i]));
  const TasksTable tasks = tasks_table(runs, names);
  if (tasks.body.empty()) return "";
  return element("h2", "Zero-shot tasks") + table(tasks.head, tasks.body) +
         element("p",
                 "acc: by log-likelihood of the choices, or of the last word as greedy decoding writes it; acc_norm and "
                 "acc_bytes: by that per character and per byte; perplexity of the last word. Below each its standard "
                 "error; of two runs, the better result is bold where it lies more than two standard errors of the "
                 "difference from the other.",
                 "soft");
}

// ---- training

std::string training_row(const RunRecord& run, const std::string& colour) {
  const LoggedStep& last = run.metrics.back();
  double loss = 0, losses = 0;
  std::vector<double> speeds;
  for (size_t i = 0; i < run.metrics.size(); ++i) {
    const LoggedStep& row = run.metrics[i];
    if (i + 1 + run.metrics.size() / 50 >= run.metrics.size() && std::isfinite(row.loss)) loss += row.loss, losses += 1;
    if (std::isfinite(row.tokens_per_second)) speeds.push_back(row.tokens_per_second);
  }
  std::ranges::sort(speeds);
  const LoggedStep* held_out = last_validation(run);
  const auto number = [](double value, int digits) {
    return std::isfinite(value) ? fmt::format("{:.{}f}", value, digits) : "n/a";
  };
  return element(
      "tr",
      fmt::format("<th>{}</th><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td>",
                  run_name(run.name, colour), last.step, format_count(last.tokens),
                  number(losses > 0 ? loss / losses : NAN, 3), number(held_out == nullptr ? NAN : held_out->val_loss, 3),
                  speeds.empty() ? "n/a" : format_count(speeds[speeds.size() / 2]),
                  std::isfinite(last.mfu) ? fmt::format("{:.1f} %", 100 * last.mfu) : "n/a",
                  format_duration(last.seconds), last.skipped));
}

std::string training_section(const std::vector<RunRecord>& runs) {
  std::string rows, absent;
  const auto colours = run_colours(runs);
  for (size_t i = 0; i < runs.size(); ++i) {
    if (runs[i].metrics.empty()) {
      absent += missing(runs[i].name + " has no training log.", train_command(runs[i]));
    } else {
      rows += training_row(runs[i], colours[i]);
    }
  }
  std::string html = element("h2", "Training");
  if (!rows.empty()) {
    html += table(
        "<tr class=\"units\"><th></th><th>steps</th><th>tokens</th><th>training loss, last 2 %</th><th>held-out "
        "loss</th><th>tokens/s, median</th><th>MFU</th>"
        "<th>time</th><th>skipped steps</th></tr>",
        rows);
  }
  html += "<div class=\"grid\">\n" +
          figure(speed_plot(runs), "Training speed in tokens per second; sink tokens are not counted.");
  html += figure(sink_metric_plot(runs),
                 "Attention-sink metric in training: the share of heads that give more than the threshold of their "
                 "attention to the first position.");
  html += figure(eviction_plot(runs),
                 "What evicting the initial tokens costs as training goes on: none kept against four, on held-out text.");
  return html + "</div>\n" + absent;
}

// ---- perplexity over position

std::string positions_section(const std::vector<RunRecord>& runs, const Comparison& comparison) {
  if (comparison.groups.empty()) return "";
  const EvaluationGroup& group = comparison.groups.front();
  std::string html = element("h2", "Perplexity over position") + "<div class=\"grid\">\n", absent;
  for (size_t i = 0; i < runs.size(); ++i) {
    if (group.by_run[i] == nullptr) continue;  // the table has said so
    const std::string plot = position_plot(runs, group, i);
    html += figure(plot, fmt::format("{}: perplexity by position in the document, a point per group of positions with "
                                     "at least {} scored tokens. Right of the dotted "
                                     "line the cache is full and tokens leave it. Lines that coincide lie on top of "
                                     "each other; rows that score fewer tokens scatter "
                                     "more.",
                                     runs[i].name, kFewestTokens));
    if (plot.empty())
      absent += missing(runs[i].name + " has no losses per token.", evaluate_command(runs[i], comparison));
  }
  return html + "</div>\n" + absent;
}

// ---- attention

std::string attention_section(const std::vector<RunRecord>& runs) {
  std::string html = element("h2", "Attention") + "<div class=\"grid\">\n", absent;
  const auto colours = run_colours(runs);
  for (size_t i = 0; i < runs.size(); ++i) {
    if (!runs[i].attention) {
      absent += missing(runs[i].name + " has no attention maps.", attention_command(runs[i]));
      continue;
    }
    const SavedAttention& a = *runs[i].attention;
    html += figure(draw_attention(a, colours[i], kMapsLimitBytes / runs.size()),
                   fmt::format("{}: mean attention of {} sequences of {} positions{}, queries down, keys "
                               "across, layers L down and heads h across. Number: "
                               "share on the first position; heads above {:g} are framed.",
                               runs[i].name, a.sequences, a.positions, a.source.empty() ? "" : " of " + a.source,
                               a.epsilon));
  }
  return html + "</div>\n" + absent;
}

// ---- foot of the page

std::string shared_keys(const std::vector<RunRecord>& runs) {
  std::set<std::string> differing;
  for (const auto& difference : config_differences(runs)) differing.insert(difference.key);
  std::string rows;
  for (const auto& [key, value] : runs.front().config) {
    if (!differing.contains(key))
      rows += fmt::format("<tr><th><code>{}</code></th><td>{}</td></tr>\n", escape_html(key), escape_html(value));
  }
  return rows.empty()
             ? ""
             : "<details><summary>The rest of the configuration</summary>\n" + table("", rows) + "</details>\n";
}

std::string footer(const std::vector<RunRecord>& runs, const Comparison& comparison, const std::string& command) {
  std::string commands;
  for (const RunRecord& run : runs) {
    if (!run.config.empty())
      commands += train_command(run) + " --set " + shell_word("run.dir=" + run.directory.string() + "-again") + "\n";
    commands += evaluate_command(run, comparison) + "\n" + attention_command(run) + "\n";
  }
  return fmt::format(
      "<footer>\n<h2>To reproduce</h2>\n<pre>{}</pre>\n{}<p class=\"soft\">Basin {}, LibTorch {}.</p>\n</footer>\n",
      escape_html(commands + command), shared_keys(runs), BASIN_VERSION, TORCH_VERSION);
}

}  // namespace

std::string report_page(const std::vector<RunRecord>& runs, const std::string& command) {
  const Comparison comparison = compare(runs);
  const std::vector<std::string> heading = headline(runs, comparison);
  std::string html =
      "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" "
      "content=\"width=device-width, initial-scale=1\">\n";
  html += "<meta name=\"color-scheme\" content=\"light dark\">\n" +
          element("title", "Basin: " + escape_html(fmt::format("{}", fmt::join(heading, "; "))));
  html += "<style>\n" + svg_style() + std::string(page_style()) + "</style>\n</head>\n<body>\n<main>\n<header>\n";
  html += element("p", "Basin report: " + title_of(runs), "kicker");
  std::string lines;
  for (const std::string& clause : heading) lines += "<span>" + escape_html(clause) + "</span> ";
  html += element("h1", lines);
  html += findings_list(runs, comparison) + differences_table(runs) + "</header>\n";
  html += streaming_section(runs, comparison) + main_plots(runs, comparison);
  html += tasks_section(runs) + training_section(runs) + positions_section(runs, comparison) + attention_section(runs) +
          footer(runs, comparison, command);
  return html + "</main>\n</body>\n</html>\n";
}

std::string report_summary(const std::vector<RunRecord>& runs) {
  const Comparison comparison = compare(runs);
  std::string text = fmt::format("{}\n", fmt::join(headline(runs, comparison), "; "));
  for (const Finding& finding : findings(runs, comparison)) text += "  " + finding.text + "\n";
  return text;
}

}  // namespace basin
