// AdamW over flat fp32 buffers laid out like Transformer::flat(): one fused pass for the decayed
// part, one for the rest. fp32 training updates the model's own buffer; bf16 training keeps an fp32
// master and publishes the rounded copy in the same pass.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "model/transformer.h"
#include "train/config.h"

namespace basin {

class Optimizer {
 public:
  /// `master`: the initial weights in fp32, model.flat()'s layout; an fp32 model's own flat() or,
  /// for bf16, a buffer that becomes the optimizer's.
  Optimizer(Transformer& model, at::Tensor master, const OptimizerConfig& config);

  /// Updates the weights from `gradient` (fp32, flat) multiplied by `scale`.
  void step(const at::Tensor& gradient, double scale, double lr);
  /// Rounds the master weights into the model's; needed after they were changed from outside.
  void publish();

  int64_t count() const { return count_; }  // steps taken, for the bias correction
  void set_count(int64_t count) { count_ = count; }
  const at::Tensor& master() const { return master_; }  // all fp32 (padded total)
  const at::Tensor& m() const { return m_; }
  const at::Tensor& v() const { return v_; }

 private:
  Transformer& model_;
  OptimizerConfig config_;
  at::Tensor master_, m_, v_;
  int64_t count_ = 0;
};

}  // namespace basin
