// JSON from files that nobody vouches for, names out of such files in messages, and JSON as this
// program writes it.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace basin {

/// Parses one JSON document. Throws std::runtime_error, one line that begins with `name`, for
/// invalid JSON, a key that occurs twice in an object, and nesting beyond 100 levels: what copies,
/// prints and walks a document afterwards is recursive.
nlohmann::json parse_untrusted_json(std::string_view text, const std::string& name);

/// What the library says is wrong, in one line and without what it read.
std::string json_reason(const nlohmann::json::exception& error);

/// A document as text that ends with a newline, indented or (to_line) in one line; what is no UTF-8
/// in its strings becomes U+FFFD.
template <class Json>
std::string to_text(const Json& json, int indent = 1) {
  return json.dump(indent, ' ', false, Json::error_handler_t::replace) + "\n";
}
template <class Json>
std::string to_line(const Json& json) {
  return to_text(json, -1);
}

/// `text` as it may stand in a one-line message: control characters and bytes that are no UTF-8
/// escaped, at most 120 bytes of it.
std::string printable(std::string_view text);

/// `value` likewise, as JSON.
std::string printable_json(const nlohmann::json& value);

/// A message that quotes what a file holds, in one line: control characters escaped, at most 1000
/// bytes of it.
std::string one_line(std::string_view message);

}  // namespace basin
