// Draws the report's plots. Everything inside the frame goes into a nested <svg>, which clips without ids: a page holds
// many plots, and ids would clash.
#include "train/report_svg.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <stdexcept>

namespace basin {
namespace {

using Mark = PlotCurve::Mark;
constexpr double kWidth = 480, kHeight = 320, kLeft = 56, kBottom = 46, kLegendLine = 20;

struct Range {
  double low = 0, high = 1;
};

/// Maps data to the frame and draws what surrounds the curves.
struct Frame {
  double left = kLeft, top = 0, right = kWidth - 16, bottom = kHeight - kBottom;
  Range x, y;
  bool log_x = false;

  double at_x(double value) const {
    const double share =
        log_x ? std::log(value / x.low) / std::log(x.high / x.low) : (value - x.low) / (x.high - x.low);
    return left + share * (right - left);
  }
  double at_y(double value) const { return bottom - (value - y.low) / (y.high - y.low) * (bottom - top); }
};

double nice_step(const Range& range, double ticks) {
  const double raw = (range.high - range.low) / ticks, power = std::pow(10.0, std::floor(std::log10(raw)));
  const double share = raw / power;
  return power * (share <= 1 ? 1 : share <= 2 ? 2 : share <= 5 ? 5 : 10);
}

std::vector<double> linear_ticks(const Range& range, double step) {
  std::vector<double> ticks;
  for (double i = std::ceil(range.low / step - 1e-9); i * step <= range.high + 1e-9 * step; i += 1)
    ticks.push_back(i * step);
  return ticks;
}

std::vector<double> log_ticks(const Range& range) {
  std::vector<double> ticks;
  const bool narrow = range.high / range.low < 1000;
  for (double power = std::pow(10.0, std::floor(std::log10(range.low))); power <= range.high; power *= 10) {
    for (const double factor : {1.0, 2.0, 5.0}) {
      const double tick = factor * power;
      if ((narrow || factor == 1) && tick >= range.low * 0.999 && tick <= range.high * 1.001) ticks.push_back(tick);
    }
  }
  return ticks;
}

int decimals(double step) {
  return static_cast<int>(std::clamp(std::ceil(-std::log10(step) - 1e-9), 0.0, 8.0));
}

std::string with_minus(std::string text) {
  if (text.starts_with('-')) text.replace(0, 1, "\u2212");
  return text;
}

std::string tick_label(double value, double step) {
  if (std::abs(value) < step * 1e-6) return "0";
  for (const auto& [unit, name] :
       {std::pair(1e12, "T"), std::pair(1e9, "G"), std::pair(1e6, "M"), std::pair(1e3, "k")}) {
    if (std::abs(value) >= unit) return with_minus(fmt::format("{:g}{}", std::round(value / unit * 1e4) / 1e4, name));
  }
  return with_minus(fmt::format("{:.{}f}", value, decimals(step)));
}

std::string text(double x, double y, std::string_view anchor, std::string_view content) {
  return fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"{}\">{}</text>", x, y, anchor,
                     escape_html(content));
}

std::string line(std::string_view css, const PlotPoint& from, const PlotPoint& to) {
  return fmt::format("<line class=\"{}\" x1=\"{:.1f}\" y1=\"{:.1f}\" x2=\"{:.1f}\" y2=\"{:.1f}\"/>", css, from.x,
                     from.y, to.x, to.y);
}

std::string_view mark_class(Mark mark) {
  switch (mark) {
    case Mark::kLine: return "line";
    case Mark::kThin: return "line thin";
    case Mark::kWide: return "line wide";
    case Mark::kDashed: return "line dashed";
    case Mark::kFaint: return "line faint";
    case Mark::kDots: return "dots";
  }
  throw std::logic_error("unknown curve mark");
}

struct LegendEntry {
  std::string label, colour;
  Mark mark = Mark::kLine;
};

/// Draws the legend from the top left and moves `frame.top` below it. Widths of text are guessed at 7.5 units a letter.
std::string legend(const std::vector<LegendEntry>& entries, Frame& frame) {
  std::string svg;
  double x = 4, y = 14;
  for (const auto& [label, colour, mark] : entries) {
    const double width = 30 + 7.5 * static_cast<double>(label.size()) + 12;
    if (x > 4 && x + width > kWidth) x = 4, y += kLegendLine;
    svg += fmt::format("<g class=\"{}\">", colour);
    if (mark == Mark::kDots) {
      svg += fmt::format("<circle class=\"dots\" cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"4\"/>", x + 11, y - 4);
    } else {
      svg += line(mark_class(mark), {x, y - 4}, {x + 22, y - 4});
    }
    svg += "</g>" + text(x + 28, y, "start", label);
    x += width;
  }
  frame.top = y + 30;
  return svg;
}

std::string y_axis(const Frame& frame, const std::string& label) {
  const double step = nice_step(frame.y, 5);
  std::string svg;
  for (const double tick : linear_ticks(frame.y, step)) {
    svg += line("grid", {frame.left, frame.at_y(tick)}, {frame.right, frame.at_y(tick)});
    svg += text(frame.left - 6, frame.at_y(tick) + 4, "end", tick_label(tick, step));
  }
  return svg + fmt::format("<g class=\"name\">{}</g>", text(4, frame.top - 11, "start", label));
}

std::string x_name(const Frame& frame, const std::string& label) {
  return fmt::format("<g class=\"name\">{}</g>", text((frame.left + frame.right) / 2, kHeight - 8, "middle", label));
}

std::string x_axis(const Frame& frame, const std::string& label) {
  std::string svg = line("axis", {frame.left, frame.bottom}, {frame.right, frame.bottom});
  const double step = frame.log_x ? frame.x.low : nice_step(frame.x, 5);
  for (const double tick : frame.log_x ? log_ticks(frame.x) : linear_ticks(frame.x, step)) {
    svg += line("axis", {frame.at_x(tick), frame.bottom}, {frame.at_x(tick), frame.bottom + 4});
    svg += text(frame.at_x(tick), frame.bottom + 18, "middle", tick_label(tick, step));
  }
  return svg + x_name(frame, label);
}

std::string open_svg(const std::string& title) {
  return fmt::format("<svg class=\"plot\" viewBox=\"0 0 {} {}\" role=\"img\"><title>{}</title>", kWidth, kHeight,
                     escape_html(title));
}

/// A nested <svg> in the frame's own coordinates: what leaves the frame is cut.
std::string clipped(const Frame& frame, const std::string& content) {
  const double width = frame.right - frame.left, height = frame.bottom - frame.top;
  return fmt::format(
      "<svg x=\"{0:.1f}\" y=\"{1:.1f}\" width=\"{2:.1f}\" height=\"{3:.1f}\" viewBox=\"{0:.1f} {1:.1f} {2:.1f} "
      "{3:.1f}\" "
      "overflow=\"hidden\">{4}</svg>",
      frame.left, frame.top, width, height, content);
}

std::string draw_curve(const Frame& frame, const PlotCurve& curve, double radius) {
  std::string svg;
  if (curve.mark == Mark::kDots) {
    for (const PlotPoint& p : curve.points) {
      if (std::isfinite(p.y))
        svg += fmt::format("<circle class=\"dots\" cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"{:.1f}\"/>", frame.at_x(p.x),
                           frame.at_y(p.y), radius);
    }
  } else {
    std::string path;
    bool down = false;
    for (const PlotPoint& p : curve.points) {
      const bool here = std::isfinite(p.y);
      if (here) path += fmt::format("{}{:.1f} {:.1f}", down ? 'L' : 'M', frame.at_x(p.x), frame.at_y(p.y));
      down = here;
    }
    svg = fmt::format("<path class=\"{}\" d=\"{}\"/>", mark_class(curve.mark), path);
  }
  return fmt::format("<g class=\"{}\">{}</g>", curve.colour, svg);
}

Range widened(Range range, double share) {
  if (!(range.low <= range.high)) return {0, 1};  // nothing to draw
  const double span = range.high > range.low ? range.high - range.low : std::max(std::abs(range.high) * 0.1, 1e-3);
  return {range.low - share * span, range.high + share * span};
}

Range covering(const std::vector<PlotCurve>& curves, double PlotPoint::*coordinate) {
  Range range{std::numeric_limits<double>::infinity(), -std::numeric_limits<double>::infinity()};
  for (const PlotCurve& curve : curves) {
    for (const PlotPoint& p : curve.points) {
      if (!std::isfinite(p.y)) continue;
      range.low = std::min(range.low, p.*coordinate);
      range.high = std::max(range.high, p.*coordinate);
    }
  }
  return range;
}

Range estimates_range(const EstimatePlot& plot) {
  Range range{0, 0};
  for (const auto& series : plot.series) {
    for (const Estimate& e : series.values) {
      for (const double y : {e.y, e.low, e.high}) {
        if (std::isfinite(y)) range = {std::min(range.low, y), std::max(range.high, y)};
      }
    }
  }
  return widened(range, 0.08);
}

std::string draw_estimate(const Frame& frame, double x, const Estimate& estimate) {
  std::string svg;
  if (std::isfinite(estimate.low) && std::isfinite(estimate.high)) {
    const double low = frame.at_y(estimate.low), high = frame.at_y(estimate.high);
    svg += line("whisker", {x, low}, {x, high}) + line("whisker", {x - 5, low}, {x + 5, low}) +
           line("whisker", {x - 5, high}, {x + 5, high});
  }
  return svg + fmt::format("<circle class=\"dots\" cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"4.5\"/>", x, frame.at_y(estimate.y));
}

std::string percent_axis(const Frame& frame) {
  std::string svg;
  const double step = nice_step(frame.y, 5);
  for (const double tick : linear_ticks(frame.y, step)) {
    const double percent = 100 * std::expm1(tick);
    const std::string label =
        std::abs(tick) < step * 1e-6 ? "0 %" : with_minus(fmt::format("{:+.{}f} %", percent, decimals(step * 100)));
    svg += text(frame.right + 6, frame.at_y(tick) + 4, "start", label);
  }
  return svg + fmt::format("<g class=\"name\">{}</g>", text(kWidth - 2, frame.top - 11, "end", "perplexity"));
}

}  // namespace

std::string escape_html(std::string_view text) {
  std::string out;
  for (const char c : text) {
    switch (c) {
      case '&': out += "&amp;"; break;
      case '<': out += "&lt;"; break;
      case '>': out += "&gt;"; break;
      case '"': out += "&quot;"; break;
      case '\'': out += "&#39;"; break;
      default: out += c;
    }
  }
  return out;
}

std::string draw_plot(const Plot& plot) {
  Frame frame;
  frame.log_x = plot.log_x;
  std::vector<LegendEntry> entries;
  for (const PlotCurve& curve : plot.curves) {
    if (!curve.label.empty()) entries.push_back({curve.label, curve.colour, curve.mark});
  }
  std::string svg = open_svg(plot.title) + legend(entries, frame);
  const Range xs = covering(plot.curves, &PlotPoint::x), ys = widened(covering(plot.curves, &PlotPoint::y), 0.06);
  frame.x = xs.low < xs.high ? xs : Range{xs.low, xs.low * 2 + 1};
  if (!plot.log_x) frame.x = {0, frame.x.high * 1.015};  // room for a dot at the end
  frame.y = {std::isfinite(plot.y_low) ? plot.y_low : ys.low, std::isfinite(plot.y_high) ? plot.y_high : ys.high};
  svg += y_axis(frame, plot.y_label) + x_axis(frame, plot.x_label);
  std::string inside;
  double radius =
      std::min(6.0, 1.4 + 1.6 * static_cast<double>(std::ranges::count(plot.curves, Mark::kDots, &PlotCurve::mark)));
  for (const Mark mark : {Mark::kFaint, Mark::kWide, Mark::kLine, Mark::kDashed, Mark::kThin,
                          Mark::kDots}) {  // what coincides stays visible
    for (const PlotCurve& curve : plot.curves) {
      if (curve.mark != mark) continue;
      inside += draw_curve(frame, curve, radius);
      if (mark == Mark::kDots) radius = std::max(3.0, radius - 1.6);
    }
  }
  svg += clipped(frame, inside);
  if (plot.marked_x > frame.x.low && plot.marked_x < frame.x.high) {
    const double x = frame.at_x(plot.marked_x);
    svg += line("marked", {x, frame.top}, {x, frame.bottom});
    svg += text(std::max(x, frame.left + 110), frame.top - 6, "middle", plot.marked_label);  // beside the axis's name
  }
  return svg + "</svg>";
}

std::string draw_estimates(const EstimatePlot& plot) {
  Frame frame;
  frame.right = kWidth - 66;
  std::vector<LegendEntry> entries;
  for (const auto& series : plot.series) entries.push_back({series.label, series.colour, Mark::kDots});
  std::string svg = open_svg(plot.title) + legend(entries, frame);
  const auto categories = static_cast<double>(plot.categories.size()), group = static_cast<double>(plot.series.size());
  frame.x = {-0.5, categories - 0.5};
  frame.y = estimates_range(plot);
  svg += y_axis(frame, plot.y_label) + percent_axis(frame) +
         line("axis", {frame.left, frame.at_y(0)}, {frame.right, frame.at_y(0)});
  for (size_t c = 0; c < plot.categories.size(); ++c) {
    svg += text(frame.at_x(static_cast<double>(c)), frame.bottom + 18, "middle", plot.categories[c]);
  }
  svg += x_name(frame, plot.x_label);
  const double spread = std::min(22.0, 0.7 * (frame.right - frame.left) / (categories * group));
  for (size_t s = 0; s < plot.series.size(); ++s) {
    const double shift = (static_cast<double>(s) - (group - 1) / 2) * spread;
    std::string marks;
    for (size_t c = 0; c < plot.series[s].values.size(); ++c) {
      const Estimate& estimate = plot.series[s].values[c];
      if (std::isfinite(estimate.y))
        marks += draw_estimate(frame, frame.at_x(static_cast<double>(c)) + shift, estimate);
    }
    svg += fmt::format("<g class=\"{}\">{}</g>", plot.series[s].colour, marks);
  }
  return svg + "</svg>";
}

std::string svg_style() {
  return R"(:root{--paper:#fff;--ink:#1c2733;--soft:#5a6877;--rule:#dfe4ea;--tint:#f4f6f9;--vanilla-0:#64809c;--vanilla-1:#93a5b7;--vanilla-2:#3f5266;
--sink-0:#d9480f;--sink-1:#0b7f8c;--sink-2:#7048c8;--sink-3:#2b8a3e;--sink-4:#b81d63;--sink-5:#946200;--kept-0:#c92a2a;--kept-1:#0b4f71;--kept-2:#3f97bd;--kept-4:#a9d3e6}
@media (prefers-color-scheme:dark){:root{--paper:#12171d;--ink:#e4e9ef;--soft:#9eabb9;--rule:#2b343e;--tint:#1a2129;--vanilla-0:#8ea9c4;--vanilla-1:#64778b;--vanilla-2:#bccbd9;
--sink-0:#ff8a4c;--sink-1:#3fc1cf;--sink-2:#a78bfa;--sink-3:#69c97d;--sink-4:#f277ab;--sink-5:#dfae3a;--kept-0:#ff7b72;--kept-1:#c3e8fa;--kept-2:#4fa6cc;--kept-4:#27546c}}
.vanilla-0{--c:var(--vanilla-0)}.vanilla-1{--c:var(--vanilla-1)}.vanilla-2{--c:var(--vanilla-2)}
.sink-0{--c:var(--sink-0)}.sink-1{--c:var(--sink-1)}.sink-2{--c:var(--sink-2)}.sink-3{--c:var(--sink-3)}.sink-4{--c:var(--sink-4)}.sink-5{--c:var(--sink-5)}
.kept-0{--c:var(--kept-0)}.kept-1{--c:var(--kept-1)}.kept-2{--c:var(--kept-2)}.kept-4{--c:var(--kept-4)}.plain{--c:var(--soft)}
.plot{font:13px system-ui,-apple-system,"Segoe UI",Roboto,sans-serif;font-variant-numeric:tabular-nums}
.plot text{fill:var(--soft)}.plot .name text{fill:var(--ink)}
.plot .grid{stroke:var(--rule)}.plot .axis{stroke:var(--soft)}.plot .marked{stroke:var(--soft);stroke-dasharray:2 4}
.plot .line{fill:none;stroke:var(--c);stroke-width:2.2;stroke-linejoin:round;stroke-linecap:round}
.plot .thin{stroke-width:1.4}.plot .wide{stroke-width:6}.plot .dashed{stroke-dasharray:7 5;stroke-width:1.6}.plot .faint{stroke-width:1;opacity:.35}
.plot .dots{fill:var(--c);stroke:var(--paper);stroke-width:1.2}.plot .whisker{stroke:var(--c);stroke-width:2}
)";
}

std::string svg_file(const std::string& picture) {
  const size_t name = picture.find("<svg") + 4, body = picture.find('>') + 1;
  return picture.substr(0, name) + " xmlns=\"http://www.w3.org/2000/svg\"" + picture.substr(name, body - name) +
         "<style>" + svg_style() + "</style><rect width=\"100%\" height=\"100%\" fill=\"var(--paper)\"/>" +
         picture.substr(body) + "\n";
}

}  // namespace basin
