#include "model/kernels/cuda/on_cpu.h"

#include <algorithm>

namespace basin::kernels {

void BlockOnCpu::run(dim3 grid, dim3 block, int shared_bytes, const std::function<void()>& body) {
  grid_size = grid;
  block_size = block;
  body_ = &body;
  shared.assign(static_cast<size_t>(shared_bytes) + 16, 0xFF);  // NaN: nobody may count on zeros
  if (shared_bytes > emulated_shared_memory) {
    std::fprintf(stderr, "CUDA on the CPU: no block has %d bytes of shared memory\n", shared_bytes);
    std::abort();
  }
  const size_t threads = size_t{block.x} * block.y * block.z;
  if (threads == 0 || threads > 1024 || grid.y > 65535 || grid.z > 65535) {
    std::fprintf(
        stderr, "CUDA on the CPU: a block of %zu threads, or the grid, is out of range\n", threads);
    std::abort();
  }
  fibers_.resize(threads);
  for (std::vector<uint64_t>& slots : slots_) slots.resize(threads);
  for (unsigned z = 0; z < grid.z; ++z)
    for (unsigned y = 0; y < grid.y; ++y)
      for (unsigned x = 0; x < grid.x; ++x) {
        block_index = dim3(x, y, z);
        prepare_block();
        run_block();
      }
}

void BlockOnCpu::prepare_block() {
  const auto threads = static_cast<unsigned>(fibers_.size());
  block_barrier_ = {.members = threads};
  warp_barriers_.assign((threads + 31) / 32, {});
  for (unsigned i = 0; i < threads; ++i) {
    ++warp_barriers_[i / 32].members;
    Fiber& fiber = fibers_[i];
    fiber.done = false;
    fiber.waits_for = nullptr;
    fiber.exchanges = 0;
    fiber.index =
        dim3(i % block_size.x, i / block_size.x % block_size.y, i / block_size.x / block_size.y);
  }
}

// Runs the threads of a warp until all of them wait or are done. Returns whether any has run.
bool BlockOnCpu::run_warp(size_t warp) {
  const size_t first = warp * 32, end = std::min(first + 32, fibers_.size());
  bool any = false;
  for (bool progress = true; progress; any |= progress) {
    progress = false;
    for (running_ = first; running_ < end; ++running_) {
      Fiber& fiber = fibers_[running_];
      if (fiber.done || fiber.waits()) continue;
      thread_index = fiber.index;
      resume(fiber);
      progress = true;
    }
  }
  return any;
}

// Every warp goes as far ahead of the others as it can, the first or the last one foremost: that
// shows where a barrier is missing.
void BlockOnCpu::run_block() {
  const size_t warps = warp_barriers_.size();
  const auto left = [&] {
    return std::count_if(
        fibers_.begin(), fibers_.end(), [](const Fiber& fiber) { return !fiber.done; });
  };
  while (left() > 0) {
    bool progress = false;
    for (size_t i = 0; i < warps; ++i)
      progress |= run_warp(block_index.x % 2 == 0 ? i : warps - 1 - i);
    if (!progress) {
      std::fprintf(stderr,
                   "CUDA on the CPU: %td threads of a block wait for others that do not come\n",
                   left());
      std::abort();
    }
  }
}

void BlockOnCpu::prepare(Fiber& fiber) {
  fiber.stack = std::make_unique<char[]>(kStackBytes);
  getcontext(&fiber.context);
  fiber.context.uc_stack.ss_sp = fiber.stack.get();
  fiber.context.uc_stack.ss_size = kStackBytes;
  makecontext(&fiber.context, &BlockOnCpu::enter, 0);
}

#ifdef __SANITIZE_ADDRESS__  // it follows swapcontext to another stack, but not jumps
void BlockOnCpu::resume(Fiber& fiber) {
  if (!fiber.stack) prepare(fiber);
  swapcontext(&scheduler_context_, &fiber.context);
}

void BlockOnCpu::yield() {
  swapcontext(&fibers_[running_].context, &scheduler_context_);
}
#else
// A context is entered once. Later switches are jumps: they spare the system call.
void BlockOnCpu::resume(Fiber& fiber) {
  if (_setjmp(scheduler_) != 0) return;  // the fiber has yielded
  if (fiber.stack) _longjmp(fiber.place, 1);
  prepare(fiber);
  setcontext(&fiber.context);
}

void BlockOnCpu::yield() {
  if (_setjmp(fibers_[running_].place) == 0) _longjmp(scheduler_, 1);
}
#endif

void BlockOnCpu::enter() {
  BlockOnCpu& block = current();
  for (;;) {
    (*block.body_)();
    block.fibers_[block.running_].done = true;
    block.leave(block.block_barrier_);
    block.leave(block.warp_barriers_[block.warp()]);
    block.yield();
  }
}

void BlockOnCpu::wait(Barrier& barrier) {
  if (++barrier.arrived == barrier.members) {
    barrier.arrived = 0;
    ++barrier.generation;
    return;
  }
  Fiber& fiber = fibers_[running_];
  fiber.waits_for = &barrier;
  fiber.generation = barrier.generation;
  yield();
  fiber.waits_for = nullptr;
}

// A thread that has returned is no longer waited for.
void BlockOnCpu::leave(Barrier& barrier) {
  --barrier.members;
  if (barrier.members > 0 && barrier.arrived == barrier.members) {
    barrier.arrived = 0;
    ++barrier.generation;
  }
}

// Slots change from one exchange to the next, so that nobody overwrites what others have yet to
// read: they pass two barriers before a slot's turn comes again.
uint64_t BlockOnCpu::exchange(uint64_t value, unsigned lane) {
  std::vector<uint64_t>& slots = slots_[fibers_[running_].exchanges++ % 2];
  slots[flat_index()] = value;
  wait_for_warp();
  return slots.at(warp() * 32 + lane);
}

}  // namespace basin::kernels
