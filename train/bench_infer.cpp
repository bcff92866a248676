// Prefill, decoding and streaming evaluation of a trained model, or of a run file's shape with
// random weights.
#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Parallel.h>
#include <c10/core/GradMode.h>
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <filesystem>
#include <memory>
#include <stdexcept>

#include "infer/decoder.h"
#include "infer/kv_cache.h"
#include "infer/model_directory.h"
#include "infer/modes.h"
#include "model/checkpoint.h"
#include "model/cost.h"
#include "train/bench.h"
#include "train/config.h"

namespace basin {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int64_t kChunk = 1024;  // positions that pass the layers at once, as in the verbs

std::unique_ptr<Transformer> open_subject(const InferBench& bench) {
  const std::string dtype = bench.dtype == "float32" ? "float32" : "bfloat16";
  const bool is_run_file = bench.subject.ends_with(".yaml") || bench.subject.ends_with(".yml");
  std::unique_ptr<Transformer> model;
  if (is_run_file) {
    const RunConfig config = read_run_config(bench.subject, bench.overrides);
    if (config.model.vocab_size == 0)
      throw std::invalid_argument(
          fmt::format("{}: model.vocab_size is 0: add --set model.vocab_size=32000 or the like",
                      bench.subject));
    model = std::make_unique<Transformer>(
        config.model, dtype == "float32" ? at::kFloat : at::kBFloat16, at::kCPU);
    model->initialize(1);
    if (!bench.save.empty()) {
      std::filesystem::create_directories(bench.save);
      save_model(*model, config.data.sequence_length, bench.save);
    }
  } else {
    if (!bench.overrides.empty() || !bench.save.empty())
      throw std::invalid_argument(fmt::format(
          "--set and --save are for run files (.yaml); {} is taken as a model directory",
          bench.subject));
    model = std::move(open_model(bench.subject, dtype).model);
  }
  if (bench.dtype == "q8_0") round_to_q8(*model);
  return model;
}

// int64 (n), always the same; no reserved ids.
at::Tensor random_text(const Transformer& model, int64_t n) {
  const at::Generator generator = at::make_generator<at::CPUGeneratorImpl>(1);
  return at::randint(6, model.config().vocab_size, {n}, generator, at::kLong);
}

BenchRow describe(const char* what, const InferBench& bench, const Transformer& model) {
  BenchRow row;
  row["benchmark"] = what;
  row["model"] = bench.subject;
  row["parameters"] = count_parameters(model.config());
  row["weights"] = bench.dtype;
  row["threads"] = at::get_num_threads();
  return row;
}

CacheShape cache_of(const InferBench& bench, const Transformer& model, int64_t entries) {
  return split_cache(entries, std::max(bench.sinks, model.config().sink.tokens()));
}

// Streams the first `n` tokens of `text` (read round and round) through the cache; the likeliest
// next.
int64_t stream_through(const Transformer& model,
                       KvCache& cache,
                       const at::Tensor& text,
                       int64_t n) {
  at::Tensor logits;
  for (int64_t done = 0; done < n;) {
    const int64_t from = done % text.size(0),
                  count = std::min({kChunk, n - done, text.size(0) - from});
    logits = model.decode(text.narrow(0, from, count).unsqueeze(0), cache.attention());
    cache.advance(count);
    done += count;
  }
  return logits.argmax(-1).item<int64_t>();
}

}  // namespace

std::vector<BenchRow> bench_prefill(const InferBench& bench, const BenchOptions& options) {
  const c10::NoGradGuard no_grad;
  const std::unique_ptr<Transformer> model = open_subject(bench);
  const at::Tensor text = random_text(*model, bench.tokens);
  std::vector<BenchRow> rows;
  for (const int64_t entries : bench.caches) {
    BenchRow row = describe("prefill", bench, *model);
    row["tokens"] = bench.tokens;
    row["cache"] = entries;
    KvCache cache(*model, cache_of(bench, *model, entries));
    int64_t next = 0;
    const Timing timing = time_runs(options, [&] {
      cache.clear();
      next = stream_through(*model, cache, text, bench.tokens);
    });
    add_rate(row, "tokens_per_second", static_cast<double>(bench.tokens), timing);
    row["next_token"] = next;
    row["peak_memory_bytes"] = peak_memory_bytes();
    rows.push_back(std::move(row));
  }
  return rows;
}

std::vector<BenchRow> bench_decode(const InferBench& bench, const BenchOptions& options) {
  const c10::NoGradGuard no_grad;
  const std::unique_ptr<Transformer> model = open_subject(bench);
  Decoder decoder(*model, bench.dtype == "q8_0" ? DecodeWeights::kQ8 : DecodeWeights::kModel);
  const at::Tensor text = random_text(*model, 8192);
  std::vector<BenchRow> rows;
  for (const int64_t entries : bench.caches) {
    const CacheShape shape = cache_of(bench, *model, entries);
    BenchRow row = describe("decode", bench, *model);
    row["cache"] = entries;
    row["streams"] = bench.streams;
    std::vector<KvCache> streams;
    for (int64_t n = 0; n < bench.streams; ++n) streams.emplace_back(*model, shape);
    std::vector<KvCache*> caches;
    std::vector<int64_t> ids;
    for (KvCache& cache : streams) {
      ids.push_back(
          stream_through(*model, cache, text, bench.position > 0 ? bench.position : entries));
      caches.push_back(&cache);
    }
    row["position"] = streams[0].position();
    const int64_t V = model->config().vocab_size;
    std::vector<int64_t> tokens;
    std::vector<double> latencies;  // seconds of every step, warm-up left out
    int64_t run = 0;
    const Timing timing = time_runs(options, [&] {
      const bool counts = ++run > options.warmup;
      for (int64_t i = 0; i < bench.tokens; ++i) {
        const Clock::time_point began = Clock::now();
        const std::span<const float> logits = decoder.step(ids, caches);
        for (size_t n = 0; n < ids.size(); ++n) {
          const float* of_stream = logits.data() + static_cast<int64_t>(n) * V;
          ids[n] = std::max_element(of_stream, of_stream + V) - of_stream;
        }
        if (counts)
          latencies.push_back(std::chrono::duration<double>(Clock::now() - began).count());
        if (tokens.size() < 16) tokens.push_back(ids[0]);
      }
    });
    const double steps = static_cast<double>(bench.tokens);
    add_rate(row, "tokens_per_second", steps * static_cast<double>(bench.streams), timing);
    row["ms_per_step"] = 1e3 * timing.median() / steps;
    std::sort(latencies.begin(), latencies.end());
    for (const int64_t percent : {50, 90, 99})
      row[fmt::format("ms_p{}", percent)] =
          1e3 * latencies[latencies.size() * static_cast<size_t>(percent) / 100];
    // What the last step read: all weights, and the cache as far as it is filled.
    const double filled =
        static_cast<double>(streams[0].contents().size()) / static_cast<double>(streams[0].slots());
    const double bytes = static_cast<double>(decoder.weight_bytes()) +
                         static_cast<double>(bench.streams * streams[0].bytes()) * filled;
    row["bytes_per_step"] = bytes;
    row["bytes_per_second"] = bytes * steps / timing.median();
    if (bench.recompute) {
      const Timing once = time_runs(
          {.warmup = 1, .repetitions = std::min<int64_t>(3, options.repetitions)},
          [&] { score_recompute(*model, entries, text, at::full({1}, entries + 1, at::kLong)); });
      row["recompute_ms"] = 1e3 * once.median();
      row["recompute_over_step"] = once.median() / (timing.median() / steps);
      row["recompute_tokens_per_second"] = static_cast<double>(entries + 1) / once.median();
    }
    row["peak_memory_bytes"] = peak_memory_bytes();
    row["first_tokens"] = tokens;
    rows.push_back(std::move(row));
  }
  if (options.peaks) {  // last: its memory is not that of a step
    const double bandwidth = measure_read_bandwidth();
    for (BenchRow& row : rows) {
      row["read_bandwidth"] = bandwidth;
      row["share_of_bandwidth"] = row["bytes_per_second"].get<double>() / bandwidth;
    }
  }
  return rows;
}

std::vector<BenchRow> bench_stream(const InferBench& bench, const BenchOptions& options) {
  const std::unique_ptr<Transformer> model = open_subject(bench);
  const at::Tensor text = random_text(*model, bench.tokens + 1);
  std::vector<BenchRow> rows;
  for (const int64_t entries : bench.caches) {
    BenchRow row = describe("stream", bench, *model);
    row["tokens"] = bench.tokens;
    row["cache"] = entries;
    at::Tensor nll;
    reset_peak_memory();
    const Timing timing = time_runs(
        options, [&] { nll = score_stream(*model, cache_of(bench, *model, entries), text); });
    add_rate(row, "tokens_per_second", static_cast<double>(bench.tokens), timing);
    row["us_per_token"] = 1e6 * timing.median() / static_cast<double>(bench.tokens);
    row["nll"] = nll.mean(at::kDouble).item<double>();
    row["peak_memory_bytes"] = peak_memory_bytes();
    rows.push_back(std::move(row));
  }
  return rows;
}

}  // namespace basin
