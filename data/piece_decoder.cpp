#include "data/piece_decoder.h"

#include <fmt/format.h>

#include <cctype>
#include <optional>

#include "data/byte_alphabet.h"
#include "data/text_normalizer.h"
#include "data/tokenizer.h"
#include "data/unicode.h"

namespace basin {
namespace {

constexpr const char* kReplacement = "\xEF\xBF\xBD";  // U+FFFD

std::optional<char> spelled_byte(const std::string& token) {
  const auto digit = [&](size_t i) {
    return std::isxdigit(static_cast<unsigned char>(token[i])) != 0;
  };
  if (token.size() != 6 || !token.starts_with("<0x") || token[5] != '>' || !digit(3) || !digit(4)) {
    return std::nullopt;
  }
  return static_cast<char>(std::stoi(token.substr(3, 2), nullptr, 16));
}

}  // namespace

PieceDecoder PieceDecoder::parse(const JsonPlace& place) {
  if (place.is_null()) {
    place.fail("is missing: how pieces become text again is not known");
  }
  PieceDecoder decoder;
  State state = State::kPieces;
  decoder.add(place, state);
  return decoder;
}

void PieceDecoder::require(const JsonPlace& place, bool fits) const {
  if (!fits) {
    place.fail(
        fmt::format("{} is not supported at this place of a decoder", place.at("type").string()));
  }
}

void PieceDecoder::add(const JsonPlace& place, State& state) {
  const std::string& type = place.at("type").string();
  if (type == "Sequence") {
    const JsonPlace parts = place.at("decoders");
    for (size_t i = 0; i < parts.size(); ++i) {
      add(parts[i], state);
    }
  } else if (type == "Replace") {
    require(place, state == State::kPieces);
    steps_.emplace_back(
        Replace{TextPattern::parse(place.at("pattern")), place.at("content").string()});
  } else if (type == "Metaspace") {
    require(place, state == State::kPieces);
    const std::string& mark = place.at("replacement").string();
    if (mark.empty()) {
      place.at("replacement").fail("expected one character");
    }
    const JsonPlace scheme = place.find("prepend_scheme");
    if ((scheme.is_null() || scheme.string() != "never") &&
        place.find("add_prefix_space").boolean_or(true)) {
      first_loses_ = mark;
    }
    steps_.emplace_back(Replace{TextPattern::literal(mark), " "});
  } else if (type == "ByteFallback") {
    require(place, state == State::kPieces);
    byte_fallback_ = true;
    state = State::kBytes;
  } else if (type == "ByteLevel") {
    require(place, state == State::kPieces);
    steps_.emplace_back(ByteLevel{});
    state = State::kText;
  } else if (type == "Fuse") {
    state = State::kText;
  } else if (type == "Strip") {
    require(place, state == State::kText && stripped_ == 0 && place.at("stop").integer(0) == 0);
    stripped_ = static_cast<size_t>(place.at("start").integer(1 << 20));
    strip_ = place.at("content").string();
  } else {
    place.fail(
        fmt::format("the decoder {} is not supported (those that are: ByteLevel, Metaspace, "
                    "Replace, ByteFallback, Fuse, Strip, Sequence)",
                    type));
  }
}

std::string PieceDecoder::text_of(std::string token) const {
  for (const auto& step : steps_) {
    if (const auto* replace = std::get_if<Replace>(&step)) {
      token = replace_matches(token, replace->pattern, replace->content);
    } else if (std::optional<std::string> bytes = from_byte_characters(token)) {
      token = std::move(*bytes);
    }
  }
  return token;
}

PieceDecoder::Decoded PieceDecoder::decode(const std::string& token) const {
  Decoded decoded{text_of(token), "", false};
  decoded.first = first_loses_.empty()
                      ? decoded.bytes
                      : text_of(replace_matches(token, TextPattern::literal(first_loses_), ""));
  if (byte_fallback_) {
    if (const std::optional<char> byte = spelled_byte(decoded.bytes)) {
      decoded.bytes = decoded.first = std::string(1, *byte);
      decoded.is_byte = true;
    }
  }
  return decoded;
}

std::string PieceDecoder::join(std::span<const Decoded* const> pieces) const {
  std::string text;
  for (size_t i = 0; i < pieces.size();) {
    std::string part = i == 0 ? pieces[i]->first : pieces[i]->bytes;
    const size_t begin = i++;
    if (pieces[begin]->is_byte) {  // all bytes in a row are text, or none is
      for (; i < pieces.size() && pieces[i]->is_byte; ++i) {
        part += pieces[i]->bytes;
      }
      std::string bytes = part;
      if (sanitize_utf8(bytes) > 0) {
        part.clear();
        for (size_t n = begin; n < i; ++n) {
          part += kReplacement;
        }
      }
    }
    text += part;
  }
  sanitize_utf8(text);
  for (size_t i = 0; i < stripped_ && !strip_.empty() && text.starts_with(strip_); ++i) {
    text.erase(0, strip_.size());
  }
  return text;
}

}  // namespace basin
