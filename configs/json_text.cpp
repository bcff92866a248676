#include "configs/json_text.h"

#include <fmt/core.h>

#include <algorithm>
#include <stdexcept>
#include <unordered_set>
#include <vector>

namespace basin {
namespace {

constexpr int kMaxDepth = 100;
constexpr size_t kShownBytes = 120, kMessageBytes = 1000;

using Handler = nlohmann::json::error_handler_t;

/// The first kShownBytes of `text`, or a little less: no character is cut in two.
std::string_view beginning(std::string_view text) {
  size_t end = std::min(kShownBytes, text.size());
  while (end < text.size() && end > 0 && (static_cast<unsigned char>(text[end]) & 0xC0) == 0x80)
    --end;
  return text.substr(0, end);
}

}  // namespace

nlohmann::json parse_untrusted_json(std::string_view text, const std::string& name) {
  std::vector<std::unordered_set<std::string>> open;  // the keys so far of every object around
  const auto check = [&](int depth, nlohmann::json::parse_event_t event, nlohmann::json& value) {
    using Event = nlohmann::json::parse_event_t;
    if (depth > kMaxDepth)
      throw std::runtime_error(
          fmt::format("{}: JSON nested more than {} levels deep", name, kMaxDepth));
    if (event == Event::object_start) open.emplace_back();
    if (event == Event::object_end) open.pop_back();
    if (event == Event::key && !open.back().insert(value.get_ref<const std::string&>()).second)
      throw std::runtime_error(fmt::format(
          "{}: key \"{}\" occurs twice", name, printable(value.get_ref<std::string&>())));
    return true;
  };
  try {
    return nlohmann::json::parse(text.begin(), text.end(), check);
  } catch (const nlohmann::json::exception& e) {
    throw std::runtime_error(fmt::format("{}: no valid JSON: {}", name, json_reason(e)));
  }
}

std::string json_reason(const nlohmann::json::exception& error) {
  // The library's message begins with "[json.exception.parse_error.101] " and quotes what it read
  // last, which may be very long.
  std::string reason = error.what();
  reason.erase(0, reason.find(' ') + 1);
  if (const size_t quote = reason.find("; last read: "); quote != std::string::npos)
    reason.resize(quote);
  return one_line(reason);
}

std::string printable(std::string_view text) {
  // dump() escapes control characters, and with this handler replaces what is no UTF-8.
  std::string quoted =
      nlohmann::json(std::string(beginning(text))).dump(-1, ' ', false, Handler::replace);
  quoted = quoted.substr(1, quoted.size() - 2);
  const std::string_view begin = beginning(quoted);
  const bool whole = begin.size() == quoted.size() && text.size() <= kShownBytes;
  return std::string(begin) + (whole ? "" : "...");
}

std::string printable_json(const nlohmann::json& value) {
  const std::string text = value.dump(-1, ' ', false, Handler::replace);
  const std::string_view begin = beginning(text);
  return std::string(begin) + (begin.size() < text.size() ? "..." : "");
}

std::string one_line(std::string_view message) {
  std::string line;
  for (const char c : message.substr(0, kMessageBytes))
    if (static_cast<unsigned char>(c) < 0x20)
      line += fmt::format("\\x{:02x}", static_cast<unsigned>(c));
    else
      line += c;
  return line + (message.size() > kMessageBytes ? "..." : "");
}

}  // namespace basin
