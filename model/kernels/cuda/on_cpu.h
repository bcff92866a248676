// CUDA's execution model on one CPU thread, for testing kernels without a GPU: the threads of a
// block are fibers that run until they wait for each other. Slow, exact, and strict: threads that
// wait for others which never come end the program with a message. Blocks run one after another, so
// that what blocks do to each other's memory is not tested.
#pragma once

#include <setjmp.h>
#include <ucontext.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <memory>
#include <vector>

#include "model/kernels/kernels.h"

#define __global__
#define __device__
#define __host__
#define __shared__ static
#define __forceinline__ inline
#define __launch_bounds__(...)

namespace basin::kernels {

struct dim3 {
  dim3(int64_t x_in = 1, int64_t y_in = 1, int64_t z_in = 1)
      : x(static_cast<unsigned>(x_in)),
        y(static_cast<unsigned>(y_in)),
        z(static_cast<unsigned>(z_in)) {}
  unsigned x, y, z;
};

/// One block's threads and what they share.
class BlockOnCpu {
 public:
  static BlockOnCpu& current() {
    static BlockOnCpu block;
    return block;
  }

  void run(dim3 grid, dim3 block, int shared_bytes, const std::function<void()>& body);
  void wait_for_block() { wait(block_barrier_); }
  void wait_for_warp() { wait(warp_barriers_[warp()]); }
  /// What thread `lane` of the warp passes; every thread of the warp must call.
  uint64_t exchange(uint64_t value, unsigned lane);

  dim3 thread_index, block_index, block_size, grid_size;
  std::vector<unsigned char> shared;

 private:
  struct Barrier {
    unsigned members = 0, arrived = 0;
    uint64_t generation = 0;
  };
  /// Takes the threads of its place of all blocks, one block after another.
  struct Fiber {
    bool waits() const { return waits_for && waits_for->generation == generation; }

    ucontext_t context;  // where it begins
    jmp_buf place;       // where it left off, once it has begun
    std::unique_ptr<char[]> stack;
    dim3 index;
    bool done = false;
    const Barrier* waits_for = nullptr;
    uint64_t generation = 0;  // the barrier's when it came
    unsigned exchanges = 0;
  };
  static constexpr size_t kStackBytes = 64 * 1024;

  unsigned flat_index() const {
    return thread_index.x + block_size.x * (thread_index.y + block_size.y * thread_index.z);
  }
  unsigned warp() const { return flat_index() / 32; }
  void wait(Barrier& barrier);
  void leave(Barrier& barrier);
  void yield();
  static void enter();
  static void prepare(Fiber& fiber);
  void resume(Fiber& fiber);
  void prepare_block();
  bool run_warp(size_t warp);
  void run_block();

  std::deque<Fiber> fibers_;  // which do not move: a context points into itself
  std::vector<Barrier> warp_barriers_;
  std::vector<uint64_t> slots_[2];  // a value of every thread, for every second exchange
  Barrier block_barrier_;
  jmp_buf scheduler_;
  ucontext_t scheduler_context_;
  size_t running_ = 0;
  const std::function<void()>* body_ = nullptr;
};

#define threadIdx (::basin::kernels::BlockOnCpu::current().thread_index)
#define blockIdx (::basin::kernels::BlockOnCpu::current().block_index)
#define blockDim (::basin::kernels::BlockOnCpu::current().block_size)
#define gridDim (::basin::kernels::BlockOnCpu::current().grid_size)

inline void __syncthreads() {
  BlockOnCpu::current().wait_for_block();
}
inline void __syncwarp() {
  BlockOnCpu::current().wait_for_warp();
}

template <class T>
T __shfl_sync(unsigned, T value, unsigned lane) {
  static_assert(sizeof(T) <= 8);
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  bits = BlockOnCpu::current().exchange(bits, lane % 32);
  std::memcpy(&value, &bits, sizeof(T));
  return value;
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, unsigned distance) {
  const dim3 &i = threadIdx, &n = blockDim;
  return __shfl_sync(mask, value, (i.x + n.x * (i.y + n.y * i.z)) % 32 ^ distance);
}

// One thread runs at a time.
inline unsigned atomicAdd(unsigned* at, unsigned x) {
  return (*at += x) - x;
}
inline void __threadfence() {}

/// The normal distribution function.
inline float normcdff(float x) {
  return static_cast<float>(std::erfc(-x / 1.4142135623730950488) / 2);
}
inline float rsqrtf(float x) {
  return 1 / std::sqrt(x);
}
inline float __expf(float x) {
  return std::exp(x);
}
inline float __fdividef(float x, float y) {
  return x / y;
}
inline void sincospi(double x, double* sine, double* cosine) {
  *sine = std::sin(x * 3.14159265358979323846);
  *cosine = std::cos(x * 3.14159265358979323846);
}

inline float bits_to_float(uint32_t bits) {
  return std::bit_cast<float>(bits);
}
inline Bf16 float_to_bf16(float x) {
  const auto bits = std::bit_cast<uint32_t>(x);
  if (std::isnan(x)) return {static_cast<uint16_t>(bits >> 16 | 0x40)};
  return {static_cast<uint16_t>((bits + 0x7FFF + (bits >> 16 & 1)) >> 16)};
}

class Scratch {
 public:
  explicit Scratch(int64_t bytes) : data_(static_cast<size_t>(bytes / 16 + 1)) {
    std::memset(data_.data(), 0xFF, data_.size() * sizeof(Line));  // NaN: no zeros to count on
  }
  template <class T>
  T* as() const {
    return reinterpret_cast<T*>(const_cast<Line*>(data_.data()));
  }

 private:
  struct alignas(16) Line {
    char bytes[16];
  };
  std::vector<Line> data_;
};

/// Dynamic shared memory that a block can have, bytes: an H100's. More ends the program.
inline int64_t emulated_shared_memory = 226 * 1024;  // tests play smaller GPUs
inline int64_t most_shared_memory() {
  return emulated_shared_memory;
}

template <class... Parameters, class... Arguments>
void launch(void (*kernel)(Parameters...),
            dim3 grid,
            dim3 block,
            int shared_bytes,
            Arguments... arguments) {
  BlockOnCpu::current().run(
      grid, block, shared_bytes, [&] { kernel(static_cast<Parameters>(arguments)...); });
}

template <class T>
T* shared_memory() {
  return reinterpret_cast<T*>(BlockOnCpu::current().shared.data());
}

template <class T>
void copy_to_host(T* to, const T* from, int64_t count) {
  std::memcpy(to, from, static_cast<size_t>(count) * sizeof(T));
}

}  // namespace basin::kernels
