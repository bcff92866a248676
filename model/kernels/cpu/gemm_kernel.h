// What an instruction set brings to a matrix product (gemm.cpp): panels of the operands, and the
// product of two of them. Words are 32 bits: one fp32, or two bf16 that are neighbours in depth.
#pragma once

#include "model/kernels/gemm.h"

namespace basin::kernels {

constexpr int64_t kLargestTile = 14 * 32;  // elements, of any kernel

inline int64_t ceil_div(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

/// What is packed at once: panels [begin, end) of an operand with `rows` rows, `depth` elements
/// from k0 on -> (end - begin, words, rows of a panel). Rows beyond the last are left as they are:
/// they reach only elements of c that do not exist.
struct Panels {
  int64_t rows, begin, end, k0, depth, words;
};

struct GemmKernel {
  int64_t rows, columns;  // of a tile of c: rows of a panel of a and of one of b
  int64_t pair;           // elements of a word
  int64_t most_depth;     // summed in registers at once
  int64_t cache;          // bytes of a thread's own panels in use at once

  void (*pack_a)(const GemmOperand& a, const Panels& panels, uint32_t* to);
  void (*pack_b)(const GemmOperand& b, const Panels& panels, uint32_t* to);
  /// A panel of a times a panel of b -> tile (rows, columns).
  void (*multiply)(const uint32_t* a, const uint32_t* b, int64_t words, float* tile);
  /// The same as part of c (row stride N), for tiles that are whole and want neither a bias nor
  /// other sums.
  void (*multiply_to_c)(const uint32_t* a, const uint32_t* b, int64_t words, int64_t N, Bf16* c);
  /// The tile at (row, column), with the bias -> c.
  void (*finish)(const Gemm& call, int64_t row, int64_t column, const float* tile);
};

/// Of the instruction set that dispatch picked: fp32 arithmetic, or AVX512-BF16 where the processor
/// has it.
GemmKernel gemm_kernel();

/// AVX512-BF16's.
GemmKernel gemm_kernel_of_pairs();

}  // namespace basin::kernels
