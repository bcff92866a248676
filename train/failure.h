// How a process ends that could not do its work: one line, one exit status. Among ranks the line is
// said once, by one of them (train/meeting.h decides which).
#pragma once

#include <exception>
#include <string>

namespace basin {

struct Failure {
  std::string message;
  int status = 1;          // of the process
  bool secondary = false;  // follows from another rank's end
  bool told = false;       // by another rank
};

/// The failure of one of several ranks. The process can only end, without destructors that would
/// wait for the others.
struct RankFailure : std::exception {
  explicit RankFailure(Failure what) : failure(std::move(what)) {}
  const char* what() const noexcept override { return failure.message.c_str(); }
  Failure failure;
};

/// What `main` makes of an exception.
Failure describe_failure(std::exception_ptr exception);

/// What torchrun prints as the cause when this process ends with anything but 0; nothing without
/// it.
void tell_torchrun(const std::string& message);

/// "error: [rank r] ..." to stderr, or to our own launcher, which prints it last. torchrun gets it
/// in the file where it looks for the cause of the end. Nothing is printed for what is told
/// already.
void print_failure(const Failure& failure);

}  // namespace basin
