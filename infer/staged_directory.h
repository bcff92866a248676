// A directory that is either whole or absent, as AtomicFile is for files: filled aside, then
// renamed.
#pragma once

#include <filesystem>

namespace basin {

class StagedDirectory {
 public:
  /// Makes `PATH.tmp.<pid>`. Throws std::invalid_argument when `path` is there already and may not
  /// be replaced: without `force`, never; with it, when it holds anything but the files of a model
  /// directory (a folder, say, as a training step has) or is where `source` lies.
  StagedDirectory(const std::filesystem::path& path,
                  bool force,
                  const std::filesystem::path& source);
  ~StagedDirectory();
  StagedDirectory(const StagedDirectory&) = delete;
  StagedDirectory& operator=(const StagedDirectory&) = delete;

  /// Where the files go for now.
  const std::filesystem::path& path() const { return temporary_; }
  /// The name that they get in the end.
  const std::filesystem::path& target() const { return target_; }
  /// Makes all files durable and gives the directory its name.
  void commit();

 private:
  std::filesystem::path target_, temporary_;
};

}  // namespace basin
