#include "data/child_process.h"

#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <system_error>
#include <thread>

#include "configs/signals.h"

namespace basin {
namespace {

/// Ends and collects the child unless it has ended by itself.
class Child {
 public:
  explicit Child(pid_t pid) : pid_(pid) {}
  ~Child() {
    if (pid_ > 0) {
      kill(pid_, SIGKILL);
      waitpid(pid_, nullptr, 0);
    }
  }
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;

  /// Whether it has ended; then `status` is what `run_child` returns.
  bool ended(int& status) {
    int raw = 0;
    if (waitpid(pid_, &raw, WNOHANG) != pid_) {
      return false;
    }
    pid_ = -1;
    status = WIFEXITED(raw) ? WEXITSTATUS(raw) : 128 + WTERMSIG(raw);
    return true;
  }

 private:
  pid_t pid_;
};

pid_t spawn(const std::vector<std::string>& command, const std::filesystem::path& folder) {
  std::vector<char*> words;
  for (const std::string& word : command) {
    words.push_back(const_cast<char*>(word.c_str()));
  }
  words.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addchdir_np(&actions, folder.c_str());
  posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, "/dev/null", O_WRONLY, 0);
  posix_spawn_file_actions_addopen(
      &actions, STDERR_FILENO, "log", O_WRONLY | O_CREAT | O_APPEND, 0600);
  pid_t pid = -1;
  const int error = posix_spawnp(&pid, words[0], &actions, nullptr, words.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  if (error != 0) {
    throw std::system_error(error, std::generic_category(), "cannot run " + command[0]);
  }
  return pid;
}

}  // namespace

int run_child(const std::vector<std::string>& command,
              const std::filesystem::path& folder,
              const std::function<void()>& watch) {
  Child child(spawn(command, folder));
  int status = 0;
  for (int wait_ms = 1; !child.ended(status); wait_ms = std::min(2 * wait_ms, 100)) {
    check_interrupt();
    watch();
    std::this_thread::sleep_for(std::chrono::milliseconds(wait_ms));
  }
  check_interrupt();  // Ctrl-C reaches the child too, and mostly first
  return status;
}

}  // namespace basin
