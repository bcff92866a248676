// The loss: linear layer and cross-entropy, a chunk of rows at a time.
#include <algorithm>
#include <limits>

#include "model/gemm.h"
#include "model/op_functions.h"

namespace basin::ops {
namespace {

at::ScalarType sums_in(const at::Tensor& x) {
  return x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
}

// logits (rows, V) in place -> (softmax - onehot(target)) * scale; nll (rows). Where there is no
// kernel, LibTorch's own ops.
void cross_entropy_in_place(at::Tensor& logits,
                            const at::Tensor& targets,
                            double scale,
                            at::Tensor& nll) {
  if (fused(logits)) {
    with_element_type(logits, [&](auto element) {
      using E = decltype(element);
      kernels_for(logits).of<E>().cross_entropy_in_place(logits.size(0),
                                                         logits.size(1),
                                                         out<E>(logits),
                                                         in<int64_t>(targets),
                                                         static_cast<float>(scale),
                                                         out<float>(nll));
    });
    return;
  }
  const at::Tensor log_p = at::log_softmax(logits, 1, sums_in(logits)),
                   column = targets.unsqueeze(1);
  nll.copy_(log_p.gather(1, column).squeeze(1).neg());
  logits.copy_(
      log_p.exp().scatter_add_(1, column, at::full_like(column, -1, log_p.options())).mul_(scale));
}

// The gradients are computed in the forward pass, while the logits of a chunk exist; backward only
// scales them. For every device and dtype: the logits of a whole batch never exist.
struct FusedLinearCrossEntropy : Function<FusedLinearCrossEntropy> {
  static at::Tensor forward(AutogradContext* ctx,
                            const at::Tensor& hidden_in,
                            const at::Tensor& weight,
                            const at::Tensor& targets_in,
                            bool with_gradient) {
    const at::Tensor hidden = hidden_in.contiguous(), targets = targets_in.contiguous();
    const int64_t N = hidden.size(0), V = weight.size(0),
                  chunk = loss_chunk_rows(N, V, hidden.is_cuda()),
                  columns = logit_columns(V, hidden.is_cuda());
    const at::Tensor head =
        columns == V ? weight : at::constant_pad_nd(weight, {0, 0, 0, columns - V});
    at::Tensor nll = at::empty({N}, hidden.options().dtype(sums_in(hidden)));
    at::Tensor dhidden, dweight;
    if (with_gradient) dhidden = at::empty_like(hidden);
    at::Tensor buffer = at::empty({chunk, columns}, hidden.options());
    for (int64_t begin = 0; begin < N; begin += chunk) {
      const int64_t rows = std::min(chunk, N - begin);
      const at::Tensor x = hidden.narrow(0, begin, rows);
      at::Tensor logits = buffer.narrow(0, 0, rows), nll_of_rows = nll.narrow(0, begin, rows);
      gemm_out(logits, x, head.t());
      if (columns > V)  // never predicted, and without gradient
        logits.narrow(1, V, columns - V).fill_(-std::numeric_limits<double>::infinity());
      if (!with_gradient) {
        nll_of_rows.copy_(token_cross_entropy(logits, targets.narrow(0, begin, rows)));
        continue;
      }
      cross_entropy_in_place(
          logits, targets.narrow(0, begin, rows), 1.0 / static_cast<double>(N), nll_of_rows);
      at::Tensor dx = dhidden.narrow(0, begin, rows);
      gemm_out(dx, logits, head);
      const at::Tensor dw = gemm(logits.t(), x).narrow(0, 0, V);
      if (rows == N) {
        dweight = dw;
      } else if (begin == 0) {
        dweight = dw.to(sums_in(hidden));
      } else {
        add_to_sum(dw, dweight);
      }
    }
    if (with_gradient) ctx->save_for_backward({dhidden, dweight.to(weight.scalar_type())});
    return nll.mean();
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const variable_list saved = ctx->get_saved_variables();
    if (grads[0].is_cuda())
      return {saved[0] * grads[0],
              saved[1] * grads[0],
              at::Tensor(),
              at::Tensor()};  // nobody waits for the number
    const double scale = grads[0].item<double>();
    if (scale == 1) return {saved[0], saved[1], at::Tensor(), at::Tensor()};
    return {saved[0] * scale, saved[1] * scale, at::Tensor(), at::Tensor()};
  }
};

}  // namespace

at::Tensor linear_cross_entropy(const at::Tensor& hidden,
                                const at::Tensor& weight,
                                const at::Tensor& targets) {
  if (wants_reference()) return reference::linear_cross_entropy(hidden, weight, targets);
  const bool with_gradient =
      at::GradMode::is_enabled() && (hidden.requires_grad() || weight.requires_grad());
  return FusedLinearCrossEntropy::apply(hidden, weight, targets, with_gradient);
}

// About 4 M logits, so that they stay in the outer cache, but at least 1024 rows, since each chunk
// adds its gradient to all of the head's.
int64_t loss_chunk_rows(int64_t N, int64_t V, bool on_gpu) {
  constexpr int64_t kOnGpu =
      16384;  // its caches are too small to matter, its matrix products like many rows
  return std::min(N, on_gpu ? kOnGpu : std::clamp<int64_t>((4 << 20) / V, 1024, 4096));
}

at::Tensor token_cross_entropy(const at::Tensor& logits_in, const at::Tensor& targets_in) {
  if (!fused(logits_in)) return reference::token_cross_entropy(logits_in, targets_in);
  const at::Tensor logits = logits_in.contiguous(), targets = targets_in.contiguous();
  at::Tensor nll = at::empty({logits.size(0)}, logits.options().dtype(at::kFloat));
  with_element_type(logits, [&](auto element) {
    using E = decltype(element);
    kernels_for(logits).of<E>().cross_entropy(
        logits.size(0), logits.size(1), in<E>(logits), in<int64_t>(targets), out<float>(nll));
  });
  return nll;
}

}  // namespace basin::ops
