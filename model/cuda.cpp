#include "model/cuda.h"

#include <ATen/Context.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/util/Exception.h>
#include <dlfcn.h>
#include <fmt/format.h>

namespace basin {
namespace {

// What loading came to.
struct Cuda {
  std::string obstacle, kernels_obstacle;
  const kernels::CudaPlugin* plugin = nullptr;
};

Cuda load() {
  Cuda cuda;
  // Loading the library registers its kernels with LibTorch.
  if (!dlopen("libtorch_cuda.so", RTLD_NOW | RTLD_GLOBAL)) {
    cuda.obstacle = fmt::format("LibTorch's CUDA part does not load ({}): run 'bash configs/setup.sh --cuda'", dlerror());
    return cuda;
  }
  if (!at::globalContext().hasCUDA() || at::detail::getCUDAHooks().deviceCount() == 0) {
    cuda.obstacle =
        "no CUDA device is visible: nvidia-smi must list one, with a driver for CUDA 13 (580 or newer)";
    return cuda;
  }
  void* library = dlopen("libbasin_cuda.so", RTLD_NOW | RTLD_LOCAL);  // beside the program
  if (library == nullptr) {
    cuda.kernels_obstacle = fmt::format(
        "this build has no CUDA kernels ({}): build where there is a CUDA toolkit", dlerror());
    return cuda;
  }
  using Entry = decltype(&basin_cuda_plugin);
  cuda.plugin = reinterpret_cast<Entry>(dlsym(library, "basin_cuda_plugin"))();
  return cuda;
}

const Cuda& the_cuda() {
  static const Cuda cuda = load();
  return cuda;
}

}  // namespace

std::string cuda_obstacle() {
  return the_cuda().obstacle;
}

std::string cuda_kernels_obstacle() {
  return the_cuda().kernels_obstacle;
}

const kernels::CudaPlugin* cuda_plugin() {
  return the_cuda().plugin;
}

CudaGraph::CudaGraph(const std::function<void()>& body)
    : graph_(cuda_plugin()->capture(body), cuda_plugin()->release) {}

void CudaGraph::replay() const {
  cuda_plugin()->replay(graph_.get());
}

}  // namespace basin
