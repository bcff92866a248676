#include <cstdint>
#include <cstring>
#include <string>

#include "data/tokenizer.h"

namespace basin {
namespace {

/// Length of the valid sequence at the front of `text`, or minus the length of the invalid one that
/// one U+FFFD replaces (the "maximal subpart" of Unicode 15, section 3.9, table 3-7).
int sequence_length(std::string_view text) {
  const auto byte = [&](size_t i) -> unsigned {
    return i < text.size() ? static_cast<unsigned char>(text[i]) : 0;
  };
  const unsigned lead = byte(0);
  if (lead < 0x80) {
    return 1;
  }
  const int length = lead >= 0xC2 && lead <= 0xDF   ? 2
                     : (lead & 0xF0) == 0xE0        ? 3
                     : lead >= 0xF0 && lead <= 0xF4 ? 4
                                                    : 0;
  if (length == 0) {
    return -1;
  }
  // Overlong forms, surrogates and values beyond U+10FFFF are excluded by the range of the second
  // byte.
  const unsigned low = lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80;
  const unsigned high = lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
  if (byte(1) < low || byte(1) > high) {
    return -1;
  }
  for (int i = 2; i < length; ++i) {
    if ((byte(i) & 0xC0) != 0x80) {
      return -i;
    }
  }
  return length;
}

/// Position of the first invalid sequence at or after `i`, or the size.
size_t find_invalid(std::string_view text, size_t i) {
  while (i < text.size()) {
    uint64_t eight;
    if (i + sizeof(eight) <= text.size() &&
        (std::memcpy(&eight, text.data() + i, sizeof(eight)), (eight & 0x8080808080808080) == 0)) {
      i += sizeof(eight);
      continue;
    }
    const int length = sequence_length(text.substr(i));
    if (length < 0) {
      return i;
    }
    i += length;
  }
  return i;
}

}  // namespace

int64_t sanitize_utf8(std::string& text) {
  size_t invalid = find_invalid(text, 0);
  if (invalid == text.size()) {
    return 0;
  }
  std::string clean;
  clean.reserve(text.size() + 64);
  int64_t replaced = 0;
  for (size_t from = 0;; invalid = find_invalid(text, from)) {
    clean.append(text, from, invalid - from);
    if (invalid == text.size()) {
      break;
    }
    clean += "\xEF\xBF\xBD";
    ++replaced;
    from = invalid - sequence_length(std::string_view(text).substr(invalid));
  }
  text = std::move(clean);
  return replaced;
}

}  // namespace basin
