// The benchmarks measure what they say: the work is done, its result is right, and the rows hold
// together. Nothing is asserted about speed.
#include "configs/scratch_folder.h"
#include "train/bench.h"

#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>

#include "configs/files.h"

namespace basin {
namespace {

constexpr BenchOptions kQuick{.warmup = 1, .repetitions = 3, .peaks = false};

std::string write_run_file(const std::filesystem::path& directory) {
  const std::filesystem::path path = directory / "tiny.yaml";
  write_file(path,
             "model: {vocab_size: 128, hidden_size: 32, num_hidden_layers: 2, num_attention_heads: "
             "2, intermediate_size: 64}\n"
             "data: {train: nowhere, sequence_length: 16}\n"
             "train: {global_batch: 8, steps: 10, optimizer: {lr: 1.0e-2}}\n");
  return path.string();
}

TEST(Bench, TimingIsSorted) {
  int calls = 0;
  const Timing timing = time_runs({.warmup = 2, .repetitions = 4}, at::kCPU, [&] { ++calls; });
  EXPECT_EQ(calls, 6);
  ASSERT_EQ(timing.seconds.size(), 4u);
  EXPECT_LE(timing.least(), timing.median());
  EXPECT_LE(timing.median(), timing.most());
  EXPECT_DOUBLE_EQ((Timing{{1, 2, 4}}.median()), 2);
  EXPECT_DOUBLE_EQ((Timing{{1, 2, 4, 8}}.median()), 3);
  BenchRow row;
  add_rate(row, "rate", 8, Timing{{1, 2, 4}});
  EXPECT_EQ(row["rate"], 4.0);
  EXPECT_EQ(row["rate_low"], 2.0);
  EXPECT_EQ(row["rate_high"], 8.0);
}

TEST(Bench, TrainTakesRealSteps) {
  const ScratchFolder directory;
  const std::string saved = (directory.path() / "saved").string();
  const BenchRow row = bench_train({write_run_file(directory.path()), {}, 2, saved}, kQuick);
  const std::vector<double> losses = row["losses"];
  ASSERT_EQ(losses.size(), 8u);  // 2 steps, 1 + 3 runs
  EXPECT_NEAR(losses[0], std::log(128), 0.3);
  EXPECT_GT(row["tokens_per_second"].get<double>(), 0);
  for (const char* file : {"config.json", "model.safetensors", "batches.npy", "bench.json"})
    EXPECT_TRUE(std::filesystem::exists(std::filesystem::path(saved) / file)) << file;
  EXPECT_THROW(bench_train({(directory.path() / "none.yaml").string(), {}, 2, ""}, kQuick),
               std::runtime_error);
}

TEST(Bench, InferenceDoesTheSameWorkWhicheverWay) {
  const ScratchFolder directory;
  InferBench bench{
      .subject = write_run_file(directory.path()), .caches = {8, 200}, .sinks = 1, .tokens = 100};
  const std::vector<BenchRow> prefill = bench_prefill(bench, kQuick);
  ASSERT_EQ(prefill.size(), 2u);
  bench.tokens = 5;
  bench.position = 99;
  bench.streams = 3;
  bench.recompute = true;
  const std::vector<BenchRow> decode = bench_decode(bench, kQuick);
  ASSERT_EQ(decode.size(), 2u);
  EXPECT_EQ(decode[0]["position"], 99);
  EXPECT_GT(decode[0]["recompute_over_step"].get<double>(), 0);
  EXPECT_EQ(decode[0]["first_tokens"].size(), 16u);
  EXPECT_EQ(decode[0]["first_nll"].size(), 5u);     // those of the warm-up
  for (const auto& nll : decode[0]["first_nll"]) {  // of the likeliest tokens
    EXPECT_GT(nll.get<double>(), 0);
    EXPECT_LT(nll.get<double>(), std::log(128));
  }
  EXPECT_NEAR(prefill[0]["next_nll"].get<double>(), decode[0]["first_nll"][0].get<double>(), 0.5);
  EXPECT_GT(decode[0]["ms_p50"].get<double>(), 0);
  EXPECT_LE(decode[0]["ms_p50"].get<double>(), decode[0]["ms_p99"].get<double>());
  const std::vector<BenchRow> stream = bench_stream(bench, kQuick);
  EXPECT_NEAR(stream[1]["nll"].get<double>(), std::log(128), 0.5);
  for (const auto& rows : {prefill, decode, stream})
    EXPECT_NE(bench_table(rows).find("tokens_per_second"), std::string::npos);
  bench.dtype = "q8_0";
  EXPECT_EQ(bench_decode(bench, kQuick).size(), 2u);
  bench.overrides = {"model.vocab_size=0"};
  EXPECT_THROW(bench_decode(bench, kQuick), std::invalid_argument);
}

TEST(Bench, LoadingIsMeasuredAgainstReading) {
  const ScratchFolder directory;
  InferBench made{.subject = write_run_file(directory.path()), .caches = {8}, .tokens = 4};
  made.save = (directory.path() / "model").string();
  bench_prefill(made, kQuick);
  const BenchRow row = bench_load({.model = made.save, .dtype = "bfloat16"}, kQuick);
  EXPECT_EQ(row["file_bytes"].get<uint64_t>(),
            std::filesystem::file_size(directory.path() / "model/model.safetensors"));
  EXPECT_LT(row["weight_bytes"].get<int64_t>(), row["file_bytes"].get<int64_t>());
  for (const char* key : {"disk_mb_per_second", "cold_mb_per_second", "warm_mb_per_second"})
    EXPECT_GT(row[key].get<double>(), 0) << key;
  EXPECT_THROW(bench_load({.model = (directory.path() / "none").string()}, kQuick),
               std::runtime_error);
}

TEST(Bench, TablesLineUp) {
  BenchRow a, b;
  a["name"] = "short", a["rate"] = 12345.678, a["only"] = 1;
  b["name"] = "much longer", b["rate"] = 0.125;
  EXPECT_EQ(bench_table({a, b}),
            "       name   rate  only\n"
            "      short  12346     1\n"
            "much longer  0.125   n/a\n");
  EXPECT_EQ(bench_table({b}), "name  much longer\nrate  0.125\n");
}

}  // namespace
}  // namespace basin
