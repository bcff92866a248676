// libbasin_nccl.so: NCCL for comm.cpp, apart from the program because it needs LibTorch's CUDA part
// and NCCL, which machines without a GPU do not have.
#include "train/comm_nccl.h"

#include <c10/cuda/CUDAFunctions.h>

#include <torch/csrc/distributed/c10d/ProcessGroupNCCL.hpp>

c10d::Backend* basin_make_nccl(const c10::intrusive_ptr<c10d::Store>& store,
                               const basin::NcclOptions& options) {
  c10::cuda::set_device(static_cast<c10::DeviceIndex>(options.device));
  auto settings = c10d::ProcessGroupNCCL::Options::create(/*is_high_priority_stream=*/true);
  settings->timeout = options.timeout;
  auto group =
      c10::make_intrusive<c10d::ProcessGroupNCCL>(store, options.rank, options.size, settings);
  const at::Device device(at::kCUDA, static_cast<c10::DeviceIndex>(options.device));
  group->setBoundDeviceId(device);
  group->eagerConnectSingleDevice(device);  // meets the other ranks here, not in the first step
  return group.release();
}
