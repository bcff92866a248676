#include "train/run_directory.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <spdlog/spdlog.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <set>
#include <stdexcept>

#include "configs/files.h"
#include "model/manifest.h"
#include "train/state.h"

namespace basin {
namespace {

namespace fs = std::filesystem;

/// The number of "step-NNNNNNNN", nothing for other names.
std::optional<int64_t> step_of(const std::string& name) {
  constexpr std::string_view kPrefix = "step-";
  if (!name.starts_with(kPrefix) || name.size() < kPrefix.size() + 8) return std::nullopt;
  int64_t step = 0;
  const char* end = name.data() + name.size();
  const auto [stop, error] = std::from_chars(name.data() + kPrefix.size(), end, step);
  return error == std::errc() && stop == end ? std::optional(step) : std::nullopt;
}

/// Renaming comes first: a kill half-way leaves no damaged checkpoint under its name.
void remove_checkpoint(const fs::path& directory) {
  const fs::path doomed = fs::path(directory) += fmt::format(".tmp.{}.old", getpid());
  fs::remove_all(doomed);
  fs::rename(directory, doomed);
  fs::remove_all(doomed);
}

std::optional<double> saved_validation_loss(const fs::path& directory) {
  try {
    return read_state(directory).state.val_loss;
  } catch (const std::exception&) {  // damaged: not among the best
    return std::nullopt;
  }
}

}  // namespace

RunLock::RunLock(const fs::path& run_directory) {
  make_writable_directory(run_directory);
  const fs::path path = run_directory / ".lock";
  fd_ = open(path.c_str(), O_CREAT | O_RDWR | O_CLOEXEC, 0666);
  if (fd_ < 0)
    throw std::runtime_error(
        fmt::format("cannot write in {}: {}", run_directory.string(), std::strerror(errno)));
  if (flock(fd_, LOCK_EX | LOCK_NB) != 0) {
    close(fd_);
    throw std::runtime_error(
        fmt::format("another process trains in {}: wait for it or use another run.dir",
                    run_directory.string()));
  }
}
RunLock::~RunLock() {
  close(fd_);
}

fs::path step_directory(const fs::path& run_directory, int64_t step) {
  return run_directory / fmt::format("step-{:08}", step);
}

fs::path aside(const fs::path& directory, int64_t pid, int64_t attempt) {
  return fs::path(directory) += fmt::format(".tmp.{}.{}", pid, attempt);
}

std::vector<int64_t> list_steps(const fs::path& run_directory) {
  std::vector<int64_t> steps;
  if (!fs::is_directory(run_directory)) return steps;
  for (const fs::directory_entry& entry : fs::directory_iterator(run_directory)) {
    if (!entry.is_directory() || entry.is_symlink()) continue;
    if (const auto step = step_of(entry.path().filename().string())) steps.push_back(*step);
  }
  std::sort(steps.rbegin(), steps.rend());
  return steps;
}

std::optional<int64_t> find_newest_intact(const fs::path& run_directory, int64_t newest) {
  for (const int64_t step : list_steps(run_directory)) {
    if (step > newest) continue;
    const fs::path directory = step_directory(run_directory, step);
    const std::optional<std::string> problem = manifest_problem(directory);
    if (!problem) return step;
    spdlog::warn("passing over damaged checkpoint {}: {}", directory.string(), *problem);
  }
  return std::nullopt;
}

void publish_checkpoint(const fs::path& from, const fs::path& directory) {
  if (fs::exists(directory)) remove_checkpoint(directory);
  fs::rename(from, directory);
  sync_directory(directory.parent_path());
}

void prune_checkpoints(const fs::path& run_directory,
                       const CheckpointConfig& keep,
                       int64_t newest) {
  std::vector<int64_t> steps = list_steps(run_directory);
  std::erase_if(steps, [&](int64_t step) {
    return step > newest;
  });  // damaged ones, passed over on resume: they must not push out good ones
  std::set<int64_t> kept(steps.begin(),
                         steps.begin() + std::min<int64_t>(keep.keep_last, std::ssize(steps)));
  std::vector<std::pair<double, int64_t>> by_loss;
  for (const int64_t step : steps) {
    if (keep.keep_every > 0 && step % keep.keep_every == 0) kept.insert(step);
    if (keep.keep_best == 0) continue;
    if (const auto loss = saved_validation_loss(step_directory(run_directory, step)))
      by_loss.emplace_back(*loss, step);
  }
  std::sort(by_loss.begin(), by_loss.end());
  for (int64_t i = 0; i < std::min<int64_t>(keep.keep_best, std::ssize(by_loss)); ++i)
    kept.insert(by_loss[i].second);
  for (const int64_t step : steps) {
    if (!kept.contains(step)) remove_checkpoint(step_directory(run_directory, step));
  }
}

void set_final(const fs::path& run_directory, int64_t step) {
  const fs::path link = run_directory / "final",
                 temporary = run_directory / fmt::format("final.tmp.{}", getpid());
  fs::remove(temporary);
  fs::create_directory_symlink(step_directory("", step), temporary);
  fs::rename(temporary, link);
  sync_directory(run_directory);
}

void remove_leftovers(const fs::path& run_directory) {
  if (!fs::is_directory(run_directory)) return;
  std::vector<fs::path> leftovers;
  for (const fs::directory_entry& entry : fs::directory_iterator(run_directory)) {
    const std::string name = entry.path().filename().string();
    if (const size_t at = name.find(".tmp.");
        at != std::string::npos && step_of(name.substr(0, at)))
      leftovers.push_back(entry.path());
  }
  for (const fs::path& path : leftovers) fs::remove_all(path);
}

}  // namespace basin
