// How a model's flat buffers are cut: into buckets, which are communicated one by one while the
// rest is still computed, and each bucket into the ranks' shares.
#pragma once

#include <cstdint>
#include <vector>

#include "model/transformer.h"

namespace basin {

/// Elements [begin, end) of Transformer::flat().
struct Range {
  int64_t begin = 0, end = 0;

  int64_t size() const { return end - begin; }
  bool operator==(const Range&) const = default;
};

struct BucketShape {
  int64_t ranks = 1;
  int64_t elements = int64_t{6} << 20;  // of a bucket, about
};

/// Buckets that cover the model's flat buffer, in the order in which a backward pass completes
/// them: from the last layer to the embedding, then the parameters without weight decay. Each
/// divides into `ranks` equal shares of whole cache lines; the last may therefore end beyond the
/// buffer.
std::vector<Range> cut_buckets(const Transformer& model, const BucketShape& shape);

/// Where the last of them ends: what a buffer needs that is to hold them all.
int64_t padded_size(const std::vector<Range>& buckets);

/// The rank's part of a bucket.
Range share_of(const Range& bucket, int64_t rank, int64_t ranks);

}  // namespace basin
