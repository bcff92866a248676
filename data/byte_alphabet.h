// GPT-2's alphabet: each byte has one printable character, so that any bytes can be written as the
// text of a piece ("Ġ" for a space). Bytes that are printable in Latin-1 stand for themselves, the
// others for U+0100 onwards.
#pragma once

#include <array>
#include <optional>
#include <string>
#include <string_view>

namespace basin {

/// The character of each byte, as UTF-8.
const std::array<std::string, 256>& byte_characters();

/// Each byte of `text` as its character.
std::string to_byte_characters(std::string_view text);

/// The bytes that `text` spells; nothing when a character is outside of the alphabet.
std::optional<std::string> from_byte_characters(std::string_view text);

}  // namespace basin
