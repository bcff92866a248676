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

/// Of the bytes and, outwards, the rest of their pages.
void advise(std::span<const std::byte> bytes, int advice) {
  const auto first = reinterpret_cast<uintptr_t>(bytes.data()), end = first + bytes.size(),
             begin = first / page_bytes() * page_bytes();
  if (!bytes.empty()) madvise(reinterpret_cast<void*>(begin), end - begin, advice);
}

}  // namespace

void fetch_pages(std::span<const std::byte> bytes) {
#ifndef MADV_POPULATE_READ
  constexpr int MADV_POPULATE_READ = 22;  // Linux 5.14; older ones refuse it, and read on first use
#endif
  advise(bytes, MADV_POPULATE_READ);
}

void begin_to_fetch(std::span<const std::byte> bytes) {
  advise(bytes, MADV_WILLNEED);
}

void drop_pages(std::span<const std::byte> bytes) {
  advise(bytes, MADV_DONTNEED);  // a neighbour's bytes on these pages come back when they are read
}

}  // namespace basin
