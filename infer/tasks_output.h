// Results of tasks as JSON for programs, as a table for people, and as files.
#pragma once

#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "infer/score_tasks.h"

namespace basin {

struct ScoredTask {
  Task task;
  TaskResult result;
};

/// What the tasks were scored with.
struct TasksHeader {
  std::string model;  // the directory
  SinkConfig sink;
  std::string dtype;
};

/// {model, step, sink: {kind, count}, dtype, tasks: [{name, source, kind: "multiple_choice" or
/// "last_word", examples, tokens, truncated, METRIC, METRIC_stderr ..., seconds}]}. Standard errors
/// are null for a single example.
nlohmann::ordered_json to_json(const TasksHeader& header, const std::vector<ScoredTask>& tasks);
std::string json_text(const TasksHeader& header, const std::vector<ScoredTask>& tasks);

/// Ends with a newline.
std::string to_table(const TasksHeader& header, const std::vector<ScoredTask>& tasks);

/// One JSON object a line for each example: {task, line, log_likelihoods, tokens, answer, acc,
/// acc_norm, acc_bytes} or {task, line, log_likelihood, tokens, acc}.
void write_per_example(const std::filesystem::path& path, const std::vector<ScoredTask>& tasks);

/// DIRECTORY/tasks-NAME[-bfloat16][-STEP].json for each task, what json_text gives for it alone.
std::vector<std::filesystem::path> save_tasks(const std::filesystem::path& directory,
                                              const std::string& step,
                                              const TasksHeader& header,
                                              const std::vector<ScoredTask>& tasks);

}  // namespace basin
