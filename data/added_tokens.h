// Tokens of a tokenizer.json that are cut out of a text before anything else looks at it: special
// ones ("<|endoftext|>") and ordinary ones (GPT-NeoX's runs of spaces).
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "data/json_place.h"
#include "data/text_normalizer.h"

namespace basin {

struct AddedToken {
  std::string content;
  std::string pattern;  // what is looked for, and what decoding sees: normalised where `normalized`
  int32_t id = -1;
  bool single_word = false;  // not inside of a word
  bool lstrip = false;       // takes the white space in front along
  bool rstrip = false;       // and behind
  bool normalized = false;   // looked for in the normalised text
  bool special = false;      // decodes to nothing
};

/// Finds tokens, the leftmost and of those the longest. At each place it takes time in proportion
/// to the longest token at most.
class TokenFinder {
 public:
  /// `tokens` must outlive the finder. Throws std::invalid_argument for two with the same pattern.
  void add(const AddedToken& token);

  /// Calls found(begin, end, token) for stretches of `text` from left to right, together all of it;
  /// token is null for what lies between tokens.
  template <class Found>
  void cut(std::string_view text, Found&& found) const {
    size_t done = 0;
    for (size_t i = 0; i < text.size() && !nodes_.empty();) {
      const AddedToken* const token = longest_at(text, i);
      if (token == nullptr) {
        ++i;
        continue;
      }
      size_t begin = i, end = i + token->pattern.size();
      i = end;
      if (token->single_word && touches_word(text, begin, end)) {
        continue;
      }
      widen(*token, text, done, begin, end);
      if (done < begin) {
        found(done, begin, static_cast<const AddedToken*>(nullptr));
      }
      found(begin, end, token);
      done = end;
    }
    if (done < text.size()) {
      found(done, text.size(), static_cast<const AddedToken*>(nullptr));
    }
  }

 private:
  struct Node {
    std::map<char, int32_t> next;
    const AddedToken* token = nullptr;
  };
  const AddedToken* longest_at(std::string_view text, size_t i) const;
  static bool touches_word(std::string_view text, size_t begin, size_t end);
  static void widen(
      const AddedToken& token, std::string_view text, size_t done, size_t& begin, size_t& end);

  std::vector<Node> nodes_;  // a trie; the first is its root
  bool begins_[256] = {};    // with this byte
};

}  // namespace basin
