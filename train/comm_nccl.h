// What comm.cpp asks of libbasin_nccl.so.
#pragma once

#include <chrono>
#include <torch/csrc/distributed/c10d/Backend.hpp>
#include <torch/csrc/distributed/c10d/Store.hpp>

namespace basin {

struct NcclOptions {
  int rank = 0, size = 1;
  int device = 0;  // of this process, by index
  std::chrono::milliseconds timeout{};
};

}  // namespace basin

/// A new group, to be owned by the caller. Throws c10::Error when the ranks do not meet.
extern "C" __attribute__((visibility("default"))) c10d::Backend* basin_make_nccl(
    const c10::intrusive_ptr<c10d::Store>& store, const basin::NcclOptions& options);
