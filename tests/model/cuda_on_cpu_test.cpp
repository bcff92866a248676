// The emulation that the CUDA kernels are tested with: threads meet at barriers, exchange values,
// and may leave early; what hangs on a GPU ends the program.
#include <gtest/gtest.h>

#include "model/kernels/cuda/decode.h"
#include "model/kernels/cuda/launch.cuh"
#include "tests/support/kernel_checks.h"

namespace basin::kernels {
namespace {

void reverse(int* values) {
  int* const kept = shared_memory<int>();
  const unsigned i = threadIdx.x, n = blockDim.x;
  kept[i] = values[blockIdx.x * n + i];
  __syncthreads();
  values[blockIdx.x * n + i] = kept[n - 1 - i];
}

TEST(CudaOnCpuTest, ThreadsOfABlockWaitForEachOther) {
  std::vector<int> values(3 * 70);
  for (int i = 0; i < 210; ++i) values[i] = i;
  launch(&reverse, dim3(3), dim3(70), 70 * 4, values.data());
  for (int i = 0; i < 210; ++i) EXPECT_EQ(values[i], i / 70 * 70 + 69 - i % 70) << i;
}

void sum_in_warps(int count, float* sums) {
  if (static_cast<int>(threadIdx.y) >= count) return;  // whole warps: the others need not wait
  float sum = static_cast<float>(threadIdx.x);
  for (int i = 0; i < 3; ++i) sum = warp_sum(sum + static_cast<float>(threadIdx.y));
  __syncthreads();
  sums[threadIdx.y * kWarp + threadIdx.x] = sum;
}

TEST(CudaOnCpuTest, WarpsExchangeValuesAndThreadsLeaveEarly) {
  std::vector<float> sums(4 * kWarp, -1);
  launch(&sum_in_warps, dim3(1), dim3(kWarp, 4), 0, 3, sums.data());
  for (int warp = 0; warp < 4; ++warp) {
    double want = 496;  // 0 + ... + 31
    want = 32 * (32 * (want + 32 * warp + warp) + warp);
    for (int i = 0; i < kWarp; ++i)
      EXPECT_EQ(sums[warp * kWarp + i], warp < 3 ? want : -1) << warp << ", " << i;
  }
}

// Rows that an H100 keeps in shared memory and a GeForce card cannot.
TEST(CudaOnCpuTest, KernelsGoByTheSharedMemoryThatThereIs) {
  constexpr int64_t kV = 60000;
  const auto logits = random_array<Bf16>(kV, 1);
  const std::vector<int64_t> targets = {kV / 3};
  const auto run = [&] {
    std::vector<Bf16> gradient = logits;
    std::vector<float> nll(1);
    cross_entropy_in_place<Bf16>(1, kV, gradient.data(), targets.data(), 1, nll.data());
    return nll[0];
  };
  const int64_t before = emulated_shared_memory, columns = decode_most_norm_columns();
  const float kept = run();
  emulated_shared_memory = 98 * 1024;
  EXPECT_NEAR(run(), kept, 1e-4);
  EXPECT_EQ(decode_most_norm_columns(), 8360);
  emulated_shared_memory = before;
  EXPECT_EQ(columns, 19284);
}

void shuffle_alone(float* value) {
  if (threadIdx.x == 0) *value = warp_sum(*value);
  __syncthreads();
}

TEST(CudaOnCpuTest, AShuffleWithoutTheWholeWarpEndsTheProgram) {
  float value = 1;
  EXPECT_DEATH(launch(&shuffle_alone, dim3(1), dim3(kWarp), 0, &value), "wait for others");
}

}  // namespace
}  // namespace basin::kernels
