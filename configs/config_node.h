// A configuration before it has types: scalars, lists and maps as they were written, each with the
// place it comes from, so that every later complaint can name file and line. No YAML library shows
// through.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace basin {

/// Where a value was written: a file's line (from 1), or, with line 0, a source without lines such
/// as `--set train.steps=10`.
struct Origin {
  std::string source;
  int64_t line = 0;

  std::string text() const { return line > 0 ? source + ":" + std::to_string(line) : source; }
};

struct ConfigEntry;

struct ConfigNode {
  enum class Kind { kNull, kScalar, kList, kMap };

  Kind kind = Kind::kNull;
  Origin origin;
  std::string scalar;    // kScalar: the text without quotes and escapes
  bool is_text = false;  // kScalar: quoted or known to be text, so never a number or a truth value
  std::vector<ConfigNode> items;     // kList
  std::vector<ConfigEntry> entries;  // kMap, in the order of the file; a duplicate key has several

  /// The first entry of that key, or null.
  ConfigEntry* find(std::string_view key);
  /// The value at a dotted key, "train.optimizer.lr", or null.
  const ConfigNode* at(std::string_view dotted_key) const;
  /// "nothing", "a list", "a section", "12", "the quoted text \"12\"".
  std::string describe() const;
};

struct ConfigEntry {
  std::string key;
  Origin origin;  // of the key
  ConfigNode value;
};

/// All that is wrong with a configuration: what() has one line for each problem, "file:line:
/// dotted.key: message".
class ConfigError : public std::invalid_argument {
 public:
  using std::invalid_argument::invalid_argument;
};

/// Collects problems while a configuration is read.
class Problems {
 public:
  void add(const Origin& origin, const std::string& key, const std::string& message);
  size_t size() const { return found_.size(); }
  /// Throws ConfigError with all of them: those in files by line, then those of overrides.
  void throw_if_any();

 private:
  struct Problem {
    Origin origin;
    std::string line;
  };
  std::vector<Problem> found_;
};

/// "12", "-3", "1_000_000", "1e6", "2.5e3": what denotes a whole number of 64 bits exactly; else
/// nothing.
std::optional<int64_t> parse_integer(std::string_view text);
/// Any decimal number, or ".inf" with an optional sign; else nothing.
std::optional<double> parse_number(std::string_view text);

/// The candidate that `word` most probably meant, by edit distance (a swap of two neighbours counts
/// once); empty when none is close.
std::string closest(std::string_view word, std::span<const std::string_view> candidates);
/// Edit distance up to which `closest` takes two spellings for the same word.
size_t close_enough(std::string_view word);
size_t edit_distance(std::string_view a, std::string_view b);

/// "a.b" from "a" and "b"; "b" when the prefix is empty.
std::string dotted(const std::string& prefix, std::string_view key);
/// {"a", "b"} -> "a, b".
std::string comma_list(std::span<const std::string_view> words);

}  // namespace basin
