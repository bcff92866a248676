// AdamW over flat fp32 buffers laid out like Transformer::flat(): one fused pass for the decayed
// part, one for the rest. fp32 training updates the model's own buffer; bf16 training keeps an fp32
// master and publishes the rounded copy in the same pass. An optimizer may own parts of the buffer
// only (ZeRO-1, arXiv 1910.02054): the other ranks own the rest.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <vector>

#include "model/ops.h"
#include "model/transformer.h"
#include "train/config.h"
#include "train/partition.h"

namespace basin {

class Optimizer {
 public:
  /// Elements [begin, begin + n) of the flat buffer, all fp32 (n).
  struct Part {
    int64_t begin = 0;
    at::Tensor master, m, v;
  };

  /// `master`: the initial weights in fp32, model.flat()'s layout; an fp32 model's own flat(), or
  /// for bf16 a buffer that becomes the optimizer's. `own`: what of it this optimizer updates, by
  /// default all; ranges may reach beyond the buffer.
  Optimizer(Transformer& model,
            at::Tensor master,
            const OptimizerConfig& config,
            const std::vector<Range>& own = {});

  /// Updates the own weights from `gradient` (fp32, flat, the buffer's size or more) multiplied by
  /// `scale`; tells of each part when it is done.
  void step(const at::Tensor& gradient,
            double scale,
            double lr,
            const std::function<void(size_t part)>& done = {});
  /// Rounds the own master weights into the model's; needed after they were changed from outside.
  void publish();

  int64_t count() const { return count_; }  // steps taken, for the bias correction
  void set_count(int64_t count) { count_ = count; }
  const std::vector<Part>& parts() const { return parts_; }
  at::Tensor master() const { return joined(&Part::master); }  // of all parts, fp32 (n)
  at::Tensor m() const { return joined(&Part::m); }
  at::Tensor v() const { return joined(&Part::v); }

 private:
  void update(const Part& part, Range range, const at::Tensor& gradient, ops::AdamW settings);
  at::Tensor joined(at::Tensor Part::*buffer) const;

  Transformer& model_;
  OptimizerConfig config_;
  std::vector<Part> parts_;
  int64_t count_ = 0;
};

}  // namespace basin
