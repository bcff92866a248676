// Which device a process computes on.
#pragma once

#include <c10/core/Device.h>
#include <c10/core/ScalarType.h>

#include <cstdint>
#include <string>

#include "configs/fields.h"

namespace basin {

enum class DeviceKind { kAuto, kCpu, kCuda };
template <>
inline constexpr std::string_view kEnumNames<DeviceKind>[] = {"auto", "cpu", "cuda"};

/// `auto` is cuda where a device and the libraries are there, else cpu. Rank n of a machine takes
/// its n-th device. `asked_by` ("train.device", "--device") is for messages. Throws
/// std::runtime_error saying what is missing when cuda was asked for.
at::Device choose_device(DeviceKind kind, const std::string& asked_by, int64_t local_rank = 0);

/// GPUs that this process sees. Only after choose_device has given one.
int64_t cuda_devices();

/// What tells this GPU (or this part of one, with MIG) apart from all others, whatever its number is
/// in this process; empty for a CPU.
std::string gpu_uuid(at::Device device);

/// LibTorch's operations give the same bits each time from here on, or throw. Before choose_device.
void use_deterministic_algorithms();

/// FLOP/s without sparsity that the data sheet of the GPU promises for products of `type`; 0 where
/// that is not known, as for CPUs and for fp32, which may or may not go to tensor cores.
double datasheet_flops(at::Device device, at::ScalarType type);

/// Waits for what the device still has to do; nothing for a CPU.
void synchronize(at::Device device);

}  // namespace basin
