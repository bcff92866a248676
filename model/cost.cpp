// Counts from the list of tensors itself, so that a new tensor can never be forgotten here.
#include "model/cost.h"

#include "model/parameters.h"

namespace basin {
namespace {

double matrix_flops_per_token(const ModelConfig& config) {
  // The embedding is a lookup; as a tied head it is a matrix product all the same.
  int64_t matrix_parameters = 0;
  for (const ParameterShape& parameter : parameter_shapes(config)) {
    const bool lookup = parameter.name == "embedding.weight" && !config.tie_word_embeddings;
    if (parameter.decay && !lookup) matrix_parameters += parameter.elements();
  }
  return 6.0 * static_cast<double>(matrix_parameters);
}

double attention_width(const ModelConfig& config) {  // of all layers
  return static_cast<double>(config.num_hidden_layers * config.heads() * config.head_size());
}

}  // namespace

int64_t count_parameters(const ModelConfig& config) {
  int64_t count = 0;
  for (const ParameterShape& parameter : parameter_shapes(config)) count += parameter.elements();
  return count;
}

ParameterParts count_parameter_parts(const ModelConfig& config) {
  ParameterParts parts;
  for (const ParameterShape& parameter : parameter_shapes(config)) {
    const auto is = [&](const char* part) { return parameter.name.find(part) != std::string::npos; };
    int64_t& part = is("embedding") ? parts.embedding
                    : is("head")    ? parts.head
                    : is("norm")    ? parts.norms
                    : is(".up.") || is(".down.") ? parts.mlp
                                                 : parts.attention;
    part += parameter.elements();
  }
  return parts;
}

double train_flops_per_token(const ModelConfig& config, int64_t sequence_length) {
  return matrix_flops_per_token(config) +
         6.0 * attention_width(config) * static_cast<double>(sequence_length + 1);
}

double palm_flops_per_token(const ModelConfig& config, int64_t sequence_length) {
  return matrix_flops_per_token(config) +
         12.0 * attention_width(config) * static_cast<double>(sequence_length);
}

double recomputed_flops_per_token(const ModelConfig& config, int64_t sequence_length) {
  const double all = train_flops_per_token(config, sequence_length),
               head = 6.0 * static_cast<double>(config.vocab_size * config.hidden_size);
  return all + (all - head) / 3;
}

}  // namespace basin
