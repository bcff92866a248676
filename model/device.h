// Which device a rank computes on. CUDA comes with libtorch_cuda, loaded when it is asked for; the
// same code then runs on it.
#pragma once

#include <c10/core/Device.h>

#include <cstdint>

#include "train/config.h"

namespace basin {

/// `auto` is cuda where a device and the library are there, else cpu. Throws std::runtime_error
/// saying what is missing when cuda was asked for.
at::Device choose_device(DeviceKind kind, int64_t local_rank);

}  // namespace basin
