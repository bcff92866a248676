// The `normalizer` of a tokenizer.json: NFC, Prepend, Replace, and sequences of them.
#pragma once

#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "data/json_place.h"
#include "data/text_pattern.h"

namespace basin {

class TextNormalizer {
 public:
  /// A null leaves texts as they are. Throws std::runtime_error naming what is not supported.
  static TextNormalizer parse(const JsonPlace& place);

  /// The normalised text: `text` itself where nothing changes, else `storage`.
  std::string_view apply(std::string_view text, std::string& storage) const;

 private:
  struct Nfc {};
  struct Prepend {
    std::string text;
  };
  struct Replace {
    TextPattern pattern;
    std::string content;
  };
  void add(const JsonPlace& place);

  std::vector<std::variant<Nfc, Prepend, Replace>> steps_;
};

/// `text` with every match replaced by `content`.
std::string replace_matches(std::string_view text,
                            const TextPattern& pattern,
                            std::string_view content);

}  // namespace basin
