// The plan's memory against what LibTorch's allocator counted while steps were taken.
// tests/bench/plan_memory.py does so for larger and more models.
#include <gtest/gtest.h>

#include <filesystem>

#include "configs/files.h"
#include "configs/scratch_folder.h"
#include "model/cpu_allocator.h"
#include "train/bench.h"
#include "train/plan.h"

namespace basin {
namespace {

struct Case {
  const char* name;
  std::vector<std::string> overrides;
};

class PlanMemoryTest : public testing::TestWithParam<Case> {};

TEST_P(PlanMemoryTest, IsWhatAStepTakes) {
  install_cpu_allocator();
  const ScratchFolder directory;
  const std::string path = (directory.path() / "run.yaml").string();
  write_file(path,
             "model: {vocab_size: 8192, hidden_size: 320, num_hidden_layers: 6, "
             "num_attention_heads: 5, intermediate_size: 960}\n"
             "data: {train: nowhere, sequence_length: 160}\n"
             "train: {global_batch: 4, micro_batch: 2, device: cpu}\n");
  const RunConfig config = read_run_config(path, GetParam().overrides);
  const Plan plan = make_plan(config, {});
  ASSERT_GT(plan.parameters, 10'000'000);
  const int64_t before = cpu_memory().allocated_bytes;
  const BenchRow row = bench_train({path, GetParam().overrides, 1, ""},
                                   {.warmup = 0, .repetitions = 1, .peaks = false});
  const double measured = static_cast<double>(row["max_allocated_bytes"].get<int64_t>() - before);
  EXPECT_EQ(row["planned_bytes"], plan.memory.step_total());
  EXPECT_NEAR(static_cast<double>(plan.memory.step_total()), measured, 0.03 * measured)
      << "peak in " << plan.memory.pass.peak_at;
}

INSTANTIATE_TEST_SUITE_P(Shapes,
                         PlanMemoryTest,
                         testing::Values(Case{"LlamaFp32", {}},
                                         Case{"LlamaBf16Recomputed",
                                              {"train.precision=bf16",
                                               "train.recompute_activations=true",
                                               "train.micro_batch=4"}},
                                         Case{"NeoxTiedFp32",
                                              {"model.model_type=gpt_neox",
                                               "model.tie_word_embeddings=true",
                                               "model.num_hidden_layers=9",
                                               "model.sink.kind=none"}},
                                         Case{"NeoxBf16",
                                              {"model.model_type=gpt_neox",
                                               "model.num_hidden_layers=7",
                                               "train.precision=bf16",
                                               "data.sequence_length=320",
                                               "train.micro_batch=1"}},
                                         Case{"FalconFp32",
                                              {"model.model_type=falcon",
                                               "model.num_key_value_heads=1"}},
                                         Case{"FalconAlibiBf16",
                                              {"model.model_type=falcon",
                                               "model.alibi=true",
                                               "train.precision=bf16"}},
                                         Case{"MptBf16",
                                              {"model.model_type=mpt",
                                               "model.intermediate_size=1280",
                                               "train.precision=bf16"}}),
                         [](const auto& tested) { return std::string(tested.param.name); });

}  // namespace
}  // namespace basin
