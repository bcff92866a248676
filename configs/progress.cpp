#include "configs/progress.h"

#include <fmt/core.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <span>
#include <string_view>
#include <utility>

#include "configs/log.h"

namespace basin {
namespace {

constexpr double kSilentS = 2, kTerminalEveryS = 0.2, kPlainEveryS = 10;

// Three significant digits and a decimal prefix: {1234567, {"", "k", "M"}} -> "1.23 M".
std::string scaled(double value, std::span<const std::string_view> prefixes) {
  size_t prefix = 0;
  while (std::abs(value) >= 999.5 && prefix + 1 < prefixes.size()) {
    value /= 1000;
    ++prefix;
  }
  const double size = std::abs(value);
  const bool whole = prefix == 0 && value == std::floor(value);
  const int digits = whole || size >= 99.95 ? 0 : size >= 9.995 ? 1 : 2;
  const std::string number = fmt::format("{:.{}f}", value, digits);
  return prefixes[prefix].empty() ? number : number + " " + std::string(prefixes[prefix]);
}

std::string amount(double value, const std::string& unit) {
  return unit == "bytes" ? format_bytes(value) : format_count(value) + " " + unit;
}

}  // namespace

std::string progress_line(const ProgressState& state, bool last) {
  const double done = static_cast<double>(state.done), total = static_cast<double>(state.total);
  const double rate = state.elapsed_s > 0 ? done / state.elapsed_s : 0;
  std::string line = state.label + ": ";
  // What ended early still says how far it came.
  const bool partial = state.total > 0 && (!last || state.done < state.total);
  if (partial)
    line += fmt::format("{:.0f} % ({} of {})",
                        std::floor(100 * done / total),
                        amount(done, state.unit),
                        amount(total, state.unit));
  else
    line += amount(done, state.unit);
  if (last) line += " in " + format_duration(state.elapsed_s);
  line += ", " + amount(rate, state.unit) + "/s";
  if (!last && state.total > state.done && rate > 0)
    line += ", " + format_duration((total - done) / rate) + " left";
  return line;
}

std::string fit_to_terminal(std::string line) {
  winsize window{};
  if (ioctl(STDERR_FILENO, TIOCGWINSZ, &window) == 0 && window.ws_col > 1 &&
      line.size() >= window.ws_col)
    line.resize(window.ws_col - 1);
  return line;
}

Progress::Progress(std::string label, int64_t total, std::string unit)
    : label_(std::move(label)),
      unit_(std::move(unit)),
      total_(total),
      terminal_(isatty(STDERR_FILENO) == 1) {}

Progress::~Progress() {
  const std::scoped_lock lock(mutex_);
  print(true);
}

void Progress::advance(int64_t done) {
  const std::scoped_lock lock(mutex_);
  done_ += done;
  print(false);
}

void Progress::set_total(int64_t total) {
  const std::scoped_lock lock(mutex_);
  total_ = total;
}

void Progress::print(bool last) {
  using Seconds = std::chrono::duration<double>;
  const Clock::time_point now = Clock::now();
  const double elapsed_s = Seconds(now - started_).count(),
               since_s = Seconds(now - printed_).count();
  if (elapsed_s < kSilentS) return;
  if (!last && since_s < (terminal_ ? kTerminalEveryS : kPlainEveryS)) return;
  printed_ = now;
  std::string line = progress_line({label_, unit_, done_, total_, elapsed_s}, last);
  if (terminal_) line = "\r" + fit_to_terminal(std::move(line)) + "\x1b[K";
  if (!terminal_ || last) line += "\n";
  write_stderr(line);
}

std::string format_duration(double seconds) {
  if (!std::isfinite(seconds) || seconds < 0) return "unknown";
  if (seconds < 9.95) return fmt::format("{:.1f} s", seconds);
  if (seconds < 59.5) return fmt::format("{:.0f} s", seconds);
  constexpr double kLongest = 9e15;  // beyond this a double no longer fits the integer below
  const auto whole = static_cast<int64_t>(std::llround(std::min(seconds, kLongest)));
  if (whole < 3600) return fmt::format("{} min {:02} s", whole / 60, whole % 60);
  const int64_t minutes = (whole + 30) / 60;
  if (minutes < 24 * 60) return fmt::format("{} h {:02} min", minutes / 60, minutes % 60);
  const int64_t hours = (minutes + 30) / 60;
  return fmt::format("{} d {:02} h", hours / 24, hours % 24);
}

std::string format_bytes(double bytes) {
  constexpr std::array<std::string_view, 6> kPrefixes{"B", "kB", "MB", "GB", "TB", "PB"};
  return scaled(bytes, kPrefixes);
}

std::string format_count(double count) {
  constexpr std::array<std::string_view, 5> kPrefixes{"", "k", "M", "G", "T"};
  return scaled(count, kPrefixes);
}

}  // namespace basin
