// LibTorch's libraries find the program's operators before the standard library's. In a file of its
// own: inlined, they would look mismatched to the compiler.
#include "tests/support/counted_new.h"

#include <cstdlib>
#include <new>

namespace basin {

std::atomic<int64_t> counted_news = 0;

}  // namespace basin

void* operator new(size_t bytes) {
  ++basin::counted_news;
  if (void* p = std::malloc(bytes)) return p;
  throw std::bad_alloc();
}
void operator delete(void* p) noexcept {
  std::free(p);
}
void operator delete(void* p, size_t) noexcept {
  std::free(p);
}
