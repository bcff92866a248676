#include "train/partition.h"

#include <algorithm>

namespace basin {
namespace {

constexpr int64_t kLine = 64;  // elements

int64_t round_up(int64_t n, int64_t unit) {
  return (n + unit - 1) / unit * unit;
}

}  // namespace

std::vector<Range> cut_buckets(const Transformer& model, const BucketShape& shape) {
  const int64_t
      unit = shape.ranks * kLine,
      end = round_up(model.flat().numel(), unit),
      // What takes no decay is small and spread over all layers: complete at the end only.
      late = std::min(model.decayed_size() / unit * unit, end),
      size = std::max(round_up(shape.elements, unit), unit);
  std::vector<Range> buckets;
  for (int64_t stop = late; stop > 0; stop -= size)
    buckets.push_back({std::max<int64_t>(0, stop - size), stop});
  for (int64_t begin = late; begin < end; begin += size)
    buckets.push_back({begin, std::min(begin + size, end)});
  return buckets;
}

int64_t padded_size(const std::vector<Range>& buckets) {
  int64_t end = 0;
  for (const Range& bucket : buckets) end = std::max(end, bucket.end);
  return end;
}

Range share_of(const Range& bucket, int64_t rank, int64_t ranks) {
  const int64_t share = bucket.size() / ranks;
  return {bucket.begin + rank * share, bucket.begin + (rank + 1) * share};
}

}  // namespace basin
