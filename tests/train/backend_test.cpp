#include "train/backend.h"

#include <gmock/gmock.h>

#include <stdexcept>

namespace basin {
namespace {

using testing::HasSubstr;

using Ranks = std::vector<RankDevice>;

std::string refusal(CommBackend asked, const Ranks& ranks) {
  try {
    choose_backend(asked, ranks);
  } catch (const std::invalid_argument& error) {
    return error.what();
  }
  return "no error";
}

const Ranks kCpus{{"a", ""}, {"a", ""}, {"b", ""}};
// As with srun --gpus-per-task=1: each rank sees one device, and all of them are device 0.
const Ranks kOneEach{{"a", "GPU-1"}, {"a", "GPU-2"}, {"b", "GPU-3"}, {"b", "GPU-4"}};
const Ranks kShared{{"a", "GPU-1"}, {"a", "GPU-2"}, {"a", "GPU-1"}};

TEST(ChooseBackend, NcclWhereEachRankHasAGpuOfItsOwn) {
  EXPECT_TRUE(choose_backend(CommBackend::kAuto, kOneEach).nccl);
  EXPECT_TRUE(choose_backend(CommBackend::kNccl, kOneEach).nccl);
  EXPECT_FALSE(choose_backend(CommBackend::kGloo, kOneEach).nccl);
  EXPECT_TRUE(choose_backend(CommBackend::kAuto, {{"a", "GPU-1"}}).nccl);
}

// UUIDs are unique, but what stands for one that the driver does not tell is not.
TEST(ChooseBackend, TheSameNameOnAnotherMachineIsAnotherGpu) {
  EXPECT_TRUE(choose_backend(CommBackend::kAuto, {{"a", "0"}, {"b", "0"}}).nccl);
}

TEST(ChooseBackend, GlooOtherwiseAndItSaysWhy) {
  EXPECT_FALSE(choose_backend(CommBackend::kAuto, kCpus).nccl);
  EXPECT_EQ(choose_backend(CommBackend::kAuto, kCpus).why, "");
  EXPECT_FALSE(choose_backend(CommBackend::kAuto, kShared).nccl);
  EXPECT_EQ(choose_backend(CommBackend::kAuto, kShared).why, "ranks 0 and 2 share a GPU");
  EXPECT_EQ(choose_backend(CommBackend::kGloo, kShared).why, "");
}

TEST(ChooseBackend, RefusesWhatCannotBe) {
  EXPECT_THAT(refusal(CommBackend::kNccl, kCpus), HasSubstr("the ranks compute on CPUs"));
  EXPECT_THAT(refusal(CommBackend::kNccl, kShared), HasSubstr("ranks 0 and 2 share a GPU"));
  Ranks mixed = kOneEach;
  mixed[1].gpu = mixed[3].gpu = "";
  for (const CommBackend asked : {CommBackend::kAuto, CommBackend::kGloo, CommBackend::kNccl})
    EXPECT_THAT(refusal(asked, mixed),
                HasSubstr("rank 1, 3 would compute on the CPU and rank 0, 2 on a GPU"));
}

}  // namespace
}  // namespace basin
