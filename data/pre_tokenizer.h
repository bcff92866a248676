// The `pre_tokenizer` of a tokenizer.json: cuts a text into words, which the model then encodes one
// by one. Words are handed on as they are found, so memory does not grow with their number.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "data/json_place.h"
#include "data/text_pattern.h"

namespace basin {

/// What becomes of the matches of a pattern that cuts (SplitDelimiterBehavior of the `tokenizers`
/// package).
enum class SplitBehavior { kRemoved, kIsolated, kMergedWithPrevious, kMergedWithNext, kContiguous };

class PreTokenizer {
 public:
  using Word = std::function<void(std::string_view)>;

  /// A null takes every text as one word. Throws std::runtime_error naming what is not supported.
  static PreTokenizer parse(const JsonPlace& place);

  /// Calls `word` for each word of `text`, none of them empty. `at_start`: the text begins where
  /// the whole text does, where some put a space in front.
  void cut(std::string_view text, bool at_start, const Word& word) const;

  /// The words are the bytes of the text, and the model's vocabulary spells them in GPT-2's
  /// alphabet (byte_alphabet.h): ByteLevel came last. Else they are text as the vocabulary has it.
  bool gives_bytes() const { return gives_bytes_; }

 private:
  struct Split {
    TextPattern pattern;
    SplitBehavior behavior;
    bool invert;
  };
  struct Classes {  // cuts at characters of a class
    bool (*contains)(char32_t);
    SplitBehavior behavior;
  };
  struct ByteLevel {
    bool add_prefix_space, use_regex;
    TextPattern words;
  };
  struct Metaspace {
    std::string replacement;
    bool prepend_always, prepend_first, split;
  };
  using Stage = std::variant<Split, Classes, ByteLevel, Metaspace>;
  class Cutting;

  void add(const JsonPlace& place);

  std::vector<Stage> stages_;
  bool gives_bytes_ = false;
};

}  // namespace basin
