// Tokenising in memory, on one thread and on all of them.
#include <ATen/Parallel.h>
#include <fmt/format.h>

#include <atomic>
#include <stdexcept>
#include <thread>

#include "configs/files.h"
#include "data/text_reader.h"
#include "data/tokenizer.h"
#include "train/bench.h"

namespace basin {

std::vector<BenchRow> bench_prepare(const PrepareBench& bench, const BenchOptions& options) {
  const Tokenizer tokenizer = Tokenizer::load(bench.tokenizer);
  std::vector<std::string> documents;
  int64_t bytes = 0;
  for_each_document(bench.text, bench.text_key, [&](const std::string&, std::string text) {
    if (bytes >= bench.max_bytes) return;
    bytes += static_cast<int64_t>(text.size());
    documents.push_back(std::move(text));
  });
  std::vector<BenchRow> rows;
  for (const int threads : {1, at::get_num_threads()}) {
    if (!rows.empty() && threads == 1) break;
    std::atomic<int64_t> tokens = 0;
    const Timing timing = time_runs(options, at::kCPU, [&] {
      std::atomic<size_t> next = 0;
      tokens = 0;
      const auto work = [&] {
        EncodeCache cache;
        std::vector<int32_t> ids;
        for (size_t i; (i = next++) < documents.size();) {
          ids.clear();
          tokenizer.encode(documents[i], cache, ids);
          tokens += static_cast<int64_t>(ids.size());
        }
      };
      std::vector<std::jthread> pool;
      for (int i = 1; i < threads; ++i) pool.emplace_back(work);
      work();
    });
    BenchRow row;
    row["benchmark"] = "prepare";
    row["tokenizer"] = bench.tokenizer;
    row["threads"] = threads;
    row["documents"] = documents.size();
    row["bytes"] = bytes;
    row["tokens"] = tokens.load();
    add_rate(row, "mb_per_second", static_cast<double>(bytes) / 1e6, timing);
    row["mb_per_second_per_thread"] = static_cast<double>(bytes) / 1e6 / timing.median() / threads;
    rows.push_back(std::move(row));
  }
  return rows;
}

}  // namespace basin
