#include "model/families/config_file.h"

#include <fmt/core.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <iterator>
#include <type_traits>

#include "model/families/families.h"

namespace basin {
namespace {

constexpr std::string_view kBasinPrefix = "basin_";

// Their positions are rows of a table that was learned up to some length.
constexpr std::string_view kLearnedPositions[] = {
    "gpt2", "opt", "gpt_neo", "gpt_bigcode", "openai-gpt", "biogpt", "ctrl", "xglm"};

template <class List>
bool holds(const List& list, std::string_view value) {
  return std::find(std::begin(list), std::end(list), value) != std::end(list);
}

struct ModelTypeKey {
  ModelType type;
  bool foreign;  // other software reads the same file
};

ModelTypeKey read_model_type(const ConfigJson& json) {
  std::string type = json.text("model_type");
  if (holds(kLearnedPositions, type))
    json.refuse("model_type",
                fmt::format("\"{}\" has learned absolute positions, which cannot stream", type));
  const bool foreign = !type.starts_with(kBasinPrefix);
  if (!foreign) type = type.substr(kBasinPrefix.size());
  const auto known = enum_value<ModelType>(type);
  if (!known)
    json.refuse("model_type",
                fmt::format("\"{}\" is not supported; supported: {}",
                            json.text("model_type"),
                            fmt::join(kEnumNames<ModelType>, ", ")));
  return {*known, foreign};
}

int64_t read_integer(const ConfigJson& json, const ConfigKey& key) {
  return key.older != nullptr && !json.has(key.name) && json.has(key.older)
             ? json.integer(key.older)
             : json.integer(key.name);
}

SinkConfig read_sink(const ConfigJson& json) {
  SinkConfig sink;
  sink.kind = SinkKind::kNone;
  if (!json.has("sink")) return sink;
  const ConfigJson keys = json.object("sink");
  const std::string kind = keys.text("kind");
  const auto known = enum_value<SinkKind>(kind);
  if (!known)
    keys.refuse("kind",
                fmt::format("\"{}\" is none of {}", kind, fmt::join(kEnumNames<SinkKind>, ", ")));
  sink.kind = *known;
  if (sink.kind != SinkKind::kToken) return sink;
  sink.count = keys.integer("count");
  SinkConfig named = sink;
  named.token_ids = keys.integers("token_ids");
  if (const auto problems = named.problems(); !problems.empty())
    json.refuse("sink", problems.front());
  return named.ids() == sink.ids() ? sink : named;
}

/// Ranges of single keys, as declared in the struct; a file from elsewhere passed no other check.
template <class Struct>
std::vector<std::string> range_problems(const Struct& config) {
  std::vector<std::string> found;
  Struct::visit_fields(
      config, [&]<class Value>(std::string_view key, const Value& value, const Field& field) {
        if constexpr (std::is_arithmetic_v<Value>) {
          const auto number = static_cast<double>(value);
          if (!(number >= field.min && number <= field.max))
            found.push_back(
                fmt::format("{} {} is not between {} and {}", key, value, field.min, field.max));
        }
      });
  return found;
}

std::vector<std::string> all_problems(const ModelConfig& config) {
  std::vector<std::string> found = range_problems(config);
  if (found.empty()) found = range_problems(config.rope_scaling);
  if (found.empty()) found = config.rope_scaling.problems();
  return found.empty() ? config.problems() : found;
}

/// Explicit values that say what the default says become the default, so that equal models have
/// equal configurations.
void drop_redundant(ModelConfig& config) {
  if (config.num_key_value_heads == config.num_attention_heads) config.num_key_value_heads = 0;
  if (config.num_attention_heads > 0 &&
      config.head_dim == config.hidden_size / config.num_attention_heads)
    config.head_dim = 0;
}

}  // namespace

ModelConfig config_from_json(const ConfigJson& json) {
  const ModelTypeKey type = read_model_type(json);
  if (json.has("quantization_config"))
    json.refuse("quantization_config", "quantized checkpoints are not supported");
  const Family& family = family_of(type.type);
  const ConfigKeys& keys = family.keys;
  ModelConfig config;
  config.model_type = type.type;
  config.vocab_size = json.integer("vocab_size");
  config.hidden_size = read_integer(json, keys.hidden_size);
  config.num_hidden_layers = read_integer(json, keys.num_hidden_layers);
  config.num_attention_heads = read_integer(json, keys.num_attention_heads);
  if (keys.intermediate_size.name != nullptr)
    config.intermediate_size = read_integer(json, keys.intermediate_size);
  config.tie_word_embeddings = json.boolean("tie_word_embeddings", keys.tied);
  config.initializer_range = json.number("initializer_range", 0.02);
  config.sink = read_sink(json);
  if (std::vector<std::string> problems = range_problems(config); !problems.empty())
    json.refuse(problems.front().substr(0, problems.front().find(' ')), problems.front());
  family.read_config(json, config);
  if (type.foreign && !config.uses_alibi() && config.partial_rotary_factor != 1.0 &&
      config.model_type != ModelType::kGptNeox)
    json.refuse("partial_rotary_factor",
                fmt::format("a {0} rotates whole heads everywhere else; with this key its "
                            "model_type must be \"basin_{0}\"",
                            enum_name(config.model_type)));
  drop_redundant(config);
  if (config.vocab_size < 1) json.refuse("vocab_size", "must be positive");
  if (const std::vector<std::string> problems = all_problems(config); !problems.empty())
    json.refuse(problems.front().substr(0, problems.front().find_first_of(" :")),
                fmt::format("{}", fmt::join(problems, "; ")));
  return config;
}

int64_t max_positions_from_json(const ConfigJson& json) {
  return json.integer(family_of(read_model_type(json).type).keys.max_position_embeddings, 0);
}

}  // namespace basin
