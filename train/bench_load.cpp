// Opening a model against reading its files: from the disk as far as the system lets its cache go,
// and from the cache.
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <stdexcept>

#include "configs/clock.h"
#include "configs/file_descriptor.h"
#include "configs/files.h"
#include "configs/signals.h"
#include "infer/command_options.h"
#include "infer/model_directory.h"
#include "model/checkpoint.h"
#include "model/weight_files.h"
#include "train/bench.h"

namespace basin {
namespace {

namespace fs = std::filesystem;

/// Asks the system to forget what it has of these files; it may decline.
void forget(const std::vector<fs::path>& files) {
  for (const fs::path& path : files) {
    const FileDescriptor file = open_file(path, O_RDONLY);
    fsync(file.get());  // what is not written yet cannot be forgotten
    posix_fadvise(file.get(), 0, 0, POSIX_FADV_DONTNEED);
  }
}

/// The share of these files that the system has in memory.
double cached_share(const std::vector<fs::path>& files) {
  size_t pages = 0, cached = 0;
  for (const fs::path& path : files) {
    const MappedFile file(path);
    const auto page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    std::vector<unsigned char> present((file.size_bytes() + page - 1) / page);
    mincore(const_cast<std::byte*>(file.data()), file.size_bytes(), present.data());
    pages += present.size();
    cached += static_cast<size_t>(
        std::count_if(present.begin(), present.end(), [](auto p) { return (p & 1) != 0; }));
  }
  return pages > 0 ? static_cast<double>(cached) / static_cast<double>(pages) : 0;
}

/// Seconds to read these files one after the other, from front to back.
double read_seconds(const std::vector<fs::path>& files) {
  std::vector<char> buffer(4 << 20);
  const Clock::time_point began = Clock::now();
  for (const fs::path& path : files) {
    const FileDescriptor file = open_file(path, O_RDONLY);
    posix_fadvise(file.get(), 0, 0, POSIX_FADV_SEQUENTIAL);
    while (read(file.get(), buffer.data(), buffer.size()) > 0) check_interrupt();
  }
  return seconds_since(began);
}

int64_t resident_bytes() {
  std::ifstream file("/proc/self/status");
  for (std::string word; file >> word;)
    if (int64_t kib = 0; word == "VmRSS:" && file >> kib) return 1024 * kib;
  return 0;
}

Timing sorted(std::vector<double> seconds) {
  std::sort(seconds.begin(), seconds.end());
  return {std::move(seconds)};
}

}  // namespace

BenchRow bench_load(const LoadBench& bench, const BenchOptions& options) {
  const at::Device device = device_of_option(bench.device);
  const fs::path directory = resolve_model_directory(bench.model);
  const std::vector<fs::path> files = WeightFiles(directory).paths();
  int64_t file_bytes = 0, weight_bytes = 0, peak = 0;
  for (const fs::path& path : files) file_bytes += static_cast<int64_t>(fs::file_size(path));
  const auto open_seconds = [&] {
    check_interrupt();
    const Clock::time_point began = Clock::now();
    const LoadedModel loaded = open_model(directory, bench.dtype, device);
    const double seconds = seconds_since(began);
    weight_bytes = static_cast<int64_t>(loaded.model->flat().nbytes());
    return seconds;
  };
  std::vector<double> disk, cold, warm;
  double cached = 0;
  for (int64_t i = 0; i < options.repetitions; ++i) {
    forget(files);
    cached = std::max(cached, cached_share(files));
    if (i == 0) {  // before anything else took memory that could be used again
      reset_peak_memory(at::kCPU);
      const int64_t before = resident_bytes();
      cold.push_back(open_seconds());
      peak = peak_memory_bytes(at::kCPU) - before;
    } else {
      cold.push_back(open_seconds());
    }
    warm.push_back(open_seconds());
    forget(files);
    disk.push_back(read_seconds(files));
  }
  BenchRow row;
  row["benchmark"] = "load";
  row["model"] = directory.string();
  row["dtype"] = bench.dtype;
  row["device"] = device.str();
  row["file_bytes"] = file_bytes;
  row["weight_bytes"] = weight_bytes;
  row["peak_memory_bytes"] = peak;  // what loading added to the process
  row["peak_over_weights"] = static_cast<double>(peak) / static_cast<double>(weight_bytes);
  row["cached_before_cold"] = cached;  // 0: all of it came from the disk
  const double megabytes = static_cast<double>(file_bytes) / 1e6;
  add_rate(row, "disk_mb_per_second", megabytes, sorted(disk));
  add_rate(row, "cold_mb_per_second", megabytes, sorted(cold));
  add_rate(row, "warm_mb_per_second", megabytes, sorted(warm));
  row["cold_ms"] = 1e3 * sorted(cold).median();
  row["warm_ms"] = 1e3 * sorted(warm).median();
  row["cold_over_disk"] =
      row["cold_mb_per_second"].get<double>() / row["disk_mb_per_second"].get<double>();
  return row;
}

}  // namespace basin
