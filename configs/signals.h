// Stop requests. The handlers only set a flag; long loops look at it, so that destructors run and no half-written file stays behind.
// A second signal leaves at once.
#pragma once

#include <exception>

namespace basin {

/// SIGINT, SIGTERM and SIGUSR1 set the pending signal; a second one ends the process at once (exit status 128 + signal).
void install_signal_handlers();

/// 0, or the number of the signal that asked the program to stop.
int pending_signal() noexcept;

/// Thrown by `check_interrupt` where a verb other than `train` is asked to stop; `main` turns it into exit status 130.
struct Interrupted : std::exception {
  const char* what() const noexcept override { return "interrupted"; }
};

/// Throws `Interrupted` when a stop was requested. Cheap; call it in every loop that can last.
void check_interrupt();

}  // namespace basin
