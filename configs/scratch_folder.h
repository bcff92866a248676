// A new empty folder under the system's temporary one, removed with all it holds.
#pragma once

#include <filesystem>

namespace basin {

class ScratchFolder {
 public:
  /// Throws std::system_error when it cannot be made.
  ScratchFolder();
  ~ScratchFolder();
  ScratchFolder(const ScratchFolder&) = delete;
  ScratchFolder& operator=(const ScratchFolder&) = delete;

  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

}  // namespace basin
