// Stop requests. The handlers only set a flag; long loops look at it, so that destructors run and
// no half-written file stays behind. A further signal, a second or more after the first, leaves at
// once. (Earlier ones are the same request: launchers pass on what the terminal or the batch system
// has already sent to everybody.)
#pragma once

#include <sys/types.h>

#include <exception>

namespace basin {

/// SIGINT, SIGTERM, SIGUSR1 and SIGHUP set the pending signal; another one, at least a second later,
/// ends the process at once (exit status 128 + signal). SIGHUP never does that, since a terminal
/// that goes sends several, and is left alone where it is ignored (nohup). Blocking system calls
/// return EINTR. SIGBUS, which a mapped file that is cut short ends in, exits with 1 and says so.
void install_signal_handlers();

/// When a second signal ends this process at once, `group`, a process group, is killed before: its
/// processes may be stopped, or wait for each other. 0: none.
void take_along(pid_t group);

/// A pipe that nobody reads any more is an error of the write (EPIPE), no longer the end of the
/// process. For work that is worth more than what it says; passed on to processes that it starts.
void survive_closed_pipes();

/// 0, or the number of the signal that asked the program to stop.
int pending_signal() noexcept;

/// Thrown by `check_interrupt` where a verb other than `train` is asked to stop; `main` turns it
/// into exit status 130.
struct Interrupted : std::exception {
  const char* what() const noexcept override { return "interrupted"; }
};

/// Throws `Interrupted` when a stop was requested. Cheap; call it in every loop that can last.
void check_interrupt();

}  // namespace basin
