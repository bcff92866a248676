// How the row kernels use threads: contiguous static ranges on the OpenMP team of the process
// (LibTorch's own), and memory that lives as long as its thread. The split depends on the amount of
// work and on the thread count only, so results repeat.
#pragma once

#include <omp.h>

#include <algorithm>
#include <cstdint>
#include <type_traits>
#include <vector>

namespace basin::kernels {

/// Number of ranges for n items of `work` elements each: 1 for small work and inside a parallel
/// region, else up to one a thread.
inline int64_t parts_for(int64_t n, int64_t work) {
  constexpr int64_t kMinimumWork =
      16384;  // elements a thread; below that, waking it costs more than it saves
  if (omp_in_parallel()) return 1;
  const int64_t useful = std::min<int64_t>(n * work / kMinimumWork, omp_get_max_threads());
  return std::clamp<int64_t>(useful, 1, std::max<int64_t>(n, 1));
}

/// body(part, begin, end) for `parts` ranges that cover [0, n); boundaries are multiples of
/// `grain`. Must not throw.
template <class Body>
void parallel_ranges(int64_t parts, int64_t n, int64_t grain, const Body& body) {
  if (parts == 1) {
    body(int64_t{0}, int64_t{0}, n);
    return;
  }
  const int64_t grains = (n + grain - 1) / grain;
  // Always the whole team: libgomp ends the threads that a smaller one leaves over.
#pragma omp parallel for schedule(static)
  for (int64_t part = 0; part < parts; ++part) {
    body(part,
         std::min(n, grains * part / parts * grain),
         std::min(n, grains * (part + 1) / parts * grain));
  }
}

/// `count` elements of the calling thread, valid until its next call for the same Element and use;
/// not zeroed.
template <class Element, int kUse = 0>
Element* scratch(int64_t count) {
  thread_local std::vector<Element> memory;
  if (static_cast<int64_t>(memory.size()) < count) memory.resize(static_cast<size_t>(count));
  return memory.data();
}

}  // namespace basin::kernels

// The instruction set's version of NAME_f32 or NAME_bf16, as a function pointer; both need
// HWY_EXPORT.
#define BASIN_PICK(Float, NAME)                   \
  [] {                                            \
    if constexpr (std::is_same_v<Float, float>) { \
      return &HWY_DYNAMIC_DISPATCH(NAME##_f32);   \
    } else {                                      \
      return &HWY_DYNAMIC_DISPATCH(NAME##_bf16);  \
    }                                             \
  }()
