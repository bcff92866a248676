// Builds the report's plots. Long logs are thinned to a few hundred points, so a page stays small whatever the run's
// length.
#include "train/report_plots.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>

#include "train/report_svg.h"

namespace basin {
namespace {

using Column = double LoggedStep::*;
using Mark = PlotCurve::Mark;
constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
constexpr size_t kMostPoints = 300;

/// Mean over a window of a fiftieth of the log around each row; rows without a number do not count.
std::vector<PlotPoint> moving_mean(const std::vector<LoggedStep>& rows, Column column) {
  const int64_t count = std::ssize(rows), reach = count / 100,
                stride = std::max<int64_t>(1, count / static_cast<int64_t>(kMostPoints));
  std::vector<PlotPoint> points;
  for (int64_t i = 0; i < count; i += (i + stride < count || i == count - 1) ? stride : count - 1 - i) {
    const int64_t before = std::min(reach, i);  // symmetric at the steep start; the flat end takes what there is
    const int64_t end = i + reach < count ? i + before : count - 1;
    double sum = 0, numbers = 0;
    for (int64_t k = i - before; k <= end; ++k) {
      const double value = rows[static_cast<size_t>(k)].*column;
      if (std::isfinite(value)) sum += value, numbers += 1;
    }
    points.push_back({rows[static_cast<size_t>(i)].tokens, numbers > 0 ? sum / numbers : kNaN});
  }
  return points;
}

/// The rows that have a number, at most `most` of them.
std::vector<PlotPoint> measured(const std::vector<LoggedStep>& rows, Column column, size_t most) {
  std::vector<PlotPoint> points, thinned;
  for (const LoggedStep& row : rows) {
    if (std::isfinite(row.*column)) points.push_back({row.tokens, row.*column});
  }
  const size_t stride = points.size() / most + 1;
  for (size_t i = 0; i < points.size(); i += stride) thinned.push_back(points[i]);
  return thinned;
}

bool empty(const std::vector<PlotCurve>& curves) {
  return std::ranges::none_of(curves, [](const PlotCurve& curve) {
    return std::ranges::any_of(curve.points, [](const PlotPoint& point) { return std::isfinite(point.y); });
  });
}

/// The range of the curves from 4 % of the tokens on: the first steps would press everything else into a line.
void fit_to_the_bulk(Plot& plot) {
  double last = 0, low = std::numeric_limits<double>::infinity(), high = -low;
  for (const PlotCurve& curve : plot.curves) {
    for (const PlotPoint& p : curve.points) last = std::max(last, p.x);
  }
  for (const PlotCurve& curve : plot.curves) {
    if (curve.mark == Mark::kFaint) continue;
    for (const PlotPoint& p : curve.points) {
      if (!std::isfinite(p.y) || p.x < 0.04 * last) continue;
      low = std::min(low, p.y);
      high = std::max(high, p.y);
    }
  }
  if (!(low < high)) return;
  plot.y_low = low - 0.06 * (high - low);
  plot.y_high = high + 0.06 * (high - low);
}

/// Each step has as many tokens as any other.
double tokens_at(const std::vector<LoggedStep>& rows, int64_t step) {
  return rows.empty() ? kNaN : rows.back().tokens / static_cast<double>(rows.back().step) * static_cast<double>(step);
}

bool same_measure(const SavedEvaluation& a, const SavedEvaluation& b) {
  return a.source_name() == b.source_name() && a.cache == b.cache && a.dtype == b.dtype;
}

/// One of the evaluations alike of which a run has the most steps; null where none has two.
const SavedEvaluation* most_traced(const std::vector<RunRecord>& runs) {
  const SavedEvaluation* found = nullptr;
  int64_t most = 1;
  for (const RunRecord& run : runs) {
    for (const SavedEvaluation& e : run.trajectory) {
      const int64_t steps = std::ranges::count_if(run.trajectory, [&](const auto& o) { return same_measure(e, o); });
      if (steps > most) most = steps, found = &e;
    }
  }
  return found;
}

/// Position of a bin on the logarithmic axis: the geometric mean of its first and last position.
double middle(const std::vector<int64_t>& bins, size_t bin) {
  return std::sqrt(static_cast<double>(bins[bin]) * static_cast<double>(bins[bin + 1] - 1));
}

std::vector<PlotCurve> position_curves(const SavedEvaluation& evaluation) {
  std::vector<PlotCurve> curves;
  for (size_t row = 0; row < evaluation.by_position.size(); ++row) {
    const SavedRow& r = evaluation.rows[row];
    PlotCurve curve{.label = r.streams() ? fmt::format("{} kept", r.sinks) : r.mode,
                    .colour = "plain",
                    .mark = Mark::kDashed,
                    .points = {}};
    if (r.mode == "recompute") curve.mark = Mark::kDots;
    if (r.streams()) {
      curve.colour = fmt::format("kept-{}", r.sinks == 0 || r.sinks == 1 || r.sinks == 2 ? r.sinks : 4);
      curve.mark = r.sinks == 0 || r.sinks == 2 ? Mark::kLine : r.sinks == 1 ? Mark::kThin : Mark::kWide;
    }
    for (size_t bin = 0; bin + 1 < evaluation.bins.size(); ++bin)
      curve.points.push_back({middle(evaluation.bins, bin), evaluation.by_position[row][bin]});
    curves.push_back(std::move(curve));
  }
  return curves;
}

}  // namespace

std::vector<std::string> run_colours(const std::vector<RunRecord>& runs) {
  std::vector<std::string> colours;
  size_t vanilla = 0, other = 0;
  for (const RunRecord& run : runs) {
    colours.push_back(run.sink_kind() == "none" ? fmt::format("vanilla-{}", vanilla++ % 3)
                                                : fmt::format("sink-{}", other++ % 6));
  }
  return colours;
}

std::string loss_plot(const std::vector<RunRecord>& runs) {
  Plot plot{.title = "loss over training tokens", .x_label = "training tokens", .y_label = "loss, nats per token"};
  const auto colours = run_colours(runs);
  for (size_t i = 0; i < runs.size(); ++i) {
    if (runs[i].metrics.size() >= 200) {  // below that the moving mean is the raw curve
      plot.curves.push_back({.label = "",
                             .colour = colours[i],
                             .mark = Mark::kFaint,
                             .points = measured(runs[i].metrics, &LoggedStep::loss, 2 * kMostPoints)});
    }
  }
  for (size_t i = 0; i < runs.size(); ++i) {
    plot.curves.push_back({.label = runs[i].name,
                           .colour = colours[i],
                           .mark = Mark::kThin,
                           .points = moving_mean(runs[i].metrics, &LoggedStep::loss)});
  }
  for (size_t i = 0; i < runs.size(); ++i) {
    auto points = measured(runs[i].metrics, &LoggedStep::val_loss, 60);
    if (points.empty()) continue;
    plot.curves.push_back({.label = "", .colour = colours[i], .mark = Mark::kDots, .points = std::move(points)});
  }
  if (empty(plot.curves)) return "";
  fit_to_the_bulk(plot);
  return draw_plot(plot);
}

std::string speed_plot(const std::vector<RunRecord>& runs) {
  Plot plot{.title = "training speed", .x_label = "training tokens", .y_label = "tokens per second", .y_low = 0};
  const auto colours = run_colours(runs);
  for (size_t i = 0; i < runs.size(); ++i) {
    plot.curves.push_back({.label = runs[i].name,
                           .colour = colours[i],
                           .mark = Mark::kThin,
                           .points = moving_mean(runs[i].metrics, &LoggedStep::tokens_per_second)});
  }
  double fastest = 0;
  for (const PlotCurve& curve : plot.curves) {
    for (const PlotPoint& p : curve.points) fastest = std::isfinite(p.y) ? std::max(fastest, p.y) : fastest;
  }
  plot.y_high = fastest > 0 ? 1.12 * fastest : 1;
  return empty(plot.curves) ? "" : draw_plot(plot);
}

std::string sink_metric_plot(const std::vector<RunRecord>& runs) {
  Plot plot{.title = "attention-sink metric in training",
            .x_label = "training tokens",
            .y_label = "heads above the threshold, %",
            .y_low = 0};
  const auto colours = run_colours(runs);
  double highest = 0;
  for (size_t i = 0; i < runs.size(); ++i) {
    auto points = measured(runs[i].metrics, &LoggedStep::sink_metric, kMostPoints);
    for (PlotPoint& p : points) highest = std::max(highest, p.y *= 100);
    if (points.empty()) continue;
    plot.curves.push_back({.label = "", .colour = colours[i], .mark = Mark::kThin, .points = points});
    plot.curves.push_back(
        {.label = runs[i].name, .colour = colours[i], .mark = Mark::kDots, .points = std::move(points)});
  }
  plot.y_high = std::clamp(1.15 * highest, 10.0, 104.0);
  plot.y_low = -0.02 * plot.y_high;  // dots on zero are whole
  return empty(plot.curves) ? "" : draw_plot(plot);
}

std::string eviction_plot(const std::vector<RunRecord>& runs) {
  const SavedEvaluation* traced = most_traced(runs);
  if (traced == nullptr) return "";
  Plot plot{.title = "cost of evicting the initial tokens over training",
            .x_label = "training tokens",
            .y_label = fmt::format("nats per token, none kept against 4, cache {}", traced->cache)};
  const auto colours = run_colours(runs);
  for (size_t i = 0; i < runs.size(); ++i) {
    std::vector<PlotPoint> points;
    for (const SavedEvaluation& evaluation : runs[i].trajectory) {
      const SavedRow* none = evaluation.streaming_row(0);
      const double tokens = tokens_at(runs[i].metrics, evaluation.step);
      if (same_measure(evaluation, *traced) && none != nullptr && std::isfinite(tokens))
        points.push_back({tokens, none->nll_delta});
    }
    if (points.empty()) continue;
    plot.curves.push_back({.label = "", .colour = colours[i], .mark = Mark::kThin, .points = points});
    plot.curves.push_back(
        {.label = runs[i].name, .colour = colours[i], .mark = Mark::kDots, .points = std::move(points)});
  }
  return empty(plot.curves) ? "" : draw_plot(plot);
}

std::string streaming_plot(const std::vector<RunRecord>& runs, const EvaluationGroup& group) {
  std::set<int64_t> kept;
  for (const SavedEvaluation* evaluation : group.by_run) {
    if (evaluation == nullptr) continue;
    for (const SavedRow& row : evaluation->rows) {
      if (row.streams() && std::isfinite(row.nll_delta)) kept.insert(row.sinks);
    }
  }
  if (kept.size() < 2) return "";
  EstimatePlot plot{.title = "cost of keeping fewer than four initial tokens",
                    .x_label = fmt::format("initial tokens kept, of a cache of {}", group.cache),
                    .y_label = "nats per token against 4 kept",
                    .categories = {},
                    .series = {}};
  for (const int64_t sinks : kept) plot.categories.push_back(std::to_string(sinks));
  const auto colours = run_colours(runs);
  for (size_t i = 0; i < runs.size(); ++i) {
    if (group.by_run[i] == nullptr) continue;
    EstimateSeries series{.label = runs[i].name, .colour = colours[i], .values = {}};
    for (const int64_t sinks : kept) {
      const SavedRow* row = group.by_run[i]->streaming_row(sinks);
      const bool reference = sinks == 4;  // zero by definition: a dot, no interval
      series.values.push_back(
          row == nullptr ? Estimate{kNaN, kNaN, kNaN}
                         : Estimate{row->nll_delta, reference ? kNaN : row->ci_low, reference ? kNaN : row->ci_high});
    }
    plot.series.push_back(std::move(series));
  }
  return draw_estimates(plot);
}

std::string position_plot(const std::vector<RunRecord>& runs, const EvaluationGroup& group, size_t run) {
  if (group.by_run[run] == nullptr || group.by_run[run]->by_position.empty()) return "";
  Plot plot{.title = "perplexity over position, " + runs[run].name,
            .x_label = "position in the document, tokens",
            .y_label = "perplexity",
            .log_x = true,
            .curves = position_curves(*group.by_run[run]),
            .marked_x = static_cast<double>(group.cache),
            .marked_label = "cache full"};
  if (empty(plot.curves)) return "";
  double low = std::numeric_limits<double>::infinity(), high = 0;
  for (const SavedEvaluation* evaluation : group.by_run) {
    if (evaluation == nullptr) continue;
    for (const auto& row : evaluation->by_position) {
      for (const double perplexity : row) {
        if (!std::isfinite(perplexity)) continue;
        low = std::min(low, perplexity);
        high = std::max(high, perplexity);
      }
    }
  }
  if (low < high) {
    plot.y_low = low - 0.05 * (high - low);
    plot.y_high = high + 0.05 * (high - low);
  }
  return draw_plot(plot);
}

}  // namespace basin
