#include "train/launch.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <spawn.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <map>
#include <optional>
#include <string>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "configs/clock.h"
#include "configs/files.h"
#include "configs/log.h"
#include "configs/signals.h"
#include "train/environment.h"
#include "train/sockets.h"

namespace basin {
namespace {

constexpr std::chrono::seconds kTimeToEnd{5};  // for ranks after one has failed

/// This command line without --nproc N.
std::vector<std::string> own_arguments() {
  const std::string raw = read_file("/proc/self/cmdline");
  std::vector<std::string> arguments;
  for (size_t at = 0; at < raw.size();) {
    std::string argument = raw.c_str() + at;
    at += argument.size() + 1;
    if (argument == "--nproc") {
      at += std::strlen(raw.c_str() + std::min(at, raw.size())) + 1;
    } else if (argument.rfind("--nproc=", 0) != 0) {
      arguments.push_back(std::move(argument));
    }
  }
  return arguments;
}

std::vector<char*> pointers(std::vector<std::string>& strings) {
  std::vector<char*> out;
  for (std::string& s : strings) out.push_back(s.data());
  out.push_back(nullptr);
  return out;
}

/// One started rank.
struct Child {
  pid_t pid = 0;
  int error_fd = -1;  // read end of the pipe with its last words
  std::string error;
  std::optional<int> status;  // as of waitpid
};

/// In process group `group`, or in a new one of its own (0).
Child start_rank(int64_t rank, int64_t nproc, std::pair<int, uint16_t> store, pid_t group) {
  int pipe_fds[2];
  if (pipe2(pipe_fds, O_CLOEXEC) != 0)
    throw std::system_error(errno, std::generic_category(), "pipe");
  std::map<std::string, std::string> variables = Environment::of_process().variables();
  // Duplicated numbers above any in use: dup2 in the child clears close-on-exec.
  constexpr int kChildErrorFd = 200, kChildStoreFd = 201;
  variables["RANK"] = variables["LOCAL_RANK"] = std::to_string(rank);
  variables["WORLD_SIZE"] = variables["LOCAL_WORLD_SIZE"] = std::to_string(nproc);
  variables["MASTER_ADDR"] = "127.0.0.1";
  variables["MASTER_PORT"] = std::to_string(store.second);
  variables[kErrorFdVariable] = std::to_string(kChildErrorFd);
  variables[kOwnLauncherVariable] = std::to_string(getpid());
  if (rank == 0) variables[kStoreFdVariable] = std::to_string(kChildStoreFd);
  std::vector<std::string> environment, arguments = own_arguments();
  for (const auto& [name, value] : variables) environment.push_back(name + "=" + value);

  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, pipe_fds[1], kChildErrorFd);
  if (rank == 0) posix_spawn_file_actions_adddup2(&actions, store.first, kChildStoreFd);
  posix_spawnattr_t attributes;
  posix_spawnattr_init(&attributes);
  posix_spawnattr_setflags(
      &attributes,
      POSIX_SPAWN_SETPGROUP);  // Ctrl-C reaches the launcher alone, which passes it on once
  posix_spawnattr_setpgroup(&attributes, group);
  Child child;
  const int error = posix_spawn(&child.pid,
                                "/proc/self/exe",
                                &actions,
                                &attributes,
                                pointers(arguments).data(),
                                pointers(environment).data());
  posix_spawn_file_actions_destroy(&actions);
  posix_spawnattr_destroy(&attributes);
  close(pipe_fds[1]);
  if (error != 0)
    throw std::system_error(error, std::generic_category(), fmt::format("starting rank {}", rank));
  child.error_fd = pipe_fds[0];
  return child;
}

int exit_status(int wait_status) {
  return WIFEXITED(wait_status) ? WEXITSTATUS(wait_status) : 128 + WTERMSIG(wait_status);
}
bool failed(const Child& child) {
  return child.status && exit_status(*child.status) != 0 && exit_status(*child.status) != 3;
}

/// The ranks of one launch; destroying it ends them.
class Children {
 public:
  explicit Children(int64_t nproc) {
    const auto store = listen_on_free_port();
    for (int64_t rank = 0; rank < nproc; ++rank) {
      all_.push_back(start_rank(rank, nproc, store, rank == 0 ? 0 : all_[0].pid));
      take_along(all_[0].pid);
    }
    close(store.first);
  }
  ~Children() {
    take_along(0);
    for (Child& child : all_) {
      if (!child.status) {
        kill(child.pid, SIGKILL);
        waitpid(child.pid, nullptr, 0);
      }
      close(child.error_fd);
    }
  }

  int run() {
    std::optional<size_t> first_failure;
    auto give_up = Clock::time_point::max();
    int passed_on = 0;
    while (collect(first_failure)) {
      if (const int signal = pending_signal(); signal != 0 && !std::exchange(passed_on, signal))
        send_all(signal);
      if (first_failure && give_up == Clock::time_point::max()) {
        send_all(SIGTERM);
        send_all(SIGCONT);  // one that is stopped must notice, too
        give_up = Clock::now() + kTimeToEnd;
      }
      if (Clock::now() > give_up) {
        send_all(SIGKILL);
        killed_ = true;
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
    }
    return first_failure ? report(*first_failure) : exit_status(*all_[0].status);
  }

 private:
  void send_all(int signal) {
    for (const Child& child : all_) {
      if (!child.status) kill(child.pid, signal);
    }
  }

  /// Takes note of ranks that ended; false when none is left. A rank that failed because another
  /// did is not the first failure.
  bool collect(std::optional<size_t>& first_failure) {
    bool running = false;
    for (size_t rank = 0; rank < all_.size(); ++rank) {
      Child& child = all_[rank];
      int status = 0;
      if (child.status) continue;
      if (waitpid(child.pid, &status, WNOHANG) != child.pid) {
        running = true;
        continue;
      }
      child.status = status;
      char buffer[4096];
      for (ssize_t n;
           (n = read(child.error_fd, buffer, sizeof(buffer))) > 0 || (n < 0 && errno == EINTR);)
        child.error.append(buffer, static_cast<size_t>(std::max<ssize_t>(n, 0)));
      if (!failed(child) || (killed_ && WIFSIGNALED(status))) continue;
      if (!first_failure || weight(all_[*first_failure]) < weight(child)) first_failure = rank;
    }
    return running;
  }

  /// How much a failure explains: that of another rank, told by that one or by this one, or its
  /// own.
  static int weight(const Child& child) {
    return child.error.empty() || child.error[0] == '1' ? 2 : child.error.size() > 1 ? 1 : 0;
  }

  int report(size_t first) const {
    const Child& child = all_[first];
    std::string text = child.error.empty() ? "" : child.error.substr(1);
    if (text.empty() && WIFSIGNALED(*child.status)) {
      text = fmt::format("error: [rank {}] ended by signal {} ({})\n",
                         first,
                         WTERMSIG(*child.status),
                         strsignal(WTERMSIG(*child.status)));
    }
    write_stderr(text);
    return exit_status(*child.status);
  }

  std::vector<Child> all_;
  bool killed_ = false;  // what was left after a failure
};

}  // namespace

void end_with_launcher() {
  const auto launcher = Environment::of_process().integer(kOwnLauncherVariable);
  if (!launcher) return;
  prctl(PR_SET_PDEATHSIG, SIGTERM);
  if (getppid() != *launcher) raise(SIGTERM);  // it had ended before
}

int launch_ranks(int64_t nproc) {
  return Children(nproc).run();
}

}  // namespace basin
