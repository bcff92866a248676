// What no single key of a model's configuration can say.
#include "model/config.h"

#include <fmt/core.h>

namespace basin {
namespace {

// As Hugging Face computes it, from which `rotary_size` takes the even part.
int64_t requested_rotary_size(const ModelConfig& config) {
  return static_cast<int64_t>(static_cast<double>(config.head_size()) *
                              config.partial_rotary_factor);
}

void check_heads(const ModelConfig& c, std::vector<std::string>& found) {
  const auto add = [&](std::string line) { found.push_back(std::move(line)); };
  if (c.hidden_size % c.num_attention_heads != 0)
    add(fmt::format("num_attention_heads {} does not divide hidden_size {}",
                    c.num_attention_heads,
                    c.hidden_size));
  if (c.num_attention_heads % c.kv_heads() != 0)
    add(fmt::format("num_key_value_heads {} does not divide num_attention_heads {}",
                    c.kv_heads(),
                    c.num_attention_heads));
  if (!c.is_llama()) {
    if (c.kv_heads() != c.num_attention_heads)
      add(
          fmt::format("num_key_value_heads {}: gpt_neox has one key and value head for each of its "
                      "{} query heads; leave it at 0",
                      c.kv_heads(),
                      c.num_attention_heads));
    if (c.head_size() != c.hidden_size / c.num_attention_heads)
      add(fmt::format(
          "head_dim {}: gpt_neox takes hidden_size / num_attention_heads, {}; leave it at 0",
          c.head_dim,
          c.hidden_size / c.num_attention_heads));
  }
  if (requested_rotary_size(c) % 2 != 0)
    add(
        fmt::format("partial_rotary_factor {} rotates {} of {} dimensions of a head: rotary "
                    "dimensions come in pairs, change it or the head's size",
                    c.partial_rotary_factor,
                    requested_rotary_size(c),
                    c.head_size()));
}

}  // namespace

int64_t ModelConfig::rotary_size() const {
  return requested_rotary_size(*this) / 2 * 2;
}

std::vector<std::string> ModelConfig::problems() const {
  std::vector<std::string> found;
  if (hidden_size < 1 || num_attention_heads < 1)
    found.push_back(fmt::format("hidden_size {} and num_attention_heads {} must be positive",
                                hidden_size,
                                num_attention_heads));
  else
    check_heads(*this, found);
  if (vocab_size > 0)
    for (const int64_t id : sink.ids())
      if (id >= vocab_size)
        found.push_back(
            fmt::format("sink token id {} lies outside the vocabulary of {}: set sink.token_ids to "
                        "rows that it has",
                        id,
                        vocab_size));
  return found;
}

}  // namespace basin
