#include "data/unicode.h"

#include <utf8proc.h>

#include <algorithm>
#include <iterator>
#include <vector>

namespace basin {

const char* const kNewerLetters =
    "\\x{1C89}-\\x{1C8A}\\x{A7CB}-\\x{A7CD}\\x{A7DA}-\\x{A7DC}\\x{105C0}-\\x{105F3}"
    "\\x{10D4A}-\\x{10D65}\\x{10D6F}-\\x{10D85}\\x{10EC2}-\\x{10EC4}\\x{1123F}-\\x{11240}"
    "\\x{11380}-\\x{11389}\\x{1138B}-\\x{1138B}\\x{1138E}-\\x{1138E}\\x{11390}-\\x{113B5}"
    "\\x{113B7}-\\x{113B7}\\x{113D1}-\\x{113D1}\\x{113D3}-\\x{113D3}\\x{11BC0}-\\x{11BE0}"
    "\\x{11F02}-\\x{11F02}\\x{11F04}-\\x{11F10}\\x{11F12}-\\x{11F33}\\x{1342F}-\\x{1342F}"
    "\\x{13441}-\\x{13446}\\x{13460}-\\x{143FA}\\x{16100}-\\x{1611D}\\x{16D40}-\\x{16D6C}"
    "\\x{18CFF}-\\x{18CFF}\\x{1B132}-\\x{1B132}\\x{1B155}-\\x{1B155}\\x{1DF25}-\\x{1DF2A}"
    "\\x{1E030}-\\x{1E06D}\\x{1E4D0}-\\x{1E4EB}\\x{1E5D0}-\\x{1E5ED}\\x{1E5F0}-\\x{1E5F0}"
    "\\x{2B739}-\\x{2B739}\\x{2EBF0}-\\x{2EE5D}\\x{31350}-\\x{323AF}";
const char* const kNewerNumbers =
    "\\x{10D40}-\\x{10D49}\\x{116D0}-\\x{116E3}\\x{11BF0}-\\x{11BF9}\\x{11F50}-\\x{11F59}"
    "\\x{16130}-\\x{16139}\\x{16D70}-\\x{16D79}\\x{1CCF0}-\\x{1CCF9}\\x{1D2C0}-\\x{1D2D3}"
    "\\x{1E4F0}-\\x{1E4F9}\\x{1E5F1}-\\x{1E5FA}";

namespace {

struct Range {
  char32_t first, last;
};

// Numbers since Unicode 15, which utf8proc 2.8 does not know.
constexpr Range kNumbers[] = {{0x10D40, 0x10D49},
                              {0x116D0, 0x116E3},
                              {0x11BF0, 0x11BF9},
                              {0x11DE0, 0x11DE9},
                              {0x16130, 0x16139},
                              {0x16D70, 0x16D79},
                              {0x16FF4, 0x16FF6},
                              {0x1CCF0, 0x1CCF9},
                              {0x1E5F1, 0x1E5FA}};
// Punctuation since Unicode 8, which the package does not count as such, and what is none any more.
constexpr Range kNoPunctuation[] = {
    {0x61D, 0x61D},     {0x9FD, 0x9FD},     {0xA76, 0xA76},     {0xC77, 0xC77},
    {0xC84, 0xC84},     {0x1B7D, 0x1B7E},   {0x2E43, 0x2E4F},   {0x2E52, 0x2E5D},
    {0x10EAD, 0x10EAD}, {0x10F55, 0x10F59}, {0x10F86, 0x10F89}, {0x1144B, 0x1144F},
    {0x1145A, 0x1145B}, {0x1145D, 0x1145D}, {0x11660, 0x1166C}, {0x116B9, 0x116B9},
    {0x1183B, 0x1183B}, {0x11944, 0x11946}, {0x119E2, 0x119E2}, {0x11A3F, 0x11A46},
    {0x11A9A, 0x11A9C}, {0x11A9E, 0x11AA2}, {0x11B00, 0x11B09}, {0x11C41, 0x11C45},
    {0x11C70, 0x11C71}, {0x11EF7, 0x11EF8}, {0x11F43, 0x11F4F}, {0x11FFF, 0x11FFF},
    {0x12FF1, 0x12FF2}, {0x16E97, 0x16E9A}, {0x16FE2, 0x16FE2}, {0x1E95E, 0x1E95F}};
constexpr Range kPunctuation[] = {{0x166D, 0x166D}, {0x111C9, 0x111C9}};
// Combining marks since Unicode 9, which the package's normalisation does not move.
constexpr Range kUnmoved[] = {
    {0x7FD, 0x7FD},     {0x898, 0x89F},     {0x8CA, 0x8D3},     {0x9FE, 0x9FE},
    {0xC3C, 0xC3C},     {0xD3B, 0xD3C},     {0xEBA, 0xEBA},     {0x1715, 0x1715},
    {0x1ABF, 0x1ACE},   {0x1DF6, 0x1DFA},   {0xA82C, 0xA82C},   {0x10D24, 0x10D27},
    {0x10EAB, 0x10EAC}, {0x10EFD, 0x10EFF}, {0x10F46, 0x10F50}, {0x10F82, 0x10F85},
    {0x11070, 0x11070}, {0x1133B, 0x1133B}, {0x1145E, 0x1145E}, {0x11839, 0x1183A},
    {0x1193D, 0x1193E}, {0x11943, 0x11943}, {0x119E0, 0x119E0}, {0x11A34, 0x11A34},
    {0x11A47, 0x11A47}, {0x11A99, 0x11A99}, {0x11D42, 0x11D42}, {0x11D44, 0x11D45},
    {0x11D97, 0x11D97}, {0x11F41, 0x11F42}, {0x16FF0, 0x16FF1}, {0x1E08F, 0x1E08F},
    {0x1E130, 0x1E136}, {0x1E2AE, 0x1E2AE}, {0x1E2EC, 0x1E2EF}, {0x1E4EC, 0x1E4EF}};
constexpr char32_t kUndecomposed = 0x11938, kUncomposed = 0x11930;  // the same, composed since 13

template <size_t kSize>
bool lies_in(char32_t c, const Range (&ranges)[kSize]) {
  const Range* found =
      std::lower_bound(std::begin(ranges), std::end(ranges), c, [](const Range& r, char32_t x) {
        return r.last < x;
      });
  return found != std::end(ranges) && found->first <= c;
}

utf8proc_category_t category(char32_t c) {
  return utf8proc_category(static_cast<utf8proc_int32_t>(c));
}

int combining_class(char32_t c) {
  if (c < 0x300) {
    return 0;
  }
  const int value = utf8proc_get_property(static_cast<utf8proc_int32_t>(c))->combining_class;
  return value != 0 && lies_in(c, kUnmoved) ? 0 : value;
}

/// False: the character stays as it is in NFC and takes in nothing before it.
bool may_change(char32_t c) {
  if (c < 0x300) {
    return false;
  }
  const bool jamo = c >= 0x1100 && c < 0x1200, syllable = c >= 0xAC00 && c < 0xD7A4;
  const auto* property = utf8proc_get_property(static_cast<utf8proc_int32_t>(c));
  return jamo ||
         (!syllable && (property->combining_class != 0 || property->decomp_seqindex != 0xFFFF ||
                        property->comb_index != 0xFFFF));
}

void decompose(char32_t c, std::vector<utf8proc_int32_t>& out) {
  utf8proc_int32_t parts[32];
  int boundary = 0;
  const auto count = c == kUndecomposed ? 0
                                        : utf8proc_decompose_char(static_cast<utf8proc_int32_t>(c),
                                                                  parts,
                                                                  std::size(parts),
                                                                  UTF8PROC_DECOMPOSE,
                                                                  &boundary);
  if (count <= 0 || count > std::ssize(parts)) {
    out.push_back(static_cast<utf8proc_int32_t>(c));
  } else {
    out.insert(out.end(), parts, parts + count);
  }
}

/// Each run of combining marks in the order of their classes.
void reorder(std::vector<utf8proc_int32_t>& characters) {
  const auto is_mark = [](utf8proc_int32_t c) { return combining_class(c) != 0; };
  for (auto begin = characters.begin(); begin != characters.end();) {
    begin = std::find_if(begin, characters.end(), is_mark);
    const auto end = std::find_if_not(begin, characters.end(), is_mark);
    std::stable_sort(begin, end, [](utf8proc_int32_t a, utf8proc_int32_t b) {
      return combining_class(a) < combining_class(b);
    });
    begin = end;
  }
}

/// Composes and writes; nothing is composed over a character that the package does not know as a
/// mark.
void compose(std::vector<utf8proc_int32_t>& characters, std::string& out) {
  const auto is_cut = [](char32_t c) { return c == kUncomposed || lies_in(c, kUnmoved); };
  for (size_t begin = 0, end; begin < characters.size(); begin = end) {
    for (end = begin + 1; end < characters.size() && !is_cut(characters[end]);) {
      ++end;
    }
    const auto length = utf8proc_normalize_utf32(
        characters.data() + begin,
        static_cast<utf8proc_ssize_t>(end - begin),
        static_cast<utf8proc_option_t>(UTF8PROC_COMPOSE | UTF8PROC_STABLE));
    for (utf8proc_ssize_t i = 0; i < length; ++i) {
      append_character(out, characters[begin + i]);
    }
  }
}

}  // namespace

char32_t next_character(std::string_view text, size_t& i) {
  const auto byte = static_cast<unsigned char>(text[i]);
  if (byte < 0x80) {
    ++i;
    return byte;
  }
  utf8proc_int32_t c = -1;
  const auto length = utf8proc_iterate(reinterpret_cast<const utf8proc_uint8_t*>(text.data()) + i,
                                       static_cast<utf8proc_ssize_t>(text.size() - i),
                                       &c);
  i += length > 0 ? length : 1;
  return length > 0 ? static_cast<char32_t>(c) : U'\uFFFD';
}

void append_character(std::string& text, char32_t c) {
  utf8proc_uint8_t bytes[4];
  const auto length = utf8proc_encode_char(static_cast<utf8proc_int32_t>(c), bytes);
  text.append(reinterpret_cast<const char*>(bytes), length);
}

bool is_numeric(char32_t c) {
  if (c < 0x80) {
    return c >= '0' && c <= '9';
  }
  const utf8proc_category_t kind = category(c);
  return (kind >= UTF8PROC_CATEGORY_ND && kind <= UTF8PROC_CATEGORY_NO) || lies_in(c, kNumbers);
}

bool is_punctuation(char32_t c) {
  if (c < 0x80) {
    return c > ' ' && c < 0x7F && !(c >= '0' && c <= '9') && !(c >= 'A' && c <= 'Z') &&
           !(c >= 'a' && c <= 'z');
  }
  const utf8proc_category_t kind = category(c);
  return (kind >= UTF8PROC_CATEGORY_PC && kind <= UTF8PROC_CATEGORY_PO &&
          !lies_in(c, kNoPunctuation)) ||
         lies_in(c, kPunctuation);
}

bool is_whitespace(char32_t c) {
  return (c >= 9 && c <= 13) || c == ' ' || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F ||
         c == 0x3000;
}

bool is_word_character(char32_t c) {
  const utf8proc_category_t kind = category(c);
  const bool circled = (c >= 0x24B6 && c <= 0x24E9) || (c >= 0x1F130 && c <= 0x1F149) ||
                       (c >= 0x1F150 && c <= 0x1F169) || (c >= 0x1F170 && c <= 0x1F189);
  return (kind >= UTF8PROC_CATEGORY_LU && kind <= UTF8PROC_CATEGORY_NL) ||
         kind == UTF8PROC_CATEGORY_PC || c == 0x200C || c == 0x200D || circled;
}

std::string to_nfc(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  std::vector<utf8proc_int32_t> run;
  for (size_t done = 0, i = 0; done < text.size();) {
    size_t starter = i;  // the last character before one that may change
    char32_t c = 0;
    while (i < text.size()) {
      const size_t here = i;
      c = next_character(text, i);
      if (may_change(c)) {
        break;
      }
      starter = here;
      c = 0;
    }
    if (c == 0) {  // the rest stays as it is
      out += text.substr(done);
      break;
    }
    out += text.substr(done, starter - done);
    run.clear();
    for (i = starter; i < text.size();) {
      const size_t here = i;
      c = next_character(text, i);
      if (here != starter && !may_change(c)) {
        i = here;
        break;
      }
      decompose(c, run);
    }
    reorder(run);
    compose(run, out);
    done = i;
  }
  return out;
}

}  // namespace basin
