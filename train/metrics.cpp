#include "train/metrics.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <stdexcept>

#include "configs/files.h"
#include "configs/log.h"
#include "configs/progress.h"

namespace basin {
namespace {

nlohmann::ordered_json number_or_null(const std::optional<double>& value) {
  return value ? nlohmann::ordered_json(*value) : nlohmann::ordered_json(nullptr);
}

constexpr double kNotedExcess = 0.1;  // of a rank's time over the others'

/// Those of the lines `rows` that are rows of steps up to `step`.
std::string rows_up_to(int64_t step, const std::string& rows) {
  std::istringstream lines(rows);
  std::string kept;
  for (std::string line; std::getline(lines, line);) {
    const nlohmann::json row = nlohmann::json::parse(line, nullptr, /*allow_exceptions=*/false);
    if (row.is_object() && row.contains("step") && row["step"].is_number_integer() &&
        row["step"].get<int64_t>() <= step)
      kept += line + "\n";
  }
  return kept;
}

}  // namespace

std::string to_json_line(const MetricsRow& row) {
  nlohmann::ordered_json json;
  json["step"] = row.step;
  json["tokens"] = row.tokens;
  json["loss"] = number_or_null(row.loss);
  json["lr"] = row.lr;
  json["grad_norm"] = number_or_null(row.grad_norm);
  json["tokens_per_second"] = row.tokens_per_second;
  json["mfu"] = number_or_null(row.mfu);
  json["val_loss"] = number_or_null(row.val_loss);
  json["sink_metric"] = number_or_null(row.sink_metric);
  json["skipped"] = row.skipped;
  json["seconds"] = row.seconds;
  if (row.communication) {
    json["communication"] = *row.communication;
    json["slowest_rank"] = *row.slowest_rank;
    json["slowest_excess"] = *row.slowest_excess;
  }
  return json.dump() + "\n";
}

void cut_metrics(const std::filesystem::path& file, int64_t step) {
  if (!std::filesystem::exists(file)) return;
  const std::string before = read_file(file), kept = rows_up_to(step, before);
  if (kept != before) write_file(file, kept);
}

MetricsLog::MetricsLog(const std::filesystem::path& run_directory, int64_t step)
    : rows_(run_directory / "metrics.jsonl"), events_(run_directory, step + 1) {
  cut_metrics(rows_.path(), step);
}

std::optional<std::string> MetricsLog::cut_back(int64_t step) {
  rows_.edit_waiting([step](const std::string& rows) { return rows_up_to(step, rows); });
  events_.start_session(step + 1);
  {
    const std::lock_guard lock(mutex_);
    cut_ = std::min(step, cut_.value_or(step));
  }
  return flush();
}

/// The cut that is due, then the rows that wait.
std::optional<std::string> MetricsLog::flush() {
  const std::lock_guard lock(mutex_);
  try {
    if (cut_) cut_metrics(rows_.path(), *cut_);
    cut_.reset();
  } catch (const std::exception& error) {
    return error.what();
  }
  return rows_.flush();
}

void MetricsLog::sync() {
  if (const auto problem = flush()) throw std::runtime_error(*problem);
  rows_.sync();
  events_.log().sync();
}

std::optional<std::string> MetricsLog::write(const MetricsRow& row) {
  rows_.add(to_json_line(row));
  const auto add = [&](const char* tag, const std::optional<double>& value) {
    if (value) events_.add_scalar(row.step, tag, *value);
  };
  add("train/loss", row.loss);
  add("train/lr", row.lr);
  add("train/grad_norm", row.grad_norm);
  add("train/tokens_per_second", row.tokens_per_second);
  add("train/mfu", row.mfu);
  add("train/communication", row.communication);
  add("train/skipped", static_cast<double>(row.skipped));
  add("train/tokens", static_cast<double>(row.tokens));
  add("validation/loss", row.val_loss);
  add("validation/sink_metric", row.sink_metric);
  const std::optional<std::string> problem = flush(), of_events = events_.log().flush();
  return problem ? problem : of_events;
}

std::string console_text(const MetricsRow& row, int64_t steps, double eta_s) {
  std::string text = fmt::format("step {}/{}", row.step, steps);
  text +=
      row.loss ? fmt::format("  loss {:.4f}", *row.loss) : std::string("  skipped (not finite)");
  text += fmt::format("  eta {}", format_duration(eta_s));
  text += fmt::format("  {} tokens/s", format_count(row.tokens_per_second));
  text += fmt::format("  lr {:.2e}", row.lr);
  if (row.grad_norm) text += fmt::format("  |g| {:.3f}", *row.grad_norm);
  text += row.mfu ? fmt::format("  mfu {:.1f} %", 100 * *row.mfu) : std::string("  mfu n/a");
  if (row.peak_memory_bytes)
    text += fmt::format("  {}", format_bytes(static_cast<double>(*row.peak_memory_bytes)));
  if (row.waits_on_device) text += "  waiting n/a";
  if (row.communication) text += fmt::format("  waiting {:.0f} %", 100 * *row.communication);
  if (row.slowest_excess && *row.slowest_excess > kNotedExcess)
    text +=
        fmt::format("  rank {} slower by {:.0f} %", *row.slowest_rank, 100 * *row.slowest_excess);
  if (row.skipped > 0) text += fmt::format("  skipped {}", row.skipped);
  return text;
}

std::string measured_text(const MetricsRow& row) {
  std::string text;
  if (row.val_loss) text += fmt::format("  | validation {:.4f}", *row.val_loss);
  if (row.sink_metric) text += fmt::format("  | sink metric {:.3f}", *row.sink_metric);
  return text;
}

std::string progress_bar(int64_t step, int64_t steps) {
  constexpr int64_t kWidth = 20;
  const auto full = static_cast<size_t>(std::clamp<int64_t>(step * kWidth / steps, 0, kWidth));
  return fmt::format("[{}{}]", std::string(full, '#'), std::string(kWidth - full, '.'));
}

Console::Console(int64_t steps) : steps_(steps), terminal_(isatty(STDERR_FILENO) != 0) {}
Console::~Console() {
  end_line();
}

void Console::show(const MetricsRow& row, double eta_s) {
  const std::string text = console_text(row, steps_, eta_s), measured = measured_text(row);
  shown_ = Clock::now();
  if (!terminal_) return write_stderr(text + measured + "\n");
  const std::string with_bar = progress_bar(row.step, steps_) + " " + text;
  const bool fits = fit_to_terminal(with_bar) == with_bar;
  rewrite(fits ? with_bar : text);
  if (measured.empty()) return;
  end_line();  // measured numbers stay on the screen, in a line of their own
  write_stderr(fmt::format("step {}{}\n", row.step, measured));
}

void Console::show_part(int64_t step, size_t done, size_t of) {
  constexpr double kTerminalEveryS = 2, kPlainEveryS = 60;
  if (seconds_since(shown_) < (terminal_ ? kTerminalEveryS : kPlainEveryS)) return;
  shown_ = Clock::now();
  const std::string text =
      fmt::format("step {}/{}: {} of {} micro-batches", step, steps_, done, of);
  if (terminal_)
    rewrite(text);
  else
    write_stderr(text + "\n");
}

void Console::rewrite(const std::string& line) {
  write_stderr("\r\033[K" + fit_to_terminal(line));
  open_ = true;
}

void Console::end_line() {
  if (open_) write_stderr("\n");
  open_ = false;
}

}  // namespace basin
