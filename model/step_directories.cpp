#include "model/step_directories.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <functional>
#include <string_view>
#include <utility>

#include "configs/log.h"
#include "model/manifest.h"

namespace basin {
namespace {

namespace fs = std::filesystem;

/// Directories that are called step-N, and links to such, newest first.
std::vector<fs::path> named_steps(const fs::path& run_directory) {
  std::vector<std::pair<int64_t, fs::path>> steps;
  if (fs::is_directory(run_directory))
    for (const fs::directory_entry& entry : fs::directory_iterator(run_directory))
      if (const auto step = step_of(entry.path().filename().string()); step && entry.is_directory())
        steps.emplace_back(*step, entry.path());
  std::ranges::sort(steps, std::greater());
  std::vector<fs::path> paths;
  for (auto& [step, path] : steps) paths.push_back(std::move(path));
  return paths;
}

/// Logs the `problem` of `directory`, if any.
bool is_intact(const fs::path& directory, const std::optional<std::string>& problem) {
  if (problem) log_warn("passing over damaged checkpoint {}: {}", directory.string(), *problem);
  return !problem;
}

}  // namespace

std::optional<int64_t> step_of(const std::string& name) {
  constexpr std::string_view kPrefix = "step-";
  if (!name.starts_with(kPrefix) || name.starts_with("step--")) return std::nullopt;
  int64_t step = 0;
  const char* end = name.data() + name.size();
  const auto [stop, error] = std::from_chars(name.data() + kPrefix.size(), end, step);
  return error == std::errc() && stop == end ? std::optional(step) : std::nullopt;
}

fs::path step_directory(const fs::path& run_directory, int64_t step) {
  return run_directory / fmt::format("step-{:08}", step);
}

std::vector<int64_t> list_steps(const fs::path& run_directory) {
  std::vector<int64_t> steps;
  for (const fs::path& path : named_steps(run_directory)) {
    const int64_t step = *step_of(path.filename().string());
    if (path.filename() == step_directory("", step) && !fs::is_symlink(path)) steps.push_back(step);
  }
  return steps;
}

std::optional<int64_t> find_newest_intact(const fs::path& run_directory, int64_t newest) {
  for (const int64_t step : list_steps(run_directory))
    if (const fs::path path = step_directory(run_directory, step);
        step <= newest && is_intact(path, manifest_problem(path)))
      return step;
  return std::nullopt;
}

std::optional<fs::path> find_newest_model(const fs::path& run_directory) {
  for (const fs::path& path : named_steps(run_directory))
    if (is_intact(path, model_problem(path))) return path;
  return std::nullopt;
}

}  // namespace basin
