#include "model/cpu_allocator.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <thread>
#include <vector>

namespace basin {
namespace {

class CpuAllocatorTest : public testing::Test {
 protected:
  CpuAllocatorTest() { install_cpu_allocator(); }
};

at::Tensor bytes(int64_t n) {
  return at::empty({n}, at::kByte);
}

TEST_F(CpuAllocatorTest, AFreedBlockServesTheNextTensorOfItsSize) {
  const void* before = bytes(1'000'000).const_data_ptr();  // freed at once
  const int64_t requests = cpu_memory().requests;
  const at::Tensor again = bytes(999'000);
  EXPECT_EQ(again.const_data_ptr(), before);
  EXPECT_EQ(cpu_memory().requests, requests);
  const at::Tensor second = bytes(1'000'000);  // the first is in use
  EXPECT_NE(second.const_data_ptr(), before);
  EXPECT_EQ(cpu_memory().requests, requests + 1);
}

TEST_F(CpuAllocatorTest, EverySizeFitsItsBlockAlignedAndLosesAnEighthAtMost) {
  for (int64_t n = 1; n < 40'000; n += n / 37 + 1) {
    const int64_t before = cpu_memory().allocated_bytes;
    at::Tensor t = bytes(n), neighbour = bytes(n);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(t.const_data_ptr()) % 64, 0u) << n;
    t.fill_(1);
    neighbour.fill_(2);
    EXPECT_EQ(t.sum().item<int64_t>(), n) << "blocks overlap at " << n << " bytes";
    t = neighbour = at::Tensor();
    const at::Tensor alone = bytes(n);
    const int64_t taken = cpu_memory().allocated_bytes - before;
    EXPECT_EQ(taken, cpu_block_bytes(n));
    EXPECT_GE(taken, n + 64);
    EXPECT_LE(taken, (n + 64) * 9 / 8 + 8) << n;
  }
}

TEST_F(CpuAllocatorTest, CountsWhatIsInUseAndItsPeak) {
  const CpuMemory before = cpu_memory();
  {
    const at::Tensor t = bytes(500'000'000);  // more than is there so far: not touched
    EXPECT_GE(cpu_memory().allocated_bytes, before.allocated_bytes + 500'000'000);
  }
  EXPECT_EQ(cpu_memory().allocated_bytes, before.allocated_bytes);
  EXPECT_GE(cpu_memory().max_allocated_bytes, before.allocated_bytes + 500'000'000);
  reset_peak_cpu_memory();
  EXPECT_EQ(cpu_memory().max_allocated_bytes, cpu_memory().allocated_bytes);
}

// What is in use falls far below its most between passes: nothing may go back meanwhile.
TEST_F(CpuAllocatorTest, AStepThatRepeatsItselfAsksForNothing) {
  const auto step = [] {
    std::vector<at::Tensor>{bytes(300 << 20), bytes(150 << 20), bytes(75 << 20)};
    bytes(200 << 20);
  };
  step();
  const int64_t requests = cpu_memory().requests;
  step();
  EXPECT_EQ(cpu_memory().requests, requests);
}

TEST_F(CpuAllocatorTest, NoMoreThanHalfOfTheMostInUseWaits) {
  const int64_t most = cpu_memory().allocated_bytes + cpu_block_bytes(1 << 30);
  bytes(1 << 30);  // more than the other tests use
  for (int64_t mib = 16; mib < 1000; mib += mib / 9) bytes(mib << 20);  // not touched
  EXPECT_LE(cpu_memory().reserved_bytes, most + most / 2);
  EXPECT_GT(cpu_memory().reserved_bytes, most / 2) << "little was kept";
}

TEST_F(CpuAllocatorTest, ThreadsShareIt) {
  std::vector<std::thread> threads;
  for (int k = 1; k <= 4; ++k)
    threads.emplace_back([k] {
      for (int i = 0; i < 2000; ++i) {
        const at::Tensor t = bytes(100 * (1 + i % 7)).fill_(k);
        ASSERT_EQ(t.min().item<int>(), k);
        ASSERT_EQ(t.max().item<int>(), k);
      }
    });
  for (std::thread& thread : threads) thread.join();
}

TEST_F(CpuAllocatorTest, NothingNeedsNoMemory) {
  EXPECT_EQ(bytes(0).const_data_ptr(), nullptr);
}

}  // namespace
}  // namespace basin
