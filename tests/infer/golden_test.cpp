// The trained pair of tests/golden: a sink and a vanilla model of configs/sink-effect.yaml. They
// must stream as they did on the day that they were trained, and what the README says of them must
// follow from that table. Text: an address that neither was trained on.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "configs/files.h"
#include "infer/attention_maps.h"
#include "infer/decoder.h"
#include "infer/evaluate.h"
#include "infer/kv_cache.h"
#include "tests/support/kernel_checks.h"

namespace basin {
namespace {

namespace fs = std::filesystem;

constexpr double kNats = 1e-3;  // between instruction sets and numbers of threads
const fs::path kGolden = fs::path(BASIN_SOURCE_DIR) / "tests/golden";

DocumentSource address() {
  DocumentSource source;
  source.text = {BASIN_SOURCE_DIR
                 "/.deps/corpus/addresses/1981-Carter-1.txt"};  // the fixture fetches it
  source.max_tokens = 30000;
  return source;
}

// What `basin evaluate tests/golden/NAME --text .deps/corpus/addresses/1981-Carter-1.txt
// --max-tokens 30000` computes.
Evaluation streamed(const LoadedModel& model) {
  EvaluateConfig config;
  config.cache = model.default_cache();
  return evaluate(model, read_documents(address(), model), config);
}

class GoldenPair : public testing::TestWithParam<const char*> {};

TEST_P(GoldenPair, StreamsAsOnTheDayItWasTrained) {
  const std::string name = GetParam();
  const Evaluation now = streamed(open_model(kGolden / name, "float32"));
  const auto then = nlohmann::json::parse(read_file(kGolden / (name + ".json")));
  ASSERT_EQ(now.rows.size(), then["rows"].size());
  for (size_t i = 0; i < now.rows.size(); ++i) {
    SCOPED_TRACE(i);
    EXPECT_EQ(now.rows[i].sinks, then["rows"][i]["sinks"]);
    EXPECT_EQ(now.rows[i].tokens, then["rows"][i]["tokens"]);
    EXPECT_NEAR(now.rows[i].nll, then["rows"][i]["nll"].get<double>(), kNats);
    EXPECT_NEAR(now.rows[i].nll_delta.value(), then["rows"][i]["nll_delta"].get<double>(), kNats);
  }
}

INSTANTIATE_TEST_SUITE_P(SinkEffect,
                         GoldenPair,
                         testing::Values("sink-effect-sink", "sink-effect-none"),
                         [](const auto& parameter) {
                           return std::string(parameter.param).substr(12);
                         });

// Evaluation in parallel and token by token: what is read on one machine is read alike on another.
TEST(Golden, EveryInstructionSetGivesTheSameNumbers) {
  for (const auto& [dtype, tolerance] : {std::pair("float32", 1e-4), {"bfloat16", 0.02}}) {
    std::vector<double> first;
    kernels::for_each_instruction_set([&, dtype = dtype, tolerance = tolerance] {
      SCOPED_TRACE(dtype);
      const LoadedModel model = open_model(kGolden / "sink-effect-sink", dtype);
      DocumentSource source = address();
      source.max_tokens = 1000;
      const auto documents = read_documents(source, model);
      EvaluateConfig config;
      config.cache = model.default_cache();
      std::vector<double> now;
      for (const EvaluationRow& row : evaluate(model, documents, config).rows)
        now.push_back(row.nll);
      Decoder decoder(*model.model);
      KvCache cache(*model.model, {1, 126});
      KvCache* caches[] = {&cache};
      for (int64_t i = 0; i < 300; ++i) {
        const int64_t id = i == 0 ? 1 : documents[0].tokens[i - 1].item<int64_t>();
        const std::span<const float> logits = decoder.step({&id, 1}, caches);
        now.push_back(*std::ranges::max_element(logits));
      }
      if (first.empty()) first = now;
      ASSERT_EQ(now.size(), 4u + 300);
      for (size_t i = 0; i < now.size(); ++i)
        EXPECT_NEAR(now[i], first[i], (i < 4 ? 1 : 10) * tolerance) << i;
    });
  }
}

TEST(Golden, OneSinkSlotDoesTheWorkOfFourAndNoneDoesNot) {
  const LoadedModel model = open_model(kGolden / "sink-effect-sink", "float32");
  const Evaluation evaluation = streamed(model);
  ASSERT_EQ(evaluation.rows.size(), 4u);
  const auto& none = evaluation.rows[0];
  EXPECT_GT(none.nll_delta.value(), std::log(1.05));
  EXPECT_GT(none.nll_delta_ci95.value().low, 0);
  for (size_t kept = 1; kept < 4; ++kept)
    EXPECT_LT(std::abs(evaluation.rows[kept].nll_delta.value()), std::log(1.005));
  const SinkMetric metric = measure_sink(
      *model.model,
      spread_samples(read_documents(address(), model), kSinkPositions, kSinkSequences));
  EXPECT_GT(metric.sink_first, 0.25);
  EXPECT_EQ(metric.sink_first_text, 0);
}

}  // namespace
}  // namespace basin
