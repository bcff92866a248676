// main of a test program that needs a GPU: without one it says so and ends with 77, which CTest
// shows as skipped.
#include <cuda_runtime.h>
#include <gtest/gtest.h>

#include <cstdio>

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  int devices = 0;
  if (const cudaError_t status = cudaGetDeviceCount(&devices);
      status != cudaSuccess || devices == 0) {
    std::printf("skipped: no GPU here (%s)\n",
                status == cudaSuccess ? "no device" : cudaGetErrorString(status));
    return 77;
  }
  return RUN_ALL_TESTS();
}
