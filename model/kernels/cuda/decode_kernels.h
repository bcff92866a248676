// The kernels of a decoding step as pointers: the plugin's, or those that a test has linked.
#pragma once

#include "model/kernels/cuda/decode.h"

namespace basin::kernels {

struct DecodeKernels {
  decltype(&decode_begin) begin;
  decltype(&decode_product) product;
  decltype(&decode_products) products;
  decltype(&decode_most_norm_columns) most_norm_columns;
  decltype(&decode_attention) attention;
  decltype(&decode_attention_scratch) attention_scratch;
  decltype(&decode_greedy) greedy;
  decltype(&decode_greedy_scratch) greedy_scratch;
  decltype(&decode_advance) advance;
};

inline DecodeKernels linked_decode_kernels() {
  return {&decode_begin,
          &decode_product,
          &decode_products,
          &decode_most_norm_columns,
          &decode_attention,
          &decode_attention_scratch,
          &decode_greedy,
          &decode_greedy_scratch,
          &decode_advance};
}

}  // namespace basin::kernels
