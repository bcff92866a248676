// Bytes to whole characters, for text that arrives piece by piece.
#pragma once

#include <string>
#include <string_view>

namespace basin {

class Utf8Stream {
 public:
  /// Takes bytes, returns the characters that are complete now. Invalid bytes become U+FFFD.
  std::string push(std::string_view bytes);
  /// What is left when nothing more comes: empty, or one U+FFFD for a character that was never
  /// completed.
  std::string finish();

 private:
  std::string pending_;  // the start of one character
};

}  // namespace basin
