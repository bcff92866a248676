// What decode_greedy (decode.h) says where no token is the likeliest.
#pragma once

#include <cstdint>

namespace basin::kernels {

/// In the output, instead of a token, where the largest logit is not finite; a NaN counts as larger
/// than any other. The state then gets some token of the vocabulary.
constexpr int64_t kNotFinite = -1;

}  // namespace basin::kernels
