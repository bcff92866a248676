// Plots as inline SVG: 480 units wide, so that 13-unit text stays readable when a phone shrinks the picture to its
// width. Colours are CSS classes over custom properties; `svg_style` defines them for light and dark, in the page and
// in a picture that stands alone.
#pragma once

#include <limits>
#include <string>
#include <string_view>
#include <vector>

namespace basin {

/// `& < > " '` as entities, for text and for attribute values.
std::string escape_html(std::string_view text);

struct PlotPoint {
  double x = 0, y = 0;  // y NaN: a gap
};

/// `colour` is one of the classes of `svg_style`: vanilla-0..2, sink-0..5, kept-0, kept-1, kept-2, kept-4, plain.
struct PlotCurve {
  enum class Mark { kLine, kThin, kWide, kDashed, kFaint, kDots };
  std::string label;  // for the legend; empty: not in it
  std::string colour;
  Mark mark = Mark::kLine;
  std::vector<PlotPoint> points;
};

struct Plot {
  std::string title;  // read out by screen readers, shown as a tooltip
  std::string x_label, y_label;
  bool log_x = false;
  /// NaN: from the curves. Curves are cut at the frame; a linear x axis starts at 0. Wide lines lie under thin ones,
  /// whatever their order.
  double y_low = std::numeric_limits<double>::quiet_NaN(), y_high = std::numeric_limits<double>::quiet_NaN();
  std::vector<PlotCurve> curves = {};
  double marked_x = std::numeric_limits<double>::quiet_NaN();  // a vertical line
  std::string marked_label = {};
};
std::string draw_plot(const Plot& plot);

/// Estimates with intervals over categories; the right axis reads nats as a change of perplexity, 100 (e^y - 1) %.
struct Estimate {
  double y = 0, low = 0, high = 0;  // y NaN: absent; low or high NaN: no interval
};
struct EstimateSeries {
  std::string label, colour;
  std::vector<Estimate> values;  // one per category
};
struct EstimatePlot {
  std::string title, x_label, y_label;
  std::vector<std::string> categories;
  std::vector<EstimateSeries> series;
};
std::string draw_estimates(const EstimatePlot& plot);

/// CSS of plots and colours, for the page's style element.
std::string svg_style();
/// A drawn picture as a file of its own, with the style inside.
std::string svg_file(const std::string& picture);

}  // namespace basin
