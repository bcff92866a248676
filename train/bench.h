// `basin bench`: how fast this machine trains, prefills, decodes, streams and prepares, against
// what the same machine can do at best, measured in the same run. Results are rows of JSON, printed
// as a table for people.
#pragma once

#include <c10/core/Device.h>
#include <c10/core/ScalarType.h>

#include <cstdint>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace basin {

using BenchRow = nlohmann::ordered_json;

/// What every benchmark is told.
struct BenchOptions {
  int64_t warmup = 1;       // runs before those that count
  int64_t repetitions = 5;  // runs that count
  bool peaks = true;        // measure the machine's peaks too
  double peak_flops = 0;    // what the data sheet promises, per second; 0: not said
};

/// Seconds of repeated runs.
struct Timing {
  std::vector<double> seconds;  // sorted

  double median() const;
  double least() const { return seconds.front(); }
  double most() const { return seconds.back(); }
};

/// Calls `run` warmup + repetitions times; a run ends when the device is done. Throws Interrupted.
Timing time_runs(const BenchOptions& options, at::Device device, const std::function<void()>& run);

/// `work` units a run as median, lowest and highest rate, under `name`, `name`_low and `name`_high.
void add_rate(BenchRow& row, const std::string& name, double work, const Timing& timing);

/// Floating-point operations a second of LibTorch's matrix product, the best of squares of 1024,
/// 2048 and 4096 on all threads; of fp32 where its product of bf16 is no measure of the machine
/// (ops::product_dtype).
double measure_gemm_flops(at::ScalarType dtype, at::Device device);
/// Bytes a second that all threads of the CPU together, or the GPU, read from memory.
double measure_read_bandwidth(at::Device device);
/// Highest resident memory of the process since reset_peak_memory, or of the GPU what LibTorch's
/// allocator held at most, in bytes; 0 where nobody says.
int64_t peak_memory_bytes(at::Device device);
void reset_peak_memory(at::Device device);
/// Pages that the system has given to the process so far.
int64_t page_faults();

/// Training steps of a run file on its data, or on random tokens where the data is not there.
struct TrainBench {
  std::string config_path;
  std::vector<std::string> overrides;
  int64_t steps = 5;  // of one timed run
  std::string save;   // directory for the initial model, batches.npy and bench.json, for other
                      // software; empty: none
};
BenchRow bench_train(const TrainBench& bench, const BenchOptions& options);

/// What saving costs a training run on random tokens, beside it and while it waits, and resuming.
struct CheckpointBench {
  std::string config_path;
  std::vector<std::string> overrides;
  int64_t every = 20;  // steps between saves
  int64_t saves = 5;   // of one timed run, beside its last
};
BenchRow bench_checkpoint(const CheckpointBench& bench, const BenchOptions& options);

/// Inference with a model directory's weights, or a run file's random ones.
struct InferBench {
  std::string subject;
  std::vector<std::string> overrides = {};  // of a run file
  std::string dtype = "float32";            // float32, bfloat16 or q8_0
  std::string device = "auto";              // auto, cpu or cuda
  std::vector<int64_t> caches = {1024};
  int64_t sinks = 1;
  int64_t tokens = 512;  // of the prompt, of the text, or decoded in one timed run
  int64_t streams = 1;   // decode: independent streams in one batch
  int64_t position = 0;  // decode: tokens that went through the cache before; 0: as many as fill it
  bool recompute = false;  // decode: the sliding window with recomputation beside it
  std::string save = {};   // directory for the model, for other software; empty: none
};
std::vector<BenchRow> bench_prefill(const InferBench& bench, const BenchOptions& options);
std::vector<BenchRow> bench_decode(const InferBench& bench, const BenchOptions& options);
std::vector<BenchRow> bench_stream(const InferBench& bench, const BenchOptions& options);

/// Tokenising text files with an existing tokenizer, in memory: what `prepare` does beside reading
/// and writing.
struct PrepareBench {
  std::vector<std::string> text;
  std::string tokenizer, text_key = "text";
  int64_t max_bytes = 16'000'000;
};
std::vector<BenchRow> bench_prepare(const PrepareBench& bench, const BenchOptions& options);

/// Opening a model directory, from the disk as far as the system's cache can be emptied and from
/// the cache, against reading its files; and the memory that it takes.
struct LoadBench {
  std::string model;
  std::string dtype = "float32";
  std::string device = "auto";
};
BenchRow bench_load(const LoadBench& bench, const BenchOptions& options);

/// Rows with the same keys as a table: keys above, one line a row.
std::string bench_table(const std::vector<BenchRow>& rows);

}  // namespace basin
