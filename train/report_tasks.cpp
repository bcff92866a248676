#include "train/report_tasks.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>
#include <set>
#include <stdexcept>
#include <tuple>
#include <utility>

#include "configs/files.h"
#include "infer/model_directory.h"
#include "train/report_data.h"
#include "train/report_svg.h"

namespace basin {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

constexpr const char* kMeasures[] = {"acc", "acc_norm", "acc_bytes", "perplexity"};

SavedTask read_task_file(const fs::path& file) {
  try {
    const Json json = Json::parse(read_file(file)), task = json.at("tasks").at(0);
    SavedTask saved{file, task.at("name"), json.value("dtype", "float32"), task.at("examples"), -1, {}};
    if (json.contains("step") && !json["step"].is_null()) saved.step = json["step"];
    for (const char* measure : kMeasures) {
      if (!task.contains(measure)) continue;
      const Json& error = task.at(std::string(measure) + "_stderr");
      saved.values[measure] = {
          task[measure],
          error.is_null() ? std::numeric_limits<double>::quiet_NaN() : error.get<double>()};
    }
    return saved;
  } catch (const Json::exception& error) {
    throw std::runtime_error(
        fmt::format("{}: {}; write it anew with `basin evaluate ... --tasks FILE --save`",
                    file.string(),
                    error.what()));
  }
}

/// What stands in one row: arithmetics are not mixed.
using Row = std::tuple<std::string, bool, std::string>;
Row row_of(const SavedTask& task) {
  return {task.name, task.dtype != "float32", task.dtype};
}

const SavedTask* find_task(const RunRecord& run, const Row& row) {
  const auto found = std::ranges::find(run.tasks, row, row_of);
  return found == run.tasks.end() ? nullptr : &*found;
}

/// The run whose value stands out from that of the other one of two, else -1.
int64_t winner(const std::vector<const SavedTask*>& tasks, const std::string& measure) {
  if (tasks.size() != 2 || tasks[0] == nullptr || tasks[1] == nullptr) return -1;
  if (tasks[0]->examples != tasks[1]->examples) return -1;
  const auto a = tasks[0]->values.find(measure), b = tasks[1]->values.find(measure);
  if (a == tasks[0]->values.end() || b == tasks[1]->values.end()) return -1;
  const double difference = a->second.value - b->second.value,
               error = std::hypot(a->second.standard_error, b->second.standard_error);
  if (!(std::abs(difference) > 2 * error)) return -1;
  const bool less_is_better = measure == "perplexity";
  return (difference > 0) != less_is_better ? 0 : 1;
}

std::string cell(const SavedTask* task, const std::string& measure, bool bold, int64_t examples) {
  if (task == nullptr) return "<td class=\"first\">n/a</td>";
  const auto found = task->values.find(measure);
  if (found == task->values.end()) return "<td class=\"first\">n/a</td>";
  const auto [value, error] = found->second;
  const bool share = measure != "perplexity";
  std::string text = share ? fmt::format("{:.1f} %", 100 * value) : fmt::format("{:.4g}", value);
  if (bold) text = "<b>" + text + "</b>";
  if (std::isfinite(error))
    text += fmt::format("<span class=\"soft\">± {}</span>",
                        share ? fmt::format("{:.1f}", 100 * error) : fmt::format("{:.2g}", error));
  if (task->examples != examples)
    text += fmt::format("<span class=\"soft\">{} examples</span>", task->examples);
  return "<td class=\"first\">" + text + "</td>";
}

}  // namespace

std::vector<SavedTask> read_tasks(const fs::path& run) {
  std::vector<SavedTask> tasks;
  for (const fs::path& file : eval_files(run, "tasks-")) {
    if (!names_step(file)) tasks.push_back(read_task_file(file));
  }
  std::ranges::sort(tasks, {}, row_of);
  return tasks;
}

TasksTable tasks_table(const std::vector<RunRecord>& runs, const std::vector<std::string>& names) {
  std::set<Row> rows;
  for (const RunRecord& run : runs)
    for (const SavedTask& task : run.tasks) rows.insert(row_of(task));
  if (rows.empty()) return {};
  TasksTable table{"<tr><th>task</th><th>examples</th>", ""};
  for (const std::string& name : names) table.head += "<th class=\"first\">" + name + "</th>";
  table.head += "</tr>";
  for (const Row& row : rows) {
    std::vector<const SavedTask*> tasks;
    for (const RunRecord& run : runs) tasks.push_back(find_task(run, row));
    const SavedTask& any =
        **std::ranges::find_if(tasks, [](const SavedTask* t) { return t != nullptr; });
    for (const char* measure : kMeasures) {
      if (!any.values.contains(measure)) continue;
      table.body += fmt::format("<tr><th>{} <span class=\"soft\">{}</span></th><td>{}</td>",
                                escape_html(any.name + (any.dtype == "float32" ? "" : ", " + any.dtype)),
                                measure,
                                any.examples);
      const int64_t best = winner(tasks, measure);
      for (size_t i = 0; i < tasks.size(); ++i)
        table.body += cell(tasks[i], measure, best == static_cast<int64_t>(i), any.examples);
      table.body += "</tr>\n";
    }
  }
  return table;
}

}  // namespace basin
