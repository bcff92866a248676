#include "data/text_pattern.h"

#include <fmt/format.h>
#include <oniguruma.h>

#include <stdexcept>

#include "data/unicode.h"

namespace basin {
namespace {

constexpr size_t kLongestPattern = 1 << 14;  // bytes; known ones have less than 300

const OnigUChar* bytes_of(std::string_view text) {
  return reinterpret_cast<const OnigUChar*>(text.data());
}

void initialize() {
  static const int status = [] {
    OnigEncoding encoding = ONIG_ENCODING_UTF8;
    return onig_initialize(&encoding, 1);
  }();
  if (status != ONIG_NORMAL) {
    throw std::runtime_error("Oniguruma could not be initialised");
  }
}

void replace_all(std::string& text, std::string_view from, const std::string& to) {
  for (size_t i = 0; (i = text.find(from, i)) != std::string::npos; i += to.size()) {
    text.replace(i, from.size(), to);
  }
}

/// With the characters of newer versions of Unicode in \p{L} and \p{N}. An escaped backslash in
/// front keeps its meaning.
std::string with_newer_characters(std::string expression) {
  if (expression.find("\\\\p{") == std::string::npos) {
    replace_all(expression, "\\p{L}", std::string("[\\p{L}") + kNewerLetters + "]");
    replace_all(expression, "\\p{N}", std::string("[\\p{N}") + kNewerNumbers + "]");
  }
  return expression;
}

}  // namespace

void TextPattern::Free::operator()(re_pattern_buffer* compiled) const {
  onig_free(compiled);
}

TextPattern TextPattern::literal(std::string text) {
  if (text.empty()) {
    throw std::invalid_argument("an empty string cannot be searched for");
  }
  TextPattern pattern;
  pattern.literal_ = std::move(text);
  return pattern;
}

TextPattern TextPattern::regex(const std::string& expression) {
  if (expression.size() > kLongestPattern) {
    throw std::invalid_argument(
        fmt::format("the regular expression has {} bytes, at most {} are read",
                    expression.size(),
                    kLongestPattern));
  }
  initialize();
  const std::string full = with_newer_characters(expression);
  OnigRegex compiled = nullptr;
  OnigErrorInfo info;
  const int status = onig_new(&compiled,
                              bytes_of(full),
                              bytes_of(full) + full.size(),
                              ONIG_OPTION_NONE,
                              ONIG_ENCODING_UTF8,
                              ONIG_SYNTAX_DEFAULT,
                              &info);
  TextPattern pattern;
  pattern.regex_.reset(compiled);
  if (status != ONIG_NORMAL) {
    OnigUChar message[ONIG_MAX_ERROR_MESSAGE_LEN];
    const int length = onig_error_code_to_str(message, status, &info);
    throw std::invalid_argument(
        fmt::format("the regular expression \"{}\" is refused by Oniguruma: {}",
                    expression,
                    std::string_view(reinterpret_cast<const char*>(message), length)));
  }
  return pattern;
}

TextPattern TextPattern::parse(const JsonPlace& place) {
  try {
    if (const JsonPlace text = place.find("String"); !text.is_null()) {
      return literal(text.string());
    }
    return regex(place.at("Regex").string());
  } catch (const std::invalid_argument& error) {
    place.fail(error.what());
  }
}

PatternSearch::PatternSearch(const TextPattern& pattern) : pattern_(pattern) {}
PatternSearch::~PatternSearch() {
  if (region_) {
    onig_region_free(region_.get(), 0);
  }
}

void PatternSearch::begin(std::string_view text) {
  text_ = text;
  from_ = 0;
  last_end_ = std::string_view::npos;
}

bool PatternSearch::next(size_t& begin, size_t& end) {
  if (pattern_.regex_) {
    return next_regex(begin, end);
  }
  begin = text_.find(pattern_.literal_, from_);
  if (begin == std::string_view::npos) {
    return false;
  }
  from_ = end = begin + pattern_.literal_.size();
  return true;
}

bool PatternSearch::next_regex(size_t& begin, size_t& end) {
  if (!region_) {
    region_ = std::make_unique<re_registers>();
    onig_region_init(region_.get());
  }
  while (from_ <= text_.size()) {
    const OnigUChar* const first = bytes_of(text_);
    const OnigUChar* const last = first + text_.size();
    const int found = onig_search(
        pattern_.regex_.get(), first, last, first + from_, last, region_.get(), ONIG_OPTION_NONE);
    if (found == ONIG_MISMATCH) {
      return false;
    }
    if (found < 0) {
      OnigUChar message[ONIG_MAX_ERROR_MESSAGE_LEN];
      const int length = onig_error_code_to_str(message, found);
      throw std::runtime_error(
          fmt::format("a regular expression of the tokenizer gave up on a text: {}",
                      std::string_view(reinterpret_cast<const char*>(message), length)));
    }
    begin = static_cast<size_t>(region_->beg[0]);
    end = static_cast<size_t>(region_->end[0]);
    if (begin != end || end != last_end_) {
      from_ = last_end_ = end;
      return true;
    }
    if (from_ == text_.size()) {
      return false;
    }
    next_character(text_, from_);
  }
  return false;
}

}  // namespace basin
