#include "model/pass_memory.h"

#include <c10/util/Exception.h>

#include <algorithm>
#include <vector>

#include "model/alibi.h"
#include "model/cpu_allocator.h"
#include "model/gemm.h"
#include "model/ops.h"

namespace basin {
namespace {

/// What is in use as the pass goes on.
class Ledger {
 public:
  explicit Ledger(bool cuda) : cuda_(cuda) {}

  /// The parts of the pass, in order; the peak is reported as the part in which it fell.
  void begin(const char* part) { part_ = part; }
  void take(int64_t bytes) {
    in_use_ += block_bytes(bytes, cuda_);
    if (in_use_ <= peak_) return;
    peak_ = in_use_;
    peak_at_ = part_;
  }
  void give(int64_t bytes) { in_use_ -= block_bytes(bytes, cuda_); }
  /// For as long as one operation runs.
  void touch(int64_t bytes) {
    take(bytes);
    give(bytes);
  }

  int64_t in_use() const { return in_use_; }
  int64_t peak() const { return peak_; }
  const std::string& peak_at() const { return peak_at_; }

 private:
  bool cuda_;
  int64_t in_use_ = 0, peak_ = 0;
  std::string part_, peak_at_;
};

/// One pass. Sizes are in bytes; n rows of all positions, N of the predicted ones.
class Pass {
 public:
  Pass(const ModelConfig& config, const PassShape& shape)
      : config_(config),
        shape_(shape),
        element_(shape.bf16 ? 2 : 4),
        positions_(shape.sequence_length + config.sink.tokens()),
        n_(shape.micro_batch * positions_),
        N_(shape.micro_batch * shape.sequence_length),
        hidden_(n_ * config.hidden_size * element_),
        heads_(n_ * config.heads() * config.head_size() * element_),
        qkv_(n_ * config.qkv_size() * element_),
        up_(n_ * up_width() * element_),
        activated_(n_ * config.intermediate_size * element_),
        statistics_(n_ * 2 * 4),
        ledger_(shape.cuda) {}

  PassMemory run() {
    forward();
    const int64_t logits = loss(), kept = ledger_.in_use();
    backward();
    TORCH_CHECK(ledger_.in_use() == 0, "the pass gives back ", ledger_.in_use(), " bytes too few");
    return {kept, ledger_.peak(), ledger_.peak_at(), logits};
  }

 private:
  int64_t up_width() const { return (config_.gated_mlp() ? 2 : 1) * config_.intermediate_size; }
  bool parallel() const { return config_.parallel_residual(); }
  /// The residual stream behind block l is a tensor of its own; a first block that adds nothing to
  /// its input hands it on.
  bool leaves_new_stream(int64_t l) const { return l > 0 || !parallel(); }
  int64_t matrix(int64_t rows, int64_t columns) const { return rows * columns * element_; }

  void forward() {
    ledger_.begin("the forward pass");
    ledger_.take(n_ * 8);   // ids, behind the sinks
    ledger_.take(hidden_);  // embedding
    const int64_t L = config_.num_hidden_layers;
    for (int64_t l = 0; l < L; ++l) {
      if (shape_.recompute) {
        if (leaves_new_stream(l)) ledger_.take(hidden_);
        ledger_.take(hidden_);  // delta
      } else {
        run_block(l);
        if (l > 0) ledger_.give(hidden_);  // the delta that came in
      }
    }
    take_norm(/*adds=*/true);
    ledger_.give(hidden_);  // the last delta; the norm keeps the sum
    if (shape_.recompute && leaves_new_stream(L - 1)) ledger_.give(hidden_);
  }

  void take_norm(bool adds) {
    if (adds) ledger_.take(hidden_);
    ledger_.take(hidden_);
    ledger_.take(statistics_);
  }

  void take_linear(int64_t output, int64_t out, int64_t in) {
    ledger_.take(output);
    multiply(n_, out, in);
  }

  /// Leaves in use what the block keeps, and its delta.
  void run_block(int64_t l) {
    const int64_t D = config_.hidden_size;
    take_norm(/*adds=*/l > 0);
    take_linear(qkv_, config_.qkv_size(), D);
    attend();
    take_linear(hidden_, D, config_.heads() * config_.head_size());  // attention's contribution
    if (config_.has_mlp_norm()) take_norm(/*adds=*/!parallel());
    take_linear(up_, up_width(), D);
    ledger_.take(activated_);
    take_linear(hidden_, D, config_.intermediate_size);  // the MLP's
    if (parallel()) {       // the sum is a third
      ledger_.take(hidden_);
      ledger_.give(hidden_);
    }
    ledger_.give(hidden_);
  }

  /// The plain version holds all scores: on a GPU that of fp32 and of ALiBi, on a CPU that of ALiBi
  /// that is not linear.
  bool plain_attention() const {
    return shape_.cuda ? config_.uses_alibi() || !shape_.bf16
                       : config_.uses_alibi() && !is_linear_alibi(config_);
  }
  int64_t scores() const { return n_ * positions_ * config_.heads() * 4; }
  int64_t lse() const { return n_ * config_.heads() * 4; }
  /// What attention keeps beside its input and its output.
  std::vector<int64_t> kept_by_attention() const {
    const bool folds_sink = config_.sink.in_denominator();
    if (plain_attention())  // q, k, v as the two products read them; softmax, cut where it had a
                            // sink
      return {heads_, heads_, heads_, scores(), folds_sink ? scores() : 0};
    if (shape_.cuda)  // rotated q and k
      return {lse(), n_ * (config_.heads() + config_.kv_heads()) * config_.head_size() * element_};
    return {lse()};
  }
  void attend() {
    for (const int64_t bytes : kept_by_attention()) ledger_.take(bytes);
    if (plain_attention()) ledger_.touch(2 * scores());
    ledger_.take(heads_);
  }
  void differentiate_attention() {
    ledger_.take(qkv_);
    if (plain_attention()) ledger_.touch(3 * scores());
    if (shape_.cuda && !plain_attention()) {  // dq, dk, dv for each query head; dq's sum in fp32
      ledger_.touch(3 * heads_ + n_ * config_.heads() * config_.head_size() * 4 + lse());
    }
    for (const int64_t bytes : kept_by_attention()) ledger_.give(bytes);
    ledger_.give(heads_);  // output
    ledger_.give(heads_);  // its gradient
    ledger_.give(qkv_);    // input
  }

  /// The gradients of a chunk are made while its logits exist; those of the head add up in fp32.
  /// Leaves both gradients; returns the size of the logits.
  int64_t loss() {
    ledger_.begin("the loss");
    const int64_t V = config_.vocab_size, D = config_.hidden_size,
                  rows = ops::loss_chunk_rows(N_, V, shape_.cuda),
                  columns = ops::logit_columns(V, shape_.cuda), logits = matrix(rows, columns);
    const bool copies = config_.sink.tokens() > 0 && shape_.micro_batch > 1;  // sinks cut off
    if (copies) ledger_.take(N_ * D * element_);
    ledger_.take(N_ * (8 + 4));       // targets, losses
    ledger_.take(N_ * D * element_);  // gradient of the hidden states
    if (columns > V) ledger_.take(matrix(columns, D));  // the head, filled up
    ledger_.take(logits);
    multiply(rows, V, D);
    multiply(rows, D, V);
    ledger_.take(matrix(V, D));  // gradient of the head, in the end
    multiply(V, D, rows);
    if (rows < N_ && shape_.bf16) {
      ledger_.take(V * D * 4);
      ledger_.give(V * D * 4);
    } else if (rows < N_) {
      ledger_.touch(matrix(V, D));
    }
    ledger_.give(logits);
    if (columns > V) ledger_.give(matrix(columns, D));
    ledger_.give(N_ * (8 + 4));
    if (copies) ledger_.give(N_ * D * element_);
    ledger_.give(hidden_);  // the final norm's output
    return block_bytes(logits, shape_.cuda);
  }

  void backward() {
    ledger_.begin("the backward pass of the loss");
    const int64_t V = config_.vocab_size, D = config_.hidden_size, L = config_.num_hidden_layers;
    if (shape_.cuda) ledger_.touch(N_ * D * element_ + matrix(V, D));  // both, scaled
    if (!config_.tie_word_embeddings) ledger_.give(matrix(V, D));
    ledger_.take(hidden_);  // with zeros for the sinks
    ledger_.give(N_ * D * element_);
    differentiate_norm(/*joins=*/false);
    ledger_.give(hidden_);  // the sum that the final norm kept
    ledger_.begin("the backward pass of a block");
    for (int64_t l = L - 1; l >= 0; --l) {
      if (shape_.recompute) {
        repeat_block(l);
      } else {
        differentiate_block(l);
      }
    }
    differentiate_embedding();
  }

  /// From one gradient, of the stream and of the delta alike, to another. A repeated block's are
  /// held by the pass around it, as is the stream behind the block.
  void differentiate_block(int64_t l) {
    const int64_t held_stream = shape_.recompute && leaves_new_stream(l) ? hidden_ : 0,
                  held_gradient = shape_.recompute ? hidden_ : 0;
    const int64_t D = config_.hidden_size, H_K = config_.heads() * config_.head_size();
    differentiate_linear(activated_, D, config_.intermediate_size);
    ledger_.give(activated_);
    ledger_.take(up_);
    ledger_.give(up_);
    ledger_.give(activated_);
    differentiate_linear(hidden_, up_width(), D);
    const bool two_norms = config_.has_mlp_norm();
    if (two_norms) ledger_.give(hidden_);
    ledger_.give(up_);
    if (two_norms) differentiate_norm(/*joins=*/!parallel());
    if (parallel()) {  // the incoming gradient is still wanted when the stream's is added up
      if (two_norms) {
        ledger_.take(hidden_);
        ledger_.give(hidden_);
      }
      differentiate_linear(heads_, D, H_K);
      if (two_norms) ledger_.give(hidden_);
      ledger_.take(held_gradient);
    } else {
      ledger_.take(held_gradient);
      ledger_.give(hidden_);  // the sum that the norm kept
      ledger_.take(held_stream);
      differentiate_linear(heads_, D, H_K);
    }
    differentiate_attention();
    differentiate_linear(hidden_, config_.qkv_size(), D);
    if (!two_norms) {  // the norm's gradient is the sum of attention's and the MLP's
      ledger_.take(hidden_);
      ledger_.give(hidden_);
      ledger_.give(hidden_);
    }
    ledger_.give(hidden_);
    ledger_.give(qkv_);
    differentiate_norm(/*joins=*/true);
    ledger_.give(hidden_);  // the sum, or the embedding
    if (parallel()) ledger_.take(held_stream);
  }

  /// The block again, and its backward pass, within the one of the whole. That one holds the
  /// block's inputs, outputs and their gradients to the end. Behind it the gradients of stream and
  /// delta are two tensors.
  void repeat_block(int64_t l) {
    const bool last = l + 1 == config_.num_hidden_layers;
    run_block(l);
    differentiate_block(l);
    if (l > 0) ledger_.take(hidden_);
    if (leaves_new_stream(l)) ledger_.give(hidden_);
    ledger_.give(hidden_);
    if (!last) ledger_.give(hidden_);
    ledger_.give(hidden_);             // the delta that left
    if (l > 0) ledger_.give(hidden_);  // the one that came in
    if (l > 0 && leaves_new_stream(l - 1)) ledger_.give(hidden_);
  }

  /// The gradients of input and weight are there together; then the weight's goes.
  void differentiate_linear(int64_t input, int64_t out, int64_t in) {
    ledger_.take(input);
    multiply(n_, in, out);
    ledger_.take(matrix(out, in));
    multiply(out, in, n_);
    ledger_.give(matrix(out, in));
  }
  /// What a product wants while it runs.
  void multiply(int64_t M, int64_t N, int64_t K) {
    if (shape_.bf16 && !shape_.cuda) ledger_.touch(ops::gemm_workspace_bytes(M, N, K));
  }

  /// One gradient for another; for two where the stream's joins here.
  void differentiate_norm(bool joins) {
    ledger_.take(hidden_);
    ledger_.give(hidden_);
    if (joins) ledger_.give(hidden_);
    ledger_.give(statistics_);
  }

  void differentiate_embedding() {
    ledger_.begin("the backward pass of the embedding");
    const int64_t V = config_.vocab_size, D = config_.hidden_size;
    ledger_.take(V * D * 4);
    if (shape_.bf16) {
      ledger_.take(matrix(V, D));
      ledger_.give(V * D * 4);
    }
    ledger_.give(hidden_);
    ledger_.give(n_ * 8);
    ledger_.give(matrix(V, D));
    if (config_.tie_word_embeddings) ledger_.give(matrix(V, D));  // the head's, which waited
  }

  const ModelConfig& config_;
  PassShape shape_;
  int64_t element_, positions_, n_, N_;
  int64_t hidden_, heads_, qkv_, up_, activated_, statistics_;
  Ledger ledger_;
};

}  // namespace

PassMemory pass_memory(const ModelConfig& config, const PassShape& shape) {
  return Pass(config, shape).run();
}

int64_t block_bytes(int64_t bytes, bool cuda) {
  constexpr int64_t kCudaBlock = 512;  // c10/cuda/CUDACachingAllocator.h: kMinBlockSize
  return cuda ? (bytes + kCudaBlock - 1) / kCudaBlock * kCudaBlock : cpu_block_bytes(bytes);
}

}  // namespace basin
