// CUDA comes at run time: LibTorch's part of it (libtorch_cuda.so), and Basin's kernels
// (libbasin_cuda.so, built where there is a toolkit). The same program runs without either.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "model/kernels/cuda/plugin.h"

namespace basin {

/// Empty, or why this process cannot use CUDA. The first call of these functions loads both parts.
std::string cuda_obstacle();
/// Empty, or why Basin's kernels are not there. Models then run on the plain ops: correct, and
/// several times slower.
std::string cuda_kernels_obstacle();
/// Basin's part, or null.
const kernels::CudaPlugin* cuda_plugin();

/// Work on the device that was recorded once and is repeated with one launch.
class CudaGraph {
 public:
  /// Runs `body` some times, then records it. It must do the same work each time, on the same
  /// memory, and wait for nothing. Needs cuda_plugin().
  explicit CudaGraph(const std::function<void()>& body);
  void replay() const;

 private:
  std::unique_ptr<void, void (*)(void*)> graph_;
};

}  // namespace basin
