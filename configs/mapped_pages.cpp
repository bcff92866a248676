#include "configs/mapped_pages.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>

namespace basin {
namespace {

uintptr_t page_bytes() {
  static const auto bytes = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  return bytes;
}

void advise(uintptr_t begin, uintptr_t end, int advice) {
  if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, advice);
}

}  // namespace

void fetch_pages(std::span<const std::byte> bytes) {
  // Linux takes no more of a request than the device reads at once (128 KiB or more), and silently.
  constexpr uintptr_t kRequestBytes = 128 << 10;
  const auto begin = reinterpret_cast<uintptr_t>(bytes.data()), end = begin + bytes.size();
  for (uintptr_t at = begin / page_bytes() * page_bytes(); at < end; at += kRequestBytes)
    advise(at, std::min(at + kRequestBytes, end), MADV_WILLNEED);
}

void drop_pages(std::span<const std::byte> bytes) {
  // Outwards to whole pages: a neighbour's bytes on them come back when they are read.
  const auto begin = reinterpret_cast<uintptr_t>(bytes.data());
  advise(begin / page_bytes() * page_bytes(), begin + bytes.size(), MADV_DONTNEED);
}

}  // namespace basin
