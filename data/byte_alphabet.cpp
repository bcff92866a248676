#include "data/byte_alphabet.h"

#include "data/unicode.h"

namespace basin {
namespace {

constexpr char32_t kEnd = 0x144;  // of the characters in use

bool stands_for_itself(int byte) {
  return (byte >= '!' && byte <= '~') || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
}

/// byte -> character
std::array<char32_t, 256> make_alphabet() {
  std::array<char32_t, 256> characters;
  char32_t next = 0x100;
  for (int byte = 0; byte < 256; ++byte) {
    characters[byte] = stands_for_itself(byte) ? static_cast<char32_t>(byte) : next++;
  }
  return characters;
}

/// character -> byte, or -1
std::array<int, kEnd> make_inverse() {
  std::array<int, kEnd> bytes;
  bytes.fill(-1);
  const std::array<char32_t, 256> alphabet = make_alphabet();
  for (int byte = 0; byte < 256; ++byte) {
    bytes[alphabet[byte]] = byte;
  }
  return bytes;
}

}  // namespace

const std::array<std::string, 256>& byte_characters() {
  static const auto kCharacters = [] {
    std::array<std::string, 256> characters;
    const std::array<char32_t, 256> alphabet = make_alphabet();
    for (size_t byte = 0; byte < 256; ++byte) {
      append_character(characters[byte], alphabet[byte]);
    }
    return characters;
  }();
  return kCharacters;
}

std::string to_byte_characters(std::string_view text) {
  std::string mapped;
  mapped.reserve(2 * text.size());
  for (const char byte : text) {
    mapped += byte_characters()[static_cast<unsigned char>(byte)];
  }
  return mapped;
}

std::optional<std::string> from_byte_characters(std::string_view text) {
  static const std::array<int, kEnd> kBytes = make_inverse();
  std::string bytes;
  for (size_t i = 0; i < text.size();) {
    const char32_t c = next_character(text, i);
    if (c >= kEnd || kBytes[c] < 0) {
      return std::nullopt;
    }
    bytes += static_cast<char>(kBytes[c]);
  }
  return bytes;
}

}  // namespace basin
