// A keyed bijection of [0, n): the order of the samples of one epoch, without storing it (Feistel
// network with cycle walking).
#pragma once

#include <cstdint>

namespace basin {

/// Epoch e of a run visits sample `permute(seed, e, n, i)` at place i. n >= 1, i < n.
uint64_t permute(uint64_t seed, uint64_t epoch, uint64_t n, uint64_t i);

/// A 64-bit hash of (seed, a, b), the one source of keyed randomness in data and init (SplitMix64's
/// finaliser).
uint64_t keyed_hash(uint64_t seed, uint64_t a, uint64_t b);

}  // namespace basin
