// The order of things (first match, then whole words, then stripping, which the next match does not
// know of) is that of the `tokenizers` package's AddedVocabulary::find_matches.
#include "data/added_tokens.h"

#include <fmt/format.h>

#include <algorithm>
#include <stdexcept>

#include "data/unicode.h"

namespace basin {
namespace {

/// Begin of the character that ends at `end`.
size_t character_before(std::string_view text, size_t end) {
  size_t begin = end - 1;
  while (begin > 0 && (text[begin] & 0xC0) == 0x80) {
    --begin;
  }
  return begin;
}

char32_t character_at(std::string_view text, size_t i) {
  return next_character(text, i);
}

}  // namespace

void TokenFinder::add(const AddedToken& token) {
  if (nodes_.empty()) {
    nodes_.emplace_back();
  }
  size_t at = 0;
  for (const char byte : token.pattern) {
    const auto [edge, is_new] =
        nodes_[at].next.try_emplace(byte, static_cast<int32_t>(nodes_.size()));
    at = static_cast<size_t>(edge->second);
    if (is_new) {
      nodes_.emplace_back();
    }
  }
  if (nodes_[at].token != nullptr) {
    throw std::invalid_argument(
        fmt::format("looks the same in a text as \"{}\"", nodes_[at].token->content));
  }
  nodes_[at].token = &token;
  begins_[static_cast<unsigned char>(token.pattern[0])] = true;
}

const AddedToken* TokenFinder::longest_at(std::string_view text, size_t i) const {
  const AddedToken* longest = nullptr;
  if (!begins_[static_cast<unsigned char>(text[i])]) {
    return longest;
  }
  for (size_t at = 0; i < text.size(); ++i) {
    const auto edge = nodes_[at].next.find(text[i]);
    if (edge == nodes_[at].next.end()) {
      break;
    }
    at = static_cast<size_t>(edge->second);
    longest = nodes_[at].token != nullptr ? nodes_[at].token : longest;
  }
  return longest;
}

bool TokenFinder::touches_word(std::string_view text, size_t begin, size_t end) {
  return (begin > 0 && is_word_character(character_at(text, character_before(text, begin)))) ||
         (end < text.size() && is_word_character(character_at(text, end)));
}

void TokenFinder::widen(
    const AddedToken& token, std::string_view text, size_t done, size_t& begin, size_t& end) {
  if (token.lstrip) {
    size_t left = begin;
    while (left > done) {
      const size_t before = character_before(text, left);
      if (!is_whitespace(character_at(text, before))) {
        break;
      }
      left = before;
    }
    begin = std::max(left, done);
  }
  while (token.rstrip && end < text.size()) {
    size_t next = end;
    if (!is_whitespace(next_character(text, next))) {
      break;
    }
    end = next;
  }
}

}  // namespace basin
