// A file of records that only grows. What cannot be written (disk full, mount gone) waits in memory
// and goes first the next time: a training run does not end for a line of its log, loses none, and
// leaves no torn one.
#pragma once

#include <filesystem>
#include <functional>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>

namespace basin {

class AppendLog {
 public:
  explicit AppendLog(std::filesystem::path path) : path_(std::move(path)) {}

  void add(std::string_view record);
  /// What waits becomes `edit` of it.
  void edit_waiting(const std::function<std::string(const std::string&)>& edit);
  /// Writes what waits. Returns why it could not.
  std::optional<std::string> flush();
  /// Makes what was flushed durable. Throws std::runtime_error when it cannot, or something waits.
  /// May be called from another thread.
  void sync();

  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
  std::mutex mutex_;
  std::string waiting_;
};

}  // namespace basin
