// Prefill, decoding and streaming evaluation of a trained model, or of a run file's shape with
// random weights.
#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Parallel.h>
#include <c10/core/GradMode.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <memory>
#include <stdexcept>

#include "configs/clock.h"
#include "configs/signals.h"
#include "data/tokenizer.h"
#include "infer/command_options.h"
#include "infer/cuda_decoder.h"
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

std::unique_ptr<Transformer> open_subject(const InferBench& bench) {
  const at::Device device = device_of_option(bench.device);
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
        config.model, dtype == "float32" ? at::kFloat : at::kBFloat16, device);
    model->initialize(1);
    if (!bench.save.empty()) {
      std::filesystem::create_directories(bench.save);
      save_model(*model, config.data.sequence_length, bench.save).write(bench.save);
    }
  } else {
    if (!bench.overrides.empty() || !bench.save.empty())
      throw std::invalid_argument(fmt::format(
          "--set and --save are for run files (.yaml); {} is taken as a model directory",
          bench.subject));
    model = std::move(open_model(bench.subject, dtype, device).model);
  }
  if (bench.dtype == "q8_0") round_to_q8(*model);
  return model;
}

// int64 (n), always the same; no reserved ids.
at::Tensor random_text(const Transformer& model, int64_t n) {
  const at::Generator generator = at::make_generator<at::CPUGeneratorImpl>(1);
  return at::randint(kReservedIds, model.config().vocab_size, {n}, generator, at::kLong).to(model.device());
}

BenchRow describe(const char* what, const InferBench& bench, const Transformer& model) {
  BenchRow row;
  row["benchmark"] = what;
  row["model"] = bench.subject;
  row["parameters"] = count_parameters(model.config());
  row["weights"] = bench.dtype;
  row["device"] = model.device().str();
  row["threads"] = at::get_num_threads();
  return row;
}

CacheShape cache_of(const InferBench& bench, const Transformer& model, int64_t entries) {
  return split_cache(entries, std::max(bench.sinks, model.config().sink.tokens()));
}

// The likeliest token of logits (V), and -log of its probability: what others' answers are held
// against.
struct Likeliest {
  int64_t id = 0;
  double nll = 0;
};
Likeliest likeliest_of(const at::Tensor& logits) {
  const at::Tensor wide = logits.to(at::kCPU, at::kDouble).flatten();
  const auto id = wide.argmax().item<int64_t>();
  return {id, (wide.logsumexp(0) - wide[id]).item<double>()};
}

// Streams the first `n` tokens of `text` (read round and round) through the cache; the last one's
// logits (1, V).
at::Tensor stream_through(const Transformer& model,
                          KvCache& cache,
                          const at::Tensor& text,
                          int64_t n) {
  const int64_t chunk = chunk_tokens(model.device());
  at::Tensor logits;
  for (int64_t done = 0; done < n;) {
    check_interrupt();
    const int64_t from = done % text.size(0),
                  count = std::min({chunk, n - done, text.size(0) - from});
    logits = model.decode(text.narrow(0, from, count).unsqueeze(0), cache.attention());
    cache.advance(count);
    done += count;
  }
  return logits;
}

// Several streams, each fed its own likeliest next token.
class GreedyDecoding {
 public:
  virtual ~GreedyDecoding() = default;
  /// ids[n], the next token of stream n, becomes what follows it.
  virtual void step(std::vector<int64_t>& ids) = 0;
  /// The first stream's logits (V) of the last step; undefined where they stay on the device.
  virtual at::Tensor first_logits() const { return {}; }
  virtual int64_t weight_bytes() const = 0;
};

class CpuGreedyDecoding : public GreedyDecoding {
 public:
  CpuGreedyDecoding(const Transformer& model, std::vector<KvCache*> caches, DecodeWeights weights)
      : decoder_(model, weights), caches_(std::move(caches)), V_(model.config().vocab_size) {}
  void step(std::vector<int64_t>& ids) override {
    logits_ = decoder_.step(ids, caches_);
    for (size_t n = 0; n < ids.size(); ++n) {
      const float* of_stream = logits_.data() + static_cast<int64_t>(n) * V_;
      ids[n] = std::max_element(of_stream, of_stream + V_) - of_stream;
    }
  }
  at::Tensor first_logits() const override {
    return at::from_blob(const_cast<float*>(logits_.data()), {V_}, at::kFloat);
  }
  int64_t weight_bytes() const override { return decoder_.weight_bytes(); }

 private:
  Decoder decoder_;
  std::vector<KvCache*> caches_;
  int64_t V_;
  std::span<const float> logits_;
};

// A step ends when the host has read the token, as it must to show it.
class CudaGreedyDecoding : public GreedyDecoding {
 public:
  CudaGreedyDecoding(const Transformer& model, std::vector<KvCache*> caches, DecodeWeights weights)
      : decoder_(model, std::move(caches), weights) {}
  void step(std::vector<int64_t>& ids) override {
    const at::Tensor next = decoder_.greedy(ids, 1);
    for (size_t n = 0; n < ids.size(); ++n)
      ids[n] = next[static_cast<int64_t>(n)][0].item<int64_t>();
  }
  int64_t weight_bytes() const override { return decoder_.weight_bytes(); }

 private:
  CudaDecoder decoder_;
};

std::unique_ptr<GreedyDecoding> greedy_decoding(const Transformer& model,
                                                std::vector<KvCache>& streams,
                                                DecodeWeights weights) {
  std::vector<KvCache*> caches;
  for (KvCache& cache : streams) caches.push_back(&cache);
  if (CudaDecoder::supports(model))
    return std::make_unique<CudaGreedyDecoding>(model, std::move(caches), weights);
  if (model.device().is_cuda())
    throw std::invalid_argument(
        "bench decode: no decoder for this model on this GPU (ALiBi, heads of more than 256, rows too "
        "long for its shared memory, or no CUDA kernels): generate takes plain ops there; measure "
        "with --device cpu");
  return std::make_unique<CpuGreedyDecoding>(model, std::move(caches), weights);
}

// The sliding window with recomputation beside a step.
void add_recompute(BenchRow& row,
                   const Transformer& model,
                   int64_t entries,
                   const at::Tensor& text,
                   const BenchOptions& options) {
  const Timing once = time_runs(
      {.warmup = 1, .repetitions = std::min<int64_t>(3, options.repetitions)}, model.device(), [&] {
        score_recompute(model, entries, text, at::full({1}, entries + 1, at::kLong));
      });
  row["recompute_ms"] = 1e3 * once.median();
  row["recompute_over_step"] = 1e3 * once.median() / row["ms_per_step"].get<double>();
  row["recompute_tokens_per_second"] = static_cast<double>(entries + 1) / once.median();
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
    reset_peak_memory(model->device());
    KvCache cache(*model, cache_of(bench, *model, entries));
    at::Tensor logits;
    const Timing timing = time_runs(options, model->device(), [&] {
      cache.clear();
      logits = stream_through(*model, cache, text, bench.tokens);
      logits.argmax().item<int64_t>();  // the next token, as somebody would want it
    });
    add_rate(row, "tokens_per_second", static_cast<double>(bench.tokens), timing);
    const Likeliest next = likeliest_of(logits);
    row["next_token"] = next.id;
    row["next_nll"] = next.nll;
    row["peak_memory_bytes"] = peak_memory_bytes(model->device());
    rows.push_back(std::move(row));
  }
  return rows;
}

std::vector<BenchRow> bench_decode(const InferBench& bench, const BenchOptions& options) {
  const c10::NoGradGuard no_grad;
  const std::unique_ptr<Transformer> model = open_subject(bench);
  const at::Tensor text = random_text(*model, 8192);
  std::vector<BenchRow> rows;
  for (const int64_t entries : bench.caches) {
    BenchRow row = describe("decode", bench, *model);
    row["cache"] = entries;
    row["streams"] = bench.streams;
    std::vector<KvCache> streams;
    for (int64_t n = 0; n < bench.streams; ++n)
      streams.emplace_back(*model, cache_of(bench, *model, entries));
    std::vector<int64_t> ids;
    for (KvCache& cache : streams)
      ids.push_back(
          stream_through(*model, cache, text, bench.position > 0 ? bench.position : entries)
              .argmax()
              .item<int64_t>());
    row["next_token"] = ids[0];
    row["position"] = streams[0].position();
    const DecodeWeights weights =
        bench.dtype == "q8_0" ? DecodeWeights::kQ8 : DecodeWeights::kModel;
    const std::unique_ptr<GreedyDecoding> decoding = greedy_decoding(*model, streams, weights);
    reset_peak_memory(model->device());

    std::vector<int64_t> tokens;
    std::vector<double> nll;        // of those tokens; in the warm-up, since it takes its time
    std::vector<double> latencies;  // seconds of every step, warm-up left out
    int64_t run = 0;
    const Timing timing = time_runs(options, model->device(), [&] {
      const bool counts = ++run > options.warmup;
      for (int64_t i = 0; i < bench.tokens; ++i) {
        check_interrupt();
        const Clock::time_point began = Clock::now();
        decoding->step(ids);
        if (counts)
          latencies.push_back(seconds_since(began));
        if (tokens.size() >= 16) continue;
        tokens.push_back(ids[0]);
        if (const at::Tensor logits = counts ? at::Tensor() : decoding->first_logits();
            logits.defined())
          nll.push_back(likeliest_of(logits).nll);
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
    const double bytes = static_cast<double>(decoding->weight_bytes()) +
                         static_cast<double>(bench.streams * streams[0].bytes()) * filled;
    row["bytes_per_step"] = bytes;
    row["bytes_per_second"] = bytes * steps / timing.median();
    if (bench.recompute) add_recompute(row, *model, entries, text, options);
    row["peak_memory_bytes"] = peak_memory_bytes(model->device());
    row["first_tokens"] = tokens;
    row["first_nll"] = nll;
    rows.push_back(std::move(row));
  }
  if (options.peaks) {  // last: its memory is not that of a step
    const double bandwidth = measure_read_bandwidth(model->device());
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
    reset_peak_memory(model->device());
    const Timing timing = time_runs(options, model->device(), [&] {
      nll = score_stream(*model, cache_of(bench, *model, entries), text);
    });
    add_rate(row, "tokens_per_second", static_cast<double>(bench.tokens), timing);
    row["us_per_token"] = 1e6 * timing.median() / static_cast<double>(bench.tokens);
    row["nll"] = nll.mean(at::kDouble).item<double>();
    row["peak_memory_bytes"] = peak_memory_bytes(model->device());
    rows.push_back(std::move(row));
  }
  return rows;
}

}  // namespace basin
