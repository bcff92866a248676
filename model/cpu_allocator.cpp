#include "model/cpu_allocator.h"

#include <c10/core/Allocator.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <new>
#include <vector>

namespace basin {
namespace {

constexpr size_t kAlignment = 64;   // of a block; its first kAlignment bytes are its header
constexpr int kStepsPerOctave = 8;  // size classes between powers of two: at most 1/8 is lost
constexpr int kClasses = 64 * kStepsPerOctave;
// Waiting blocks go back to malloc when all memory would be more than the most that was ever in use
// by this and by half of it: a step finds all that it has used before, whatever is in use between.
constexpr int64_t kWaitingBytes = int64_t{64} << 20;

struct SizeClass {
  int index;
  size_t bytes;
};

// In front of a block.
struct Header {
  SizeClass of;
  int64_t freed = 0;  // when, in frees of all blocks
};
static_assert(sizeof(Header) <= kAlignment);

Header& header(char* block) {
  return *std::launder(reinterpret_cast<Header*>(block));
}

// The smallest of (8..15) 2^k that holds `bytes`.
SizeClass size_class(size_t bytes) {
  bytes = std::max<size_t>(bytes, 8 * kStepsPerOctave);
  const int shift = std::bit_width(bytes - 1) - std::bit_width<size_t>(kStepsPerOctave);
  const size_t units = (bytes + (size_t{1} << shift) - 1) >> shift;  // 8..16
  return {shift * kStepsPerOctave + static_cast<int>(units) - kStepsPerOctave, units << shift};
}

class CachingCpuAllocator final : public c10::Allocator {
 public:
  c10::DataPtr allocate(size_t bytes) override {
    void* data = bytes == 0 ? nullptr : take(bytes);
    return {data, data, &CachingCpuAllocator::release, at::Device(at::kCPU)};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &CachingCpuAllocator::release; }
  void copy_data(void* destination, const void* source, std::size_t count) const override {
    std::memcpy(destination, source, count);
  }

  static CachingCpuAllocator& instance() {
    static auto* allocator = new CachingCpuAllocator;  // never destroyed: tensors outlive main
    return *allocator;
  }

  CpuMemory memory() {
    const std::lock_guard lock(mutex_);
    return memory_;
  }

  void reset_peak() {
    const std::lock_guard lock(mutex_);
    memory_.max_allocated_bytes = memory_.allocated_bytes;
  }

 private:
  void* take(size_t bytes) {
    const SizeClass wanted = size_class(bytes + kAlignment);
    const std::lock_guard lock(mutex_);
    std::vector<char*>& waiting = waiting_[static_cast<size_t>(wanted.index)];
    char* block = nullptr;
    const auto size = static_cast<int64_t>(wanted.bytes);
    if (!waiting.empty()) {
      block = waiting.back();
      waiting.pop_back();
    } else {
      trim(size);
      block = static_cast<char*>(std::aligned_alloc(
          kAlignment, (wanted.bytes + kAlignment - 1) / kAlignment * kAlignment));
      TORCH_CHECK_WITH(OutOfMemoryError, block, "out of memory: could not get ", bytes, " bytes");
      new (block) Header{wanted};
      ++memory_.requests;
      memory_.reserved_bytes += size;
    }
    memory_.allocated_bytes += size;
    memory_.max_allocated_bytes = std::max(memory_.max_allocated_bytes, memory_.allocated_bytes);
    most_ = std::max(most_, memory_.allocated_bytes);
    return block + kAlignment;
  }

  void give(void* data) {
    char* block = static_cast<char*>(data) - kAlignment;
    Header& head = header(block);
    const std::lock_guard lock(mutex_);
    head.freed = frees_++;
    waiting_[static_cast<size_t>(head.of.index)].push_back(block);
    memory_.allocated_bytes -= static_cast<int64_t>(head.of.bytes);
  }

  // Before `more` bytes are asked for: frees waiting blocks down to what may wait, first those that
  // have waited longest.
  void trim(int64_t more) {
    const int64_t most = std::max(most_, memory_.allocated_bytes + more),
                  limit = most + std::max(kWaitingBytes, most / 2);
    while (memory_.reserved_bytes + more > limit) {
      std::vector<char*>* oldest = nullptr;
      for (std::vector<char*>& waiting : waiting_)  // each with its oldest in front
        if (!waiting.empty() &&
            (!oldest || header(waiting.front()).freed < header(oldest->front()).freed))
          oldest = &waiting;
      if (!oldest) return;
      memory_.reserved_bytes -= static_cast<int64_t>(header(oldest->front()).of.bytes);
      std::free(oldest->front());
      oldest->erase(oldest->begin());
    }
  }

  static void release(void* data) {
    if (data) instance().give(data);
  }

  std::mutex mutex_;
  std::array<std::vector<char*>, kClasses> waiting_;  // freed blocks of each size class
  CpuMemory memory_;
  int64_t most_ = 0;  // in use at any time
  int64_t frees_ = 0;
};

}  // namespace

void install_cpu_allocator() {
  c10::SetAllocator(at::kCPU, &CachingCpuAllocator::instance(), /*priority=*/1);
}

CpuMemory cpu_memory() {
  return CachingCpuAllocator::instance().memory();
}

void reset_peak_cpu_memory() {
  CachingCpuAllocator::instance().reset_peak();
}

int64_t cpu_block_bytes(int64_t bytes) {
  return bytes == 0
             ? 0
             : static_cast<int64_t>(size_class(static_cast<size_t>(bytes) + kAlignment).bytes);
}

}  // namespace basin
