#include "train/machine_limits.h"

#include <sched.h>

#include <algorithm>
#include <fstream>
#include <functional>
#include <initializer_list>
#include <limits>
#include <string>
#include <string_view>
#include <thread>

namespace basin {
namespace {

namespace fs = std::filesystem;

/// The group of this process and those above it: a limit of any of them holds.
void for_each_group(const fs::path& root, const std::function<void(const fs::path&)>& body) {
  std::ifstream groups(root / "proc/self/cgroup");
  for (std::string line; std::getline(groups, line);) {
    if (!line.starts_with("0::/")) continue;  // of version 1
    for (fs::path group = line.substr(4);; group = group.parent_path()) {
      body(root / "sys/fs/cgroup" / group);
      if (group.empty()) return;
    }
  }
}

/// The sum of the numbers behind these words.
double sum_of(const fs::path& file, std::initializer_list<std::string_view> words) {
  std::ifstream text(file);
  double sum = 0, number = 0;
  for (std::string word; text >> word >> number;)
    if (std::find(words.begin(), words.end(), word) != words.end()) sum += number;
  return sum;
}

}  // namespace

double available_cpus(const fs::path& root) {
  cpu_set_t cores;
  double cpus = sched_getaffinity(0, sizeof(cores), &cores) == 0
                    ? CPU_COUNT(&cores)
                    : std::thread::hardware_concurrency();
  for_each_group(root, [&](const fs::path& group) {
    std::ifstream file(group / "cpu.max");  // "max 100000" or microseconds in each of so many
    if (double quota = 0, period = 0; file >> quota >> period && period > 0)
      cpus = std::min(cpus, quota / period);
  });
  return cpus;
}

double available_bytes(const fs::path& root) {
  double bytes = std::numeric_limits<double>::max();
  std::ifstream file(root / "proc/meminfo");
  for (std::string word; file >> word;)
    if (double kib = 0; word == "MemAvailable:" && file >> kib) bytes = 1024 * kib;
  for_each_group(root, [&](const fs::path& group) {
    std::ifstream most(group / "memory.max"), now(group / "memory.current");
    double limit = 0, used = 0;
    if (!(most >> limit) || !(now >> used)) return;  // "max": none
    // Pages of files count, and give way.
    used -= sum_of(group / "memory.stat", {"active_file", "inactive_file"});
    bytes = std::min(bytes, std::max(0.0, limit - used));
  });
  return bytes;
}

}  // namespace basin
