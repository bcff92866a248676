// How exceptions become the line that a user reads.
#include "train/failure.h"

#include <c10/util/Exception.h>
#include <gmock/gmock.h>

namespace basin {
namespace {

using testing::EndsWith;
using testing::HasSubstr;
using testing::Not;
using testing::StartsWith;

// c10/cuda/CUDACachingAllocator.cpp of LibTorch 2.11
TEST(FailureTest, AFullGpuSaysWhatToTurn) {
  const auto failure = describe_failure(std::make_exception_ptr(c10::OutOfMemoryError(
      {__func__, __FILE__, __LINE__},
      "CUDA out of memory. Tried to allocate 3.07 GiB. GPU 0 has a total capacity of 23.52 GiB of "
      "which 1.20 GiB is free. Process 7 has 22.30 GiB memory in use. Of the allocated memory 20.1 "
      "GiB is allocated by PyTorch, and 1.90 GiB is reserved by PyTorch but unallocated. If reserved "
      "but unallocated memory is large try setting PYTORCH_ALLOC_CONF=expandable_segments:True to "
      "avoid fragmentation.  See documentation for Memory Management  (https://pytorch.org/docs)")));
  EXPECT_EQ(failure.status, 1);
  EXPECT_THAT(failure.message, StartsWith("CUDA out of memory. Tried to allocate 3.07 GiB. "));
  EXPECT_THAT(failure.message, HasSubstr("but unallocated. Of a training run 'basin plan CONFIG'"));
  EXPECT_THAT(failure.message, EndsWith("train.micro_batch, train.recompute_activations"));
  EXPECT_THAT(failure.message, Not(HasSubstr("PYTORCH_ALLOC_CONF")));
}

TEST(FailureTest, WithoutAdviceNothingIsLost) {
  const auto failure = describe_failure(std::make_exception_ptr(c10::OutOfMemoryError(
      {__func__, __FILE__, __LINE__}, "out of memory: could not get 4096 bytes")));
  EXPECT_THAT(failure.message, StartsWith("out of memory: could not get 4096 bytes. Of a training"));
}

}  // namespace
}  // namespace basin
