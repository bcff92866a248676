#include "model/device.h"

#include <ATen/Context.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <dlfcn.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <array>
#include <cstdlib>
#include <filesystem>
#include <stdexcept>

#include "configs/log.h"
#include "model/cuda.h"

namespace basin {

namespace {

/// Whether it is worth a try: loading LibTorch's CUDA part takes seconds.
bool has_nvidia_driver() {
  return std::filesystem::exists("/dev/nvidiactl") ||
         std::filesystem::exists("/usr/lib/wsl/lib/libcuda.so.1");  // WSL 2, where Windows has it
}

}  // namespace

at::Device choose_device(DeviceKind kind, const std::string& asked_by, int64_t local_rank) {
  if (kind == DeviceKind::kCpu) return at::kCPU;
  if (kind == DeviceKind::kAuto && !has_nvidia_driver()) return at::kCPU;
  if (const std::string obstacle = cuda_obstacle(); !obstacle.empty()) {
    if (kind == DeviceKind::kCuda)
      throw std::runtime_error(fmt::format("{} is cuda, but {}", asked_by, obstacle));
    log_warn("{} auto takes the cpu although an NVIDIA driver is there: {}", asked_by, obstacle);
    return at::kCPU;
  }
  const at::Device device(at::kCUDA, static_cast<c10::DeviceIndex>(local_rank % cuda_devices()));
  at::globalContext().lazyInitDevice(
      at::kCUDA);  // else the first tensor would, and nothing before it could ask
  c10::impl::VirtualGuardImpl(at::kCUDA).setDevice(device);
  constexpr int kLeast = 80;  // that the kernels are built for
  if (const int has = cuda_plugin() ? cuda_plugin()->compute_capability() : kLeast; has < kLeast) {
    const std::string old = fmt::format(
        "{} has compute capability {}.{}, and the CUDA kernels need 8.0 (A100, RTX 30) or newer",
        cuda_plugin()->device_name(),
        has / 10,
        has % 10);
    if (kind == DeviceKind::kCuda)
      throw std::runtime_error(fmt::format("{} is cuda, but {}: use cpu", asked_by, old));
    log_warn("{} auto takes the cpu: {}", asked_by, old);
    return at::kCPU;
  }
  if (const std::string obstacle = cuda_kernels_obstacle(); !obstacle.empty())
    log_warn("models run on LibTorch's plain ops, several times slower: {}", obstacle);
  return device;
}

int64_t cuda_devices() {
  return at::detail::getCUDAHooks().deviceCount();
}

// By the driver's interface, since LibTorch's CUDA part may be there without a toolkit or Basin's
// own.
std::string gpu_uuid(at::Device device) {
  if (!device.is_cuda()) return "";
  std::array<unsigned char, 16> uuid{};
  int handle = 0;
  void* driver = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
  const auto function = [&](const char* name) { return driver ? dlsym(driver, name) : nullptr; };
  const auto get = reinterpret_cast<int (*)(int*, int)>(function("cuDeviceGet"));
  const auto get_uuid = reinterpret_cast<int (*)(void*, int)>(function("cuDeviceGetUuid_v2"));
  if (get && get_uuid && get(&handle, device.index()) == 0 && get_uuid(uuid.data(), handle) == 0)
    return fmt::format("GPU-{:02x}", fmt::join(uuid, ""));
  return device.str();  // ranks of a machine with the same number then count as sharing it
}

void use_deterministic_algorithms() {
  setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8", /*overwrite=*/0);  // read when cuBLAS starts
  at::globalContext().setDeterministicAlgorithms(true, /*warn_only=*/false);
  at::globalContext().setDeterministicFillUninitializedMemory(false);  // for debugging only, slow
  at::globalContext().setDeterministicCuDNN(true);
  at::globalContext().setBenchmarkCuDNN(false);
}

// NVIDIA's data sheets: dense bf16 tensor cores, SXM modules.
double datasheet_flops(at::Device device, at::ScalarType type) {
  if (!device.is_cuda() || cuda_plugin() == nullptr || type != at::kBFloat16) return 0;
  const std::string name = cuda_plugin()->device_name();
  const auto has = [&](const char* part) { return name.find(part) != std::string::npos; };
  if (has("PCIe") || has("NVL")) return 0;  // slower, each in its own way
  if (has("H100") || has("H200") || has("H800") || has("GH200")) return 989e12;
  if (has("A100") || has("A800")) return 312e12;
  if (has("B200") || has("GB200")) return 2250e12;
  return 0;
}

void synchronize(at::Device device) {
  if (device.is_cuda()) c10::impl::VirtualGuardImpl(at::kCUDA).synchronizeDevice(device.index());
}

}  // namespace basin
