// main of a test program that needs a GPU: without one it says so and ends with 77, which CTest
// shows as skipped.
#include <cuda_runtime.h>
#include <gtest/gtest.h>

#include <cstdio>
#include <cstdlib>

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  int devices = 0;
  if (const cudaError_t status = cudaGetDeviceCount(&devices);
      status != cudaSuccess || devices == 0) {
    std::printf("skipped: no GPU here (%s)\n",
                status == cudaSuccess ? "no device" : cudaGetErrorString(status));
    return 77;
  }
  const int result = RUN_ALL_TESTS();
  std::fflush(nullptr);
  std::_Exit(result);  // memory of pinned_new.cpp must not be freed after CUDA has gone
}
