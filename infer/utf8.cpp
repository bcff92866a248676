#include "infer/utf8.h"

#include <algorithm>

#include "data/tokenizer.h"

namespace basin {
namespace {

// Length of the character that a lead byte announces; 1 for ASCII and for bytes that lead nothing.
size_t announced_length(unsigned char lead) {
  if (lead >= 0xc2 && lead <= 0xdf) return 2;
  if (lead >= 0xe0 && lead <= 0xef) return 3;
  if (lead >= 0xf0 && lead <= 0xf4) return 4;
  return 1;
}

// How many bytes at the end of `text` begin a character that is not complete.
size_t unfinished(std::string_view text) {
  for (size_t back = 1; back <= std::min<size_t>(3, text.size()); ++back) {
    const auto byte = static_cast<unsigned char>(text[text.size() - back]);
    if ((byte & 0xc0) == 0x80) continue;
    return announced_length(byte) > back ? back : 0;
  }
  return 0;
}

}  // namespace

std::string Utf8Stream::push(std::string_view bytes) {
  pending_ += bytes;
  const size_t held = unfinished(pending_);
  std::string whole = pending_.substr(0, pending_.size() - held);
  pending_.erase(0, whole.size());
  sanitize_utf8(whole);
  return whole;
}

std::string Utf8Stream::finish() {
  std::string rest;
  rest.swap(pending_);
  sanitize_utf8(rest);
  return rest;
}

}  // namespace basin
