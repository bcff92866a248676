// Another program as a child of this one.
#pragma once

#include <filesystem>
#include <functional>
#include <string>
#include <vector>

namespace basin {

/// Runs `command` (its first word is looked up in PATH) with `folder` as working folder and stderr
/// in the file `folder`/log; calls `watch` about ten times a second. Returns the exit status, or
/// 128 + the signal that ended it. An exception from `watch`, or Interrupted on a stop request,
/// ends the child first. Throws std::system_error when the program cannot be started.
int run_child(const std::vector<std::string>& command,
              const std::filesystem::path& folder,
              const std::function<void()>& watch);

}  // namespace basin
