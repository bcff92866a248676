// Scatter-add of gradient rows into the embedding table. Threads own columns first and ids second,
// and each walks all rows in order, so every element is summed in the order of the rows whatever
// the number of threads.
#include "model/kernels/kernels.h"
#include "model/kernels/cpu/parallel.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "model/kernels/cpu/embedding.cpp"
#include "hwy/foreach_target.h"
#include "model/kernels/cpu/vectors-inl.h"

#ifndef BASIN_KERNELS_EMBEDDING_ARGUMENTS_  // this file is compiled once for each instruction set
#define BASIN_KERNELS_EMBEDDING_ARGUMENTS_
namespace basin::kernels {

/// One thread's share: columns [begin, end) of the ids with id % id_parts == id_part.
struct EmbeddingShare {
  int64_t begin, end;
  uint64_t id_part, id_parts;
};

}  // namespace basin::kernels
#endif

HWY_BEFORE_NAMESPACE();
namespace basin::kernels {
namespace HWY_NAMESPACE {

template <class Float>
void add_share(const EmbeddingShare& share,
               int64_t n,
               int64_t D,
               const int64_t* ids,
               const Float* dy,
               float* dweight) {
  for (int64_t row = 0; row < n; ++row) {
    if (share.id_parts > 1 && static_cast<uint64_t>(ids[row]) % share.id_parts != share.id_part)
      continue;
    float* to = dweight + ids[row] * D + share.begin;
    const Float* from = dy + row * D + share.begin;
    for_vectors(share.end - share.begin, [&](int64_t i, auto lanes) BASIN_INLINE_BODY {
      store(hn::Add(load(to + i, lanes), load(from + i, lanes)), to + i, lanes);
    });
  }
}

constexpr auto& add_share_f32 = add_share<float>;
constexpr auto& add_share_bf16 = add_share<Bf16>;

}  // namespace HWY_NAMESPACE
}  // namespace basin::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace basin::kernels {

namespace {

HWY_EXPORT(add_share_f32);
HWY_EXPORT(add_share_bf16);

}  // namespace

template <class Float>
void embedding_backward(int64_t n, int64_t D, const int64_t* ids, const Float* dy, float* dweight) {
  constexpr int64_t kColumns = 32;  // narrower shares would fetch more than they use
  const auto kernel = BASIN_PICK(Float, add_share);
  const int64_t parts = parts_for(n, D), column_parts = std::clamp<int64_t>(D / kColumns, 1, parts),
                id_parts = parts / column_parts;
  const int64_t width = ((D + column_parts - 1) / column_parts + 15) / 16 * 16;
  parallel_ranges(column_parts * id_parts,
                  column_parts * id_parts,
                  1,
                  [&](int64_t, int64_t begin, int64_t end) {
                    for (int64_t part = begin; part < end; ++part) {
                      const int64_t column = part % column_parts * width;
                      const EmbeddingShare share{std::min(D, column),
                                                 std::min(D, column + width),
                                                 static_cast<uint64_t>(part / column_parts),
                                                 static_cast<uint64_t>(id_parts)};
                      kernel(share, n, D, ids, dy, dweight);
                    }
                  });
}

template decltype(embedding_backward<float>) embedding_backward<float>;
template decltype(embedding_backward<Bf16>) embedding_backward<Bf16>;

}  // namespace basin::kernels
#endif  // HWY_ONCE
