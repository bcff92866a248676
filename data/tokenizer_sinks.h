// Sink tokens for a tokenizer that came without: its files change so that other software puts them
// in front of a text. The ids of the text itself stay what they were.
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string_view>

namespace basin {

class Tokenizer;

/// Whether a tokenizer's files can have this name.
bool is_tokenizer_file(std::string_view name);

/// The files that make up a tokenizer (tokenizer.model, tokenizer.json, tokenizer_config.json, a
/// chat template, ...), those of them that `from` has. Durable.
void copy_tokenizer_files(const std::filesystem::path& from, const std::filesystem::path& to);

/// The id of the next token that is added to `tokenizer`, which `directory` holds.
int64_t next_piece_id(const std::filesystem::path& directory, const Tokenizer& tokenizer);

/// Rewrites tokenizer.json (made from tokenizer.model where there is none), tokenizer_config.json
/// and special_tokens_map.json of `directory`. `ids` are pieces, or follow the last one, in order:
/// these become special tokens called <sink>, <sink1>, ... Throws std::runtime_error naming the
/// file for what is no tokenizer.
void prepend_sinks(const std::filesystem::path& directory,
                   std::span<const int64_t> ids,
                   int64_t model_max_length);

}  // namespace basin
