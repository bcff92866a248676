// The real program, several of it at a time: started in the background, watched, asked to stop.
#pragma once

#include <fcntl.h>
#include <gmock/gmock.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>

#include <algorithm>
#include <chrono>
#include <functional>
#include <memory>
#include <sstream>
#include <thread>

#include "configs/yaml_config.h"
#include "tests/support/loopback_port.h"
#include "tests/train/train_fixture.h"

namespace basin {

/// A program in a process group of its own; what it says goes to `said`. Ends with this object.
class Program {
 public:
  Program(std::vector<std::string> words, std::filesystem::path said) : said_(std::move(said)) {
    std::vector<char*> argv;
    for (std::string& word : words) argv.push_back(word.data());
    argv.push_back(nullptr);
    posix_spawnattr_t attributes;
    posix_spawnattr_init(&attributes);
    posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETPGROUP);
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(
        &actions, STDOUT_FILENO, said_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_APPEND, 0600);
    posix_spawn_file_actions_adddup2(&actions, STDOUT_FILENO, STDERR_FILENO);
    EXPECT_EQ(posix_spawnp(&pid_, argv[0], &actions, &attributes, argv.data(), environ), 0);
    posix_spawn_file_actions_destroy(&actions);
    posix_spawnattr_destroy(&attributes);
  }
  ~Program() {
    kill(-pid_, SIGKILL);
    if (!status_) waitpid(pid_, nullptr, 0);
  }
  Program(const Program&) = delete;
  Program& operator=(const Program&) = delete;

  pid_t pid() const { return pid_; }
  std::string said() const { return read_file(said_); }
  bool is_running() {
    int status = 0;
    if (!status_ && waitpid(pid_, &status, WNOHANG) == pid_) status_ = status;
    return !status_;
  }
  /// Its exit status (128 + signal), -1 and a test failure when it goes on for too long.
  int wait(std::chrono::seconds limit = std::chrono::seconds(60)) {
    const auto deadline = std::chrono::steady_clock::now() + limit;
    while (is_running()) {
      if (std::chrono::steady_clock::now() > deadline) {
        ADD_FAILURE() << "still running after " << limit.count() << " s: " << said();
        return -1;
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    return WIFEXITED(*status_) ? WEXITSTATUS(*status_) : 128 + WTERMSIG(*status_);
  }
  /// Its child processes, oldest first.
  std::vector<pid_t> children() const {
    std::istringstream numbers(
        read_file("/proc/" + std::to_string(pid_) + "/task/" + std::to_string(pid_) + "/children"));
    std::vector<pid_t> out;
    for (pid_t child; numbers >> child;) out.push_back(child);
    return out;
  }

 private:
  std::filesystem::path said_;
  pid_t pid_ = -1;
  std::optional<int> status_;
};

class ProgramTest : public TrainTest {
 protected:
  using Words = std::vector<std::string>;

  /// A run that goes on until somebody ends it.
  RunConfig endless_config(const std::string& name) const {
    RunConfig config = tiny_config(name);
    config.train.steps = 10'000'000;
    config.train.schedule = {.kind = ScheduleKind::kConstant, .warmup_steps = 0};
    config.train.validation.every = 0;
    config.data.heldout = "";
    return config;
  }
  /// `before... basin train CONFIG after...`, where `before` is a launcher or "env A=B".
  std::unique_ptr<Program> start(const std::string& name,
                                 const RunConfig& config,
                                 Words before,
                                 const Words& after = {}) const {
    const std::filesystem::path file = root_ / (name + ".yaml");
    write_file(file, to_yaml(config));
    before.insert(before.end(), {BASIN_PROGRAM, "train", file.string()});
    before.insert(before.end(), after.begin(), after.end());
    return std::make_unique<Program>(before, root_ / (name + ".said"));
  }
  /// The words that make `rank` of `size` ranks that meet at `port`.
  static Words as_rank(int64_t rank, int64_t size, uint16_t port) {
    return {"env",
            "RANK=" + std::to_string(rank),
            "WORLD_SIZE=" + std::to_string(size),
            "MASTER_ADDR=127.0.0.1",
            "MASTER_PORT=" + std::to_string(port)};
  }
  /// Waits until the run has taken a step; false when `program` ends before.
  static bool wait_for_steps(const RunConfig& config, Program& program, int64_t steps = 1) {
    const std::filesystem::path rows = std::filesystem::path(config.run.dir) / "metrics.jsonl";
    while (program.is_running()) {
      if (std::filesystem::exists(rows)) {
        const std::string text = read_file(rows);
        if (std::count(text.begin(), text.end(), '\n') >= steps) return true;
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    return false;
  }
  /// Lines of `text` that begin with "error:".
  static Words errors_in(const std::string& text) {
    Words out;
    std::istringstream lines(text);
    for (std::string line; std::getline(lines, line);)
      if (line.rfind("error:", 0) == 0) out.push_back(line);
    return out;
  }
};

}  // namespace basin
