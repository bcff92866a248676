#include "configs/config_node.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>
#include <numeric>

namespace basin {
namespace {

bool is_digit(char c) {
  return c >= '0' && c <= '9';
}

// Without a leading plus and without single underscores between digits, which from_chars does not
// know. Empty when it cannot be a number: from_chars would take "inf" and "nan", which YAML spells
// differently.
std::string plain_number(std::string_view text) {
  if (text.starts_with("+-")) return {};
  if (text.starts_with('+')) text.remove_prefix(1);
  std::string digits;
  for (size_t i = 0; i < text.size(); ++i) {
    const bool separator = text[i] == '_' && i > 0 && i + 1 < text.size() &&
                           is_digit(text[i - 1]) && is_digit(text[i + 1]);
    if (!separator) digits += text[i];
  }
  const bool numeric = digits.find_first_not_of("0123456789+-.eE") == std::string::npos;
  return numeric ? digits : std::string{};
}

template <class Number>
std::optional<Number> parse_all(const std::string& text) {
  Number value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (text.empty() || error != std::errc{} || end != text.data() + text.size()) return std::nullopt;
  return value;
}

}  // namespace

ConfigEntry* ConfigNode::find(std::string_view key) {
  const auto found = std::find_if(
      entries.begin(), entries.end(), [&](const ConfigEntry& entry) { return entry.key == key; });
  return found == entries.end() ? nullptr : &*found;
}

const ConfigNode* ConfigNode::at(std::string_view dotted_key) const {
  const size_t dot = dotted_key.find('.');
  const auto found = std::ranges::find(entries, dotted_key.substr(0, dot), &ConfigEntry::key);
  if (found == entries.end()) return nullptr;
  return dot == dotted_key.npos ? &found->value : found->value.at(dotted_key.substr(dot + 1));
}

std::string ConfigNode::describe() const {
  switch (kind) {
    case Kind::kNull:
      return "nothing";
    case Kind::kList:
      return "a list";
    case Kind::kMap:
      return "a section";
    case Kind::kScalar:
      break;
  }
  return is_text ? "the quoted text \"" + scalar + "\"" : scalar;
}

void Problems::add(const Origin& origin, const std::string& key, const std::string& message) {
  found_.push_back({origin, origin.text() + ": " + (key.empty() ? "" : key + ": ") + message});
}

void Problems::throw_if_any() {
  if (found_.empty()) return;
  const auto place = [](const Problem& p) {
    return p.origin.line > 0 ? p.origin.line : std::numeric_limits<int64_t>::max();
  };
  std::stable_sort(found_.begin(), found_.end(), [&](const Problem& a, const Problem& b) {
    return place(a) < place(b);
  });
  std::string lines;
  for (const Problem& problem : found_) lines += (lines.empty() ? "" : "\n") + problem.line;
  throw ConfigError(lines);
}

std::optional<int64_t> parse_integer(std::string_view text) {
  if (const auto whole = parse_all<int64_t>(plain_number(text))) return whole;
  const auto number = parse_number(text);
  constexpr double kExact =
      9007199254740992;  // 2^53: up to here a double is the number that was written
  if (!number || std::abs(*number) > kExact || *number != std::floor(*number)) return std::nullopt;
  return static_cast<int64_t>(*number);
}

std::optional<double> parse_number(std::string_view text) {
  if (text == ".inf" || text == "+.inf") return std::numeric_limits<double>::infinity();
  if (text == "-.inf") return -std::numeric_limits<double>::infinity();
  return parse_all<double>(plain_number(text));
}

size_t edit_distance(std::string_view a, std::string_view b) {
  // Optimal string alignment; rows for i-2, i-1 and i letters of `a`.
  std::vector<size_t> before(b.size() + 1), above(b.size() + 1), row(b.size() + 1);
  std::iota(above.begin(), above.end(), size_t{0});
  for (size_t i = 1; i <= a.size(); ++i) {
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      row[j] =
          std::min({above[j] + 1, row[j - 1] + 1, above[j - 1] + (a[i - 1] == b[j - 1] ? 0 : 1)});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
        row[j] = std::min(row[j], before[j - 2] + 1);
    }
    before = above;
    above = row;
  }
  return above[b.size()];
}

size_t close_enough(std::string_view word) {
  return std::clamp<size_t>((word.size() + 1) / 3, 1, 4);
}

std::string closest(std::string_view word, std::span<const std::string_view> candidates) {
  size_t best = close_enough(word) + 1;
  std::string_view found;
  for (const std::string_view candidate : candidates)
    if (const size_t distance = edit_distance(word, candidate); distance < best) {
      best = distance;
      found = candidate;
    }
  return std::string(found);
}

std::string dotted(const std::string& prefix, std::string_view key) {
  return prefix.empty() ? std::string(key) : prefix + "." + std::string(key);
}

std::string comma_list(std::span<const std::string_view> words) {
  std::string list;
  for (const std::string_view word : words) list += (list.empty() ? "" : ", ") + std::string(word);
  return list;
}

}  // namespace basin
