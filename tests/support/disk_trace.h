// What faulty_files.cpp recorded, and the disks that a power cut could have left. A program that is
// killed keeps what the kernel holds in memory; after a power cut only what was synced is sure to
// be there: a file's data by fsync of the file, a name by fsync of its directory.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace basin {

struct DiskCall {
  int number = 0;  // in its process, as BASIN_FAULT_AT counts; "saved" has that of the call before
  std::string name;  // create create-empty open write truncate fsync rename mkdir unlink symlink
                     // link close, and "saved": `path` was reported
  int64_t result = 0;
  std::string path, other;
  int64_t offset = 0;
  std::string data;
};

std::vector<DiskCall> read_disk_trace(const std::filesystem::path& trace);

/// What became of that which was not synced.
enum class Unsynced {
  kLost,     // neither names nor data
  kEmptied,  // all names are there, the data is not
  kCut,      // all names, half of the data
  kKept,     // everything
  kMixed     // of each directory and file, one of the above
};

/// A disk that goes through recorded calls.
class TracedDisk {
 public:
  /// Calls deal with files below `root`, which is empty at first.
  explicit TracedDisk(std::filesystem::path root);

  void apply(const DiskCall& call);
  /// Paths relative to the root with contents (symbolic links: "-> target"; directories: "/").
  std::map<std::string, std::string> after_power_cut(Unsynced unsynced, uint64_t seed = 0) const;

 private:
  struct Node {
    bool directory = false, link = false;
    std::string data = {}, target = {};
    std::optional<std::string> synced_data = {};
    std::map<std::string, size_t> names = {}, synced_names = {};  // nodes by name
  };

  size_t directory_of(const std::string& path) const;
  static std::string name_of(const std::string& path);
  Node& node(const std::string& path);
  size_t add(const std::string& path, Node node);
  void collect(size_t index,
               const std::string& path,
               const std::function<Unsynced(size_t)>& choice,
               std::map<std::string, std::string>& tree) const;

  std::filesystem::path root_;
  std::vector<Node> nodes_;  // the first is the root
};

/// Makes `directory` anew with that content.
void write_tree(const std::filesystem::path& directory,
                const std::map<std::string, std::string>& tree);

}  // namespace basin
