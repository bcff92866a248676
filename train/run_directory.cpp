#include "train/run_directory.h"

#include <ATen/ATen.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <fstream>
#include <random>
#include <set>
#include <stdexcept>
#include <string_view>
#include <thread>
#include <utility>

#include "configs/clock.h"
#include "configs/files.h"
#include "configs/log.h"
#include "model/manifest.h"
#include "train/state.h"

namespace basin {
namespace {

namespace fs = std::filesystem;

constexpr const char* kStopName = ".stopped";

/// Renaming comes first: a kill half-way leaves no damaged checkpoint under its name.
void remove_checkpoint(const fs::path& directory) {
  const fs::path doomed = fs::path(directory) += fmt::format(".tmp.{}.old", getpid());
  fs::remove_all(doomed);
  fs::rename(directory, doomed);
  fs::remove_all(doomed);
}

/// step-N becomes step-N.damaged, or step-N.damaged.2 and so on; returns the new name.
fs::path set_aside(const fs::path& directory) {
  const fs::path damaged = fs::path(directory) += ".damaged";
  fs::path free = damaged;
  for (int n = 2; fs::exists(free); ++n) free = fs::path(damaged) += fmt::format(".{}", n);
  fs::rename(directory, free);
  sync_directory(directory.parent_path());
  return free;
}

std::optional<double> saved_validation_loss(const fs::path& directory) {
  try {
    return read_state(directory).state.val_loss;
  } catch (const std::exception&) {  // damaged: not among the best
    return std::nullopt;
  }
}

/// Network file systems may show a new file only after some seconds.
bool sees_nonce(const fs::path& file, const std::string& nonce) {
  constexpr std::chrono::seconds kPatience{5};
  for (const Clock::time_point deadline = Clock::now() + kPatience;;) {
    std::string text;
    std::getline(std::ifstream(file), text);
    if (text == nonce) return true;
    if (Clock::now() > deadline) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
  }
}

FileDescriptor open_lock(const fs::path& run_directory) {
  make_writable_directory(run_directory);
  FileDescriptor file(open((run_directory / ".lock").c_str(), O_CREAT | O_RDWR | O_CLOEXEC, 0666));
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

void require_shared(const fs::path& run_directory, Comm& comm) {
  if (comm.size() == 1) return;
  const fs::path file = run_directory / ".nonce";
  const std::string nonce = std::to_string(
      comm.broadcast(comm.is_root() ? static_cast<int64_t>(std::random_device()()) : 0));
  if (comm.is_root() && !(std::ofstream(file) << nonce << std::flush))
    throw std::runtime_error(fmt::format("cannot write {}", file.string()));
  comm.barrier();
  const bool sees = sees_nonce(file, nonce);
  const at::Tensor all = comm.all_gather_rows(at::scalar_tensor(sees ? 1.0 : 0.0, at::kDouble));
  std::error_code gone;
  if (comm.is_root()) fs::remove(file, gone);
  std::vector<int64_t> blind;
  for (int64_t rank = 0; rank < comm.size(); ++rank)
    if (all[rank][0].item<double>() == 0) blind.push_back(rank);
  if (blind.empty()) return;
  throw std::invalid_argument(
      fmt::format("run.dir {} must lie on a file system that all ranks see: rank {} does not see "
                  "there what rank 0 has written; name a directory that is shared by all machines, "
                  "from / on",
                  run_directory.string(),
                  fmt::join(blind, ", ")));
}

fs::path aside(const fs::path& directory, int64_t pid, int64_t attempt) {
  return fs::path(directory) += fmt::format(".tmp.{}.{}", pid, attempt);
}

std::optional<int64_t> settle_on_checkpoint(const fs::path& run_directory, int64_t newest) {
  std::vector<std::pair<fs::path, std::string>> damaged;
  for (const int64_t step : list_steps(run_directory)) {
    if (step > newest) continue;
    const fs::path directory = step_directory(run_directory, step);
    if (auto problem = manifest_problem(directory)) {
      damaged.emplace_back(directory, std::move(*problem));
      continue;
    }
    for (const auto& [path, why] : damaged)
      log_warn("passing over damaged checkpoint {}: {}; it is kept as {}, remove it yourself",
               path.string(),
               why,
               set_aside(path).string());
    return step;
  }
  if (damaged.empty()) return std::nullopt;
  std::string lines;
  for (const auto& [path, why] : damaged)
    lines += fmt::format("\n  {}: {}", path.filename().string(), why);
  throw std::runtime_error(
      fmt::format("{} has {} checkpoint{}, and none can be read whole: mend the file system or "
                  "restore one from a copy; to begin anew, use another run.dir or move them away{}",
                  run_directory.string(),
                  damaged.size(),
                  damaged.size() == 1 ? "" : "s",
                  lines));
}

void publish_checkpoint(const fs::path& from, const fs::path& directory) {
  if (fs::exists(directory)) remove_checkpoint(directory);
  fs::rename(from, directory);
  sync_directory(directory.parent_path());
}

void prune_checkpoints(const fs::path& run_directory, const CheckpointConfig& keep) {
  const std::vector<int64_t> steps = list_steps(run_directory);
  const auto is_damaged = [&](int64_t step) {
    return !has_all_files(step_directory(run_directory, step));
  };
  std::set<int64_t> kept;
  for (const int64_t step : steps) {
    if (std::ssize(kept) == keep.keep_last) break;
    if (!is_damaged(step)) kept.insert(step);
  }
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
    if (!kept.contains(step) && !is_damaged(step)) remove_checkpoint(step_directory(run_directory, step));
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

void note_stop(const fs::path& run_directory, const std::string& job) {
  std::ofstream(run_directory / kStopName) << job;
}

void forget_stop(const fs::path& run_directory) {
  std::error_code absent;
  fs::remove(run_directory / kStopName, absent);
}

bool has_stopped(const fs::path& run_directory, const std::string& job) {
  const fs::path file = run_directory / kStopName;
  return fs::exists(file) && read_file(file) == job;
}

void remove_leftovers(const fs::path& run_directory) {
  if (!fs::is_directory(run_directory)) return;
  std::vector<fs::path> leftovers;
  for (const fs::directory_entry& entry : fs::directory_iterator(run_directory)) {
    const std::string name = entry.path().filename().string();
    const size_t at = name.find(".tmp.");
    const auto step = at == name.npos ? std::nullopt : step_of(name.substr(0, at));
    // The link's name is made by whoever holds the run's lock.
    if ((step && name.starts_with(step_directory("", *step).string() + ".tmp.")) ||
        (entry.is_symlink() && name.starts_with("final.tmp.")) || is_abandoned(entry.path()))
      leftovers.push_back(entry.path());
  }
  for (const fs::path& path : leftovers) fs::remove_all(path);
}

}  // namespace basin
