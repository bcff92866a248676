// What the machine can do at best, and how runs are timed.
#include <ATen/ATen.h>
#include <fmt/format.h>
#include <sys/resource.h>

#include <algorithm>
#include <fstream>
#include <limits>
#include <string>

#include "configs/clock.h"
#include "configs/signals.h"
#include "model/cpu_allocator.h"
#include "model/cuda.h"
#include "model/device.h"
#include "model/gemm.h"
#include "train/bench.h"

namespace basin {
namespace {

double seconds_of(at::Device device, const std::function<void()>& run) {
  const Clock::time_point start = Clock::now();
  run();
  synchronize(device);
  return seconds_since(start);
}

}  // namespace

double Timing::median() const {
  const size_t n = seconds.size(), middle = n / 2;
  return n % 2 == 1 ? seconds[middle] : (seconds[middle - 1] + seconds[middle]) / 2;
}

Timing time_runs(const BenchOptions& options, at::Device device, const std::function<void()>& run) {
  Timing timing;
  synchronize(device);
  for (int64_t i = 0; i < options.warmup + options.repetitions; ++i) {
    check_interrupt();
    const double seconds = seconds_of(device, run);
    if (i >= options.warmup) timing.seconds.push_back(seconds);
  }
  std::sort(timing.seconds.begin(), timing.seconds.end());
  return timing;
}

void add_rate(BenchRow& row, const std::string& name, double work, const Timing& timing) {
  row[name] = work / timing.median();
  row[name + "_low"] = work / timing.most();
  row[name + "_high"] = work / timing.least();
}

double measure_gemm_flops(at::ScalarType dtype, at::Device device) {
  double best = 0;
  for (const int64_t n : {1024, 2048, device.is_cuda() ? 8192 : 4096}) {
    const at::TensorOptions options =
        at::TensorOptions(ops::product_dtype(dtype, device)).device(device);
    const at::Tensor a = at::randn({n, n}, options), b = at::randn({n, n}, options);
    at::Tensor c = at::empty({n, n}, a.options());
    const double work =
        2.0 * static_cast<double>(n) * static_cast<double>(n) * static_cast<double>(n);
    at::mm_out(c, a, b);
    synchronize(device);
    for (int i = 0; i < 3; ++i)
      best = std::max(best, work / seconds_of(device, [&] { at::mm_out(c, a, b); }));
    check_interrupt();
  }
  return best;
}

namespace {

// A sum over far more memory than any cache holds.
double measure_gpu_bandwidth(at::Device device) {
  const at::Tensor memory =
      at::ones({int64_t{1} << 30}, at::TensorOptions(at::kFloat).device(device));
  double best = 0;
  for (int repetition = 0; repetition < 5; ++repetition) {
    synchronize(device);
    const double seconds = seconds_of(device, [&] { memory.sum(); });
    best = std::max(best, static_cast<double>(memory.nbytes()) / seconds);
  }
  return best;
}

}  // namespace

double measure_read_bandwidth(at::Device device) {
  if (device.is_cuda()) return measure_gpu_bandwidth(device);
  constexpr int64_t kWords = int64_t{1} << 26;  // 512 MiB
  const at::Tensor memory = at::ones({kWords}, at::kLong);
  const int64_t* words = memory.const_data_ptr<int64_t>();
  double best = 0;
  for (int repetition = 0; repetition < 5; ++repetition) {
    int64_t sum = 0;
    const double seconds = seconds_of(device, [&] {
#pragma omp parallel for reduction(+ : sum) schedule(static)
      for (int64_t i = 0; i < kWords; ++i) sum += words[i];
    });
    TORCH_CHECK(sum == kWords, "the memory that was written is not what was read");
    best = std::max(best, static_cast<double>(kWords) * sizeof(int64_t) / seconds);
  }
  return best;
}

int64_t peak_memory_bytes(at::Device device) {
  if (device.is_cuda()) return cuda_plugin() ? cuda_plugin()->peak_memory_bytes() : 0;
  std::ifstream file("/proc/self/status");
  for (std::string word; file >> word;)
    if (int64_t kib = 0; word == "VmHWM:" && file >> kib) return 1024 * kib;
  return 0;
}

int64_t page_faults() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return usage.ru_minflt + usage.ru_majflt;
}

void reset_peak_memory(at::Device device) {
  if (device.is_cuda() && cuda_plugin()) cuda_plugin()->reset_peak_memory();
  reset_peak_cpu_memory();
  std::ofstream("/proc/self/clear_refs") << 5;  // proc(5): resets the peak resident set size
}

std::string bench_table(const std::vector<BenchRow>& rows) {
  std::vector<std::vector<std::string>> cells(1);
  for (const auto& [key, value] : rows.at(0).items()) cells[0].push_back(key);
  for (const BenchRow& row : rows) {
    std::vector<std::string>& line = cells.emplace_back();
    for (const std::string& key : cells[0]) {
      const auto value = row.find(key);
      if (value == row.end() || value->is_null()) {
        line.push_back("n/a");
      } else if (value->is_number_float()) {
        const double x = value->get<double>();
        line.push_back(x >= 1000 ? fmt::format("{:.0f}", x) : fmt::format("{:.4g}", x));
      } else {
        line.push_back(value->is_string() ? value->get<std::string>() : value->dump());
      }
    }
  }
  std::vector<size_t> widths(cells[0].size());
  for (const auto& line : cells)
    for (size_t i = 0; i < line.size(); ++i) widths[i] = std::max(widths[i], line[i].size());
  std::string table;
  if (rows.size() == 1) {  // one result reads better from top to bottom
    size_t width = 0;
    for (const std::string& key : cells[0]) width = std::max(width, key.size());
    for (size_t i = 0; i < cells[0].size(); ++i)
      table += fmt::format("{:<{}}  {}\n", cells[0][i], width, cells[1][i]);
    return table;
  }
  for (const auto& line : cells) {
    for (size_t i = 0; i < line.size(); ++i)
      table += fmt::format("{:>{}}{}", line[i], widths[i], i + 1 < line.size() ? "  " : "\n");
  }
  return table;
}

}  // namespace basin
