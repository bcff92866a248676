// Whether the tests that need a GPU can run.
#pragma once

#include <string>

#include "model/cuda.h"

namespace basin {

/// Empty, or why they are skipped: no GPU, or a build without a CUDA toolkit. Kernels that were
/// built and do not load are no reason.
inline std::string gpu_obstacle() {
  std::string obstacle = cuda_obstacle();
#ifndef BASIN_CUDA_BUILD
  if (obstacle.empty()) obstacle = cuda_kernels_obstacle();
#endif
  return obstacle;
}

}  // namespace basin
