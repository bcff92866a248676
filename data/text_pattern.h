// What text is searched for: a string, or a regular expression in Oniguruma's syntax, which is the
// one of tokenizer.json.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "data/json_place.h"

struct re_pattern_buffer;  // Oniguruma's regex_t
struct re_registers;       // and its region

namespace basin {

/// Immutable and safe to share between threads.
class TextPattern {
 public:
  static TextPattern literal(std::string text);
  /// Throws std::invalid_argument with Oniguruma's words.
  static TextPattern regex(const std::string& expression);
  /// {"String": ...} or {"Regex": ...}
  static TextPattern parse(const JsonPlace& place);

 private:
  friend class PatternSearch;
  struct Free {
    void operator()(re_pattern_buffer* compiled) const;
  };
  std::string literal_;
  std::unique_ptr<re_pattern_buffer, Free> regex_;
};

/// Finds one match after the other; keeps what a search needs, so that it is allocated once.
class PatternSearch {
 public:
  explicit PatternSearch(const TextPattern& pattern);
  ~PatternSearch();
  PatternSearch(const PatternSearch&) = delete;
  PatternSearch& operator=(const PatternSearch&) = delete;

  /// From now on in `text`, valid UTF-8; anchors and look-behind see nothing around it.
  void begin(std::string_view text);
  /// The next match as offsets into the text; empty ones right behind another are passed over.
  /// Throws std::runtime_error when Oniguruma gives up (more than 10 million steps for one match).
  bool next(size_t& begin, size_t& end);

 private:
  bool next_regex(size_t& begin, size_t& end);

  const TextPattern& pattern_;
  std::string_view text_;
  size_t from_ = 0, last_end_ = std::string_view::npos;
  std::unique_ptr<re_registers> region_;
};

}  // namespace basin
