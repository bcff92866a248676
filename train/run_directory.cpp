#include "train/run_directory.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <set>
#include <stdexcept>

#include "configs/files.h"
#include "train/state.h"

namespace basin {
namespace {

namespace fs = std::filesystem;

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

FileDescriptor open_lock(const fs::path& run_directory) {
  make_writable_directory(run_directory);
  FileDescriptor file(
      open((run_directory / ".lock").c_str(), O_CREAT | O_RDWR | O_CLOEXEC, 0666));
  if (!file.is_open())
    throw std::runtime_error(
        fmt::format("cannot write in {}: {}", run_directory.string(), std::strerror(errno)));
  return file;
}

}  // namespace

RunLock::RunLock(const fs::path& run_directory) : file_(open_lock(run_directory)) {
  if (flock(file_.get(), LOCK_EX | LOCK_NB) != 0)
    throw std::runtime_error(
        fmt::format("another process trains in {}: wait for it or use another run.dir",
                    run_directory.string()));
}

fs::path aside(const fs::path& directory, int64_t pid, int64_t attempt) {
  return fs::path(directory) += fmt::format(".tmp.{}.{}", pid, attempt);
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
    const size_t at = name.find(".tmp.");
    const auto step = at == name.npos ? std::nullopt : step_of(name.substr(0, at));
    if (step && name.starts_with(step_directory("", *step).string() + ".tmp."))
      leftovers.push_back(entry.path());
  }
  for (const fs::path& path : leftovers) fs::remove_all(path);
}

}  // namespace basin
