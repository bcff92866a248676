// Counts what a test program and the libraries in it ask of operator new. Link counted_new.cpp.
#pragma once

#include <atomic>
#include <cstdint>

namespace basin {

extern std::atomic<int64_t> counted_news;

}  // namespace basin
