// For test programs whose kernels run on a GPU: every `new` of the program comes from memory that
// the GPU reads and writes as well, so that the CPU kernels' tests, which hand std::vector to
// kernels, test the GPU's without a change. Launches wait for their end.
#include <cuda_runtime.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstdlib>
#include <mutex>
#include <new>

#include "model/kernels/cuda/device.h"

namespace {

// Before CUDA starts, which the first `new` does.
__attribute__((constructor(101))) void launches_wait() {
  setenv("CUDA_LAUNCH_BLOCKING", "1", 1);
}

constexpr size_t kArena = size_t{1} << 30;

// Blocks of powers of two; freed ones wait for the next of their size.
class PinnedArena {
 public:
  void* take(size_t bytes) {
    const std::lock_guard lock(mutex_);
    if (begin_ == nullptr) start();
    const int power = std::bit_width(std::max<size_t>(bytes, 64) - 1);
    if (void* block = free_[power]) {
      free_[power] = *static_cast<void**>(block);
      return block;
    }
    const size_t size = size_t{1} << power;
    if (used_ + 64 + size > kArena) throw std::bad_alloc();
    char* block = begin_ + used_ + 64;
    *reinterpret_cast<int*>(block - 64) = power;
    used_ += 64 + size;
    return block;
  }
  void give(void* block) {
    const std::lock_guard lock(mutex_);
    const int power = *reinterpret_cast<int*>(static_cast<char*>(block) - 64);
    *static_cast<void**>(block) = free_[power];
    free_[power] = block;
  }

 private:
  void start() {  // without a GPU, so that the program can say so: ordinary memory
    void* memory = nullptr;
    if (cudaHostAlloc(&memory, kArena, cudaHostAllocMapped) != cudaSuccess)
      memory = std::aligned_alloc(64, kArena);
    begin_ = static_cast<char*>(memory);
  }
  std::mutex mutex_;
  char* begin_ = nullptr;
  size_t used_ = 0;
  std::array<void*, 64> free_{};
};

PinnedArena& arena() {
  alignas(PinnedArena) static char space[sizeof(PinnedArena)];  // never destroyed
  static PinnedArena* arena = ::new (space) PinnedArena;
  return *arena;
}

}  // namespace

void* operator new(size_t bytes) {
  return arena().take(bytes);
}
void operator delete(void* block) noexcept {
  if (block) arena().give(block);
}
void operator delete(void* block, size_t) noexcept {
  operator delete(block);
}

namespace basin::kernels {

cudaStream_t current_stream() {
  return nullptr;
}

Scratch::Scratch(int64_t bytes) {
  check(cudaMalloc(&data_, static_cast<size_t>(bytes)));
}
Scratch::~Scratch() {
  cudaFree(data_);
}

}  // namespace basin::kernels
