// Attention on a GPU in bf16: cuDNN's or LibTorch's flash attention between our rotation and our sink.
#pragma once

#include "model/ops.h"

namespace basin::ops {

/// Whether the functions below take x and heads of this size; else there is the reference.
bool takes_flash_attention(const at::Tensor& x, int64_t head_size);

/// ops::attention.
at::Tensor flash_attention(const at::Tensor& qkv, const HeadShape& shape, const Rotary& rotary, const at::Tensor& sink_logit);

/// While alive, and `repeats`, this thread's calls of flash_attention may take kernels that are made for one shape, which takes some tenths of
/// a second, and are faster from then on.
class ShapeRepeats {
 public:
  explicit ShapeRepeats(bool repeats);
  ~ShapeRepeats();

 private:
  bool before_;
};

/// ops::window_attention.
Attended flash_window_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, int64_t recent);

}  // namespace basin::ops
