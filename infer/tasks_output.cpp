#include "infer/tasks_output.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "configs/files.h"
#include "configs/json_text.h"
#include "infer/evaluate_output.h"

namespace basin {
namespace {

using Json = nlohmann::ordered_json;

Json task_to_json(const ScoredTask& scored) {
  const auto& [task, result] = scored;
  Json json;
  json["name"] = task.name;
  json["source"] = task.source;
  json["kind"] = task.is_choice ? "multiple_choice" : "last_word";
  json["examples"] = task.examples.size();
  json["tokens"] = result.tokens;
  json["truncated"] = result.truncated;
  for (const Metric& metric : result.metrics) {
    json[metric.name] = metric.value;
    json[metric.name + "_stderr"] =
        metric.standard_error ? Json(*metric.standard_error) : Json(nullptr);
  }
  json["seconds"] = result.seconds;
  return json;
}

Json example_to_json(const Task& task, const TaskExample& example, const ExampleResult& result) {
  Json json;
  json["task"] = task.name;
  json["line"] = example.line;
  if (!task.is_choice) {
    json["log_likelihood"] = result.scores[0].log_likelihood;
    json["tokens"] = result.scores[0].tokens;
    json["acc"] = result.scores[0].greedy ? 1 : 0;
    return json;
  }
  json["log_likelihoods"] = Json::array();
  json["tokens"] = Json::array();
  for (const ContinuationScore& score : result.scores) {
    json["log_likelihoods"].push_back(score.log_likelihood);
    json["tokens"].push_back(score.tokens);
  }
  json["answer"] = example.answer;
  json["acc"] = result.likeliest == example.answer ? 1 : 0;
  json["acc_norm"] = result.likeliest_norm == example.answer ? 1 : 0;
  json["acc_bytes"] = result.likeliest_bytes == example.answer ? 1 : 0;
  return json;
}

/// "0.6123 +- 0.0114", or "-" for what the task does not have.
std::string cell(const TaskResult& result, const std::string& name) {
  const auto metric = std::ranges::find(result.metrics, name, &Metric::name);
  if (metric == result.metrics.end()) return "-";
  const std::string value = fmt::format("{:.4g}", metric->value);
  return metric->standard_error ? fmt::format("{} +- {:.2g}", value, *metric->standard_error)
                                : value;
}

}  // namespace

Json to_json(const TasksHeader& header, const std::vector<ScoredTask>& tasks) {
  Json json = result_header(header.model, header.sink);
  json["dtype"] = header.dtype;
  json["tasks"] = Json::array();
  for (const ScoredTask& scored : tasks) json["tasks"].push_back(task_to_json(scored));
  return json;
}

std::string json_text(const TasksHeader& header, const std::vector<ScoredTask>& tasks) {
  return to_text(to_json(header, tasks));
}

std::string to_table(const TasksHeader& header, const std::vector<ScoredTask>& tasks) {
  size_t width = 4;
  for (const ScoredTask& scored : tasks) width = std::max(width, scored.task.name.size());
  std::string table = fmt::format(
      "{}: {}, {}\nacc: by log-likelihood (last words: greedy decoding writes it); "
      "acc_norm, acc_bytes: by that per character and byte; +- standard error\n\n",
      header.model,
      describe_sink(header.sink),
      header.dtype);
  constexpr const char* kRow = "{:<{}}  {:>8}  {:>17}  {:>17}  {:>17}  {:>17}  {:>9}\n";
  table += fmt::format(fmt::runtime(kRow),
                       "task",
                       width,
                       "examples",
                       "acc",
                       "acc_norm",
                       "acc_bytes",
                       "perplexity",
                       "seconds");
  for (const auto& [task, result] : tasks)
    table += fmt::format(fmt::runtime(kRow),
                         task.name,
                         width,
                         task.examples.size(),
                         cell(result, "acc"),
                         cell(result, "acc_norm"),
                         cell(result, "acc_bytes"),
                         cell(result, "perplexity"),
                         fmt::format("{:.1f}", result.seconds));
  return table;
}

void write_per_example(const std::filesystem::path& path, const std::vector<ScoredTask>& tasks) {
  AtomicFile file(path);
  for (const auto& [task, result] : tasks)
    for (size_t i = 0; i < task.examples.size(); ++i)
      file.write(to_line(example_to_json(task, task.examples[i], result.examples[i])));
  file.commit();
}

std::vector<std::filesystem::path> save_tasks(const std::filesystem::path& directory,
                                              const std::string& step,
                                              const TasksHeader& header,
                                              const std::vector<ScoredTask>& tasks) {
  std::vector<std::filesystem::path> paths;
  for (const ScoredTask& scored : tasks) {
    paths.push_back(
        directory / fmt::format("tasks-{}{}{}{}.json",
                                scored.task.name,
                                header.dtype == "float32" ? "" : "-" + header.dtype,
                                step.empty() ? "" : "-",
                                step));
    write_file(paths.back(), json_text(header, {scored}));
  }
  return paths;
}

}  // namespace basin
