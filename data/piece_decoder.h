// The `decoder` of a tokenizer.json: from pieces back to text. All kinds in use here decode piece
// by piece, except for what a few do at the very beginning of a text.
#pragma once

#include <span>
#include <string>
#include <variant>
#include <vector>

#include "data/json_place.h"
#include "data/text_pattern.h"

namespace basin {

class PieceDecoder {
 public:
  /// Throws std::runtime_error naming what is not supported.
  static PieceDecoder parse(const JsonPlace& place);

  struct Decoded {
    std::string bytes;     // of the text that a piece stands for
    std::string first;     // the same for the first piece of a text
    bool is_byte = false;  // by a spelling such as "<0x41>"
  };
  Decoded decode(const std::string& token) const;

  /// A whole text from its pieces: without the space that its beginning was given when it was
  /// encoded, and with U+FFFD for bytes that are no UTF-8, as many as the `tokenizers` package
  /// puts.
  std::string join(std::span<const Decoded* const> pieces) const;

 private:
  struct Replace {
    TextPattern pattern;
    std::string content;
  };
  struct ByteLevel {};
  enum class State { kPieces, kBytes, kText };

  std::string text_of(std::string token) const;
  void add(const JsonPlace& place, State& state);
  void require(const JsonPlace& place, bool fits) const;

  std::vector<std::variant<Replace, ByteLevel>> steps_;
  bool byte_fallback_ = false;
  size_t stripped_ = 0;      // up to so many of ...
  std::string strip_;        // ... this character are taken off the front of a text
  std::string first_loses_;  // this text, everywhere in the first piece (Metaspace)
};

}  // namespace basin
