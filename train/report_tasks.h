// Zero-shot tasks of runs, for the report: eval/tasks-*.json, side by side.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

namespace basin {

struct RunRecord;

/// One eval/tasks-NAME[-bfloat16].json.
struct SavedTask {
  struct Value {
    double value = 0, standard_error = 0;  // the error NaN for a single example
  };
  std::filesystem::path file;
  std::string name, dtype;  // dtype: of the arithmetic
  int64_t examples = 0;
  int64_t step = -1;  // of the run; -1 when the file does not say
  std::map<std::string, Value>
      values;  // acc, acc_norm, acc_bytes, perplexity, as far as it has them
};

/// Those of `run`'s eval/ folder, by name, float32 first; results of a step that was asked for by its name are
/// left out. Throws std::runtime_error naming the file that is damaged.
std::vector<SavedTask> read_tasks(const std::filesystem::path& run);

/// A table's head and body, a row for each task and measure, a column for each run; both empty when
/// no run has tasks. The better of two results is bold where it is more than two standard errors of
/// the difference away from the other, were the examples drawn anew for each.
struct TasksTable {
  std::string head, body;
};
TasksTable tasks_table(const std::vector<RunRecord>& runs, const std::vector<std::string>& names);

}  // namespace basin
