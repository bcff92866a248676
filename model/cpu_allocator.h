// LibTorch's CPU memory through a cache: a freed block waits for the next tensor of its size class,
// so that a step that repeats itself asks malloc for nothing. The CPU's counterpart of LibTorch's
// CUDA caching allocator, with the same names for what it counts.
#pragma once

#include <cstdint>

namespace basin {

/// Bytes of tensors on the CPU since the allocator was installed.
struct CpuMemory {
  int64_t allocated_bytes = 0;      // in use now
  int64_t max_allocated_bytes = 0;  // the most at any time since reset_peak_cpu_memory
  int64_t reserved_bytes = 0;       // in use or waiting
  int64_t requests = 0;             // blocks taken from malloc
};

/// Makes the cache LibTorch's CPU allocator, from here to the end of the process. Tensors that are
/// there already keep theirs. Safe to call again.
void install_cpu_allocator();

/// All zero before install_cpu_allocator.
CpuMemory cpu_memory();
/// Makes what is in use now the peak.
void reset_peak_cpu_memory();

/// What a tensor of so many bytes takes, as allocated_bytes counts it: its size class, header
/// included.
int64_t cpu_block_bytes(int64_t bytes);

}  // namespace basin
