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
#ifndef MADV_POPULATE_READ
  constexpr int MADV_POPULATE_READ = 22;  // Linux 5.14; older ones refuse it, and read on first use
#endif
  const auto begin = reinterpret_cast<uintptr_t>(bytes.data());
  advise(begin / page_bytes() * page_bytes(), begin + bytes.size(), MADV_POPULATE_READ);
}

void drop_pages(std::span<const std::byte> bytes) {
  // Outwards to whole pages: a neighbour's bytes on them come back when they are read.
  const auto begin = reinterpret_cast<uintptr_t>(bytes.data());
  advise(begin / page_bytes() * page_bytes(), begin + bytes.size(), MADV_DONTNEED);
}

}  // namespace basin
