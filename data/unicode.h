// Characters of Unicode as the `tokenizers` package sees them. Its parts follow different versions
// of Unicode, so where a character's class decides how text is cut, the package's answer counts,
// not the newest table's. Checked over all code points against tokenizers 0.23.
#pragma once

#include <string>
#include <string_view>

namespace basin {

/// The character at `text[i]`; moves `i` behind it. Invalid bytes count as one character each.
char32_t next_character(std::string_view text, size_t& i);
/// U+0000..U+10FFFF as UTF-8.
void append_character(std::string& text, char32_t c);

bool is_numeric(char32_t c);         // Nd, Nl, No: what `Digits` splits at
bool is_punctuation(char32_t c);     // what `Punctuation` splits at
bool is_whitespace(char32_t c);      // White_Space: \s of added tokens
bool is_word_character(char32_t c);  // \w of added tokens

/// Normalization Form C. Linear in the text, however many combining marks stand in a row.
std::string to_nfc(std::string_view text);

/// Letters and numbers (\p{L}, \p{N}) that Oniguruma 6.9.8 does not know yet and the package's
/// does, as ranges of a character class: "\x{1C89}-\x{1C8A}...".
extern const char* const kNewerLetters;
extern const char* const kNewerNumbers;

}  // namespace basin
