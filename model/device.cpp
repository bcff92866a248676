#include "model/device.h"

#include <ATen/Context.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <filesystem>
#include <stdexcept>

#include "model/cuda.h"

namespace basin {

at::Device choose_device(DeviceKind kind, const std::string& asked_by, int64_t local_rank) {
  if (kind == DeviceKind::kCpu) return at::kCPU;
  const bool has_driver = std::filesystem::exists("/dev/nvidiactl");
  if (kind == DeviceKind::kAuto && !has_driver) return at::kCPU;
  if (const std::string obstacle = cuda_obstacle(); !obstacle.empty()) {
    if (kind == DeviceKind::kCuda)
      throw std::runtime_error(fmt::format("{} is cuda, but {}", asked_by, obstacle));
    spdlog::warn(
        "{} auto takes the cpu although an NVIDIA driver is there: {}", asked_by, obstacle);
    return at::kCPU;
  }
  const at::Device device(
      at::kCUDA,
      static_cast<c10::DeviceIndex>(local_rank % at::detail::getCUDAHooks().deviceCount()));
  at::globalContext().lazyInitDevice(
      at::kCUDA);  // else the first tensor would, and nothing before it could ask
  c10::impl::VirtualGuardImpl(at::kCUDA).setDevice(device);
  if (const std::string obstacle = cuda_kernels_obstacle(); !obstacle.empty())
    spdlog::warn("models run on LibTorch's plain ops, several times slower: {}", obstacle);
  return device;
}

void synchronize(at::Device device) {
  if (device.is_cuda()) c10::impl::VirtualGuardImpl(at::kCUDA).synchronizeDevice(device.index());
}

}  // namespace basin
