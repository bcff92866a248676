// Activation recomputation (arXiv 1604.06174), block by block: what a block computes is not kept
// for its backward pass but computed again there, from the block's inputs alone.
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>

namespace basin {

/// The residual stream between two blocks.
struct Residual {
  at::Tensor x;      // (B, T, D)
  at::Tensor delta;  // (B, T, D), what the block before adds to x; undefined before the first one
};
using Block = std::function<Residual(const Residual& in)>;

/// block(in), whose backward pass holds on to `in` only and runs the block a second time. The block
/// must compute the same both times; gradients are then bit for bit those of block(in) itself.
/// Parameters belong into what `block` captures: their gradients accumulate, and their hooks fire,
/// once per backward pass, inside this block's part of it. Where `in` takes no gradient it is
/// block(in).
Residual recomputed(const Block& block, const Residual& in);

}  // namespace basin
