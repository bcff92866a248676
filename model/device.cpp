#include "train/device.h"

#include <ATen/Context.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <dlfcn.h>
#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <filesystem>
#include <stdexcept>
#include <string>

namespace basin {
namespace {

/// Empty, or why this process cannot use CUDA. Loading the library registers its kernels with
/// LibTorch.
std::string cuda_obstacle() {
  if (!dlopen("libtorch_cuda.so", RTLD_NOW | RTLD_GLOBAL))
    return fmt::format("this build has no CUDA: {}", dlerror());
  if (!at::globalContext().hasCUDA() || at::detail::getCUDAHooks().deviceCount() == 0)
    return "no CUDA device is visible";
  return "";
}

}  // namespace

at::Device choose_device(DeviceKind kind, int64_t local_rank) {
  if (kind == DeviceKind::kCpu) return at::kCPU;
  const bool has_driver = std::filesystem::exists("/dev/nvidiactl");
  if (kind == DeviceKind::kAuto && !has_driver) return at::kCPU;
  if (const std::string obstacle = cuda_obstacle(); !obstacle.empty()) {
    if (kind == DeviceKind::kCuda)
      throw std::runtime_error("train.device is cuda, but " + obstacle);
    spdlog::warn("train.device auto takes the cpu although an NVIDIA driver is there: {}",
                 obstacle);
    return at::kCPU;
  }
  const at::Device device(
      at::kCUDA,
      static_cast<c10::DeviceIndex>(local_rank % at::detail::getCUDAHooks().deviceCount()));
  c10::impl::VirtualGuardImpl(at::kCUDA).setDevice(device);
  return device;
}

}  // namespace basin
