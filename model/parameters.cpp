// Names and shapes follow model/transformer.h: qkv rows are all q, all k, all v; the `up`
// of a gated MLP holds the gate's rows first.
#include "model/parameters.h"

#include <functional>
#include <numeric>
#include <utility>

namespace basin {
namespace {

class ShapeList {
 public:
  void add(std::string name, std::vector<int64_t> shape) {
    const bool decay = shape.size() >= 2;
    shapes_.push_back({std::move(name), std::move(shape), decay});
  }
  void add_norm(const std::string& name, int64_t size, bool bias) {
    add(name + ".weight", {size});
    if (bias) add(name + ".bias", {size});
  }
  void add_linear(const std::string& name, int64_t out, int64_t in, bool bias) {
    add(name + ".weight", {out, in});
    if (bias) add(name + ".bias", {out});
  }
  std::vector<ParameterShape> take() { return std::move(shapes_); }

 private:
  std::vector<ParameterShape> shapes_;
};

}  // namespace

int64_t ParameterShape::elements() const {
  return std::accumulate(shape.begin(), shape.end(), int64_t{1}, std::multiplies<>());
}

std::vector<ParameterShape> parameter_shapes(const ModelConfig& config) {
  const int64_t D = config.hidden_size, F = config.intermediate_size;
  const bool norm_bias = config.norm_bias();
  ShapeList list;
  list.add("embedding.weight", {config.vocab_size, D});
  for (int64_t n = 0; n < config.num_hidden_layers; ++n) {
    const std::string layer = "layers." + std::to_string(n) + ".";
    list.add_norm(layer + "attention_norm", D, norm_bias);
    list.add_linear(layer + "qkv", config.qkv_size(), D, config.qkv_bias());
    list.add_linear(layer + "attention_out",
                    D,
                    config.heads() * config.head_size(),
                    config.attention_out_bias());
    if (config.has_mlp_norm()) list.add_norm(layer + "mlp_norm", D, norm_bias);
    list.add_linear(layer + "up", config.gated_mlp() ? 2 * F : F, D, config.mlp_bias());
    list.add_linear(layer + "down", D, F, config.mlp_bias());
    if (config.sink.kind == SinkKind::kLogit) list.add(layer + "sink_logit", {config.heads()});
  }
  list.add_norm("final_norm", D, norm_bias);
  if (!config.tie_word_embeddings) list.add("head.weight", {config.vocab_size, D});
  return list.take();
}

int64_t aligned_elements(int64_t n) {
  constexpr int64_t kAlignment = 64;  // a cache line at least, whatever the dtype
  return (n + kAlignment - 1) / kAlignment * kAlignment;
}

int64_t flat_elements(const ModelConfig& config) {
  int64_t total = 0;
  for (const ParameterShape& p : parameter_shapes(config)) total += aligned_elements(p.elements());
  return total;
}

}  // namespace basin
