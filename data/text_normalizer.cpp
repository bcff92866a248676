#include "data/text_normalizer.h"

#include <fmt/format.h>

#include <algorithm>

#include "data/unicode.h"

namespace basin {
namespace {

bool is_ascii(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) { return (c & 0x80) == 0; });
}

}  // namespace

TextNormalizer TextNormalizer::parse(const JsonPlace& place) {
  TextNormalizer normalizer;
  if (!place.is_null()) {
    normalizer.add(place);
  }
  return normalizer;
}

void TextNormalizer::add(const JsonPlace& place) {
  const std::string& type = place.at("type").string();
  if (type == "Sequence") {
    const JsonPlace parts = place.at("normalizers");
    for (size_t i = 0; i < parts.size(); ++i) {
      add(parts[i]);
    }
  } else if (type == "NFC") {
    steps_.emplace_back(Nfc{});
  } else if (type == "Prepend") {
    steps_.emplace_back(Prepend{place.at("prepend").string()});
  } else if (type == "Replace") {
    steps_.emplace_back(
        Replace{TextPattern::parse(place.at("pattern")), place.at("content").string()});
  } else {
    place.fail(fmt::format(
        "the normalizer {} is not supported (those that are: NFC, Prepend, Replace, Sequence)",
        type));
  }
}

std::string_view TextNormalizer::apply(std::string_view text, std::string& storage) const {
  std::string next;
  for (const auto& step : steps_) {
    if (std::holds_alternative<Nfc>(step)) {
      if (is_ascii(text)) {
        continue;
      }
      next = to_nfc(text);
    } else if (const auto* prepend = std::get_if<Prepend>(&step)) {
      if (text.empty()) {
        continue;
      }
      next = prepend->text;
      next += text;
    } else {
      const auto& replace = std::get<Replace>(step);
      next = replace_matches(text, replace.pattern, replace.content);
    }
    storage.swap(next);
    text = storage;
  }
  return text;
}

std::string replace_matches(std::string_view text,
                            const TextPattern& pattern,
                            std::string_view content) {
  std::string out;
  if (text.empty()) {  // not even searched for empty matches
    return out;
  }
  PatternSearch search(pattern);
  search.begin(text);
  size_t done = 0;
  for (size_t begin, end; search.next(begin, end); done = end) {
    out += text.substr(done, begin - done);
    out += content;
  }
  out += text.substr(done);
  return out;
}

}  // namespace basin
