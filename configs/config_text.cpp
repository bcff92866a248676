// Configurations as text for people: YAML by hand, because its layout (flow lists, quotes only
// where needed) is part of what the user sees.
#include <fmt/core.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <cmath>
#include <map>

#include "configs/yaml_config.h"

namespace basin {
namespace {

// Words that some YAML version reads as a truth value or as nothing.
constexpr std::array<std::string_view, 9> kReserved{
    "true", "false", "null", "yes", "no", "on", "off", "y", "n"};

bool may_stand_plain(const std::string& text) {
  const auto safe = [](unsigned char c) {
    return std::isalnum(c) != 0 || c == '_' || c == '.' || c == '/' || c == '-' || c == '+';
  };
  const bool begins_well =
      !text.empty() && (std::isalpha(static_cast<unsigned char>(text[0])) != 0 || text[0] == '_' ||
                        text[0] == '/' || text.starts_with("./") || text.starts_with("../"));
  std::string lower = text;
  std::transform(lower.begin(), lower.end(), lower.begin(), [](unsigned char c) {
    return static_cast<char>(std::tolower(c));
  });
  return begins_well && std::all_of(text.begin(), text.end(), safe) &&
         std::find(kReserved.begin(), kReserved.end(), lower) == kReserved.end();
}

std::string quoted(const std::string& text) {
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\')
      out += std::string("\\") + c;
    else if (c == '\n')
      out += "\\n";
    else if (c == '\t')
      out += "\\t";
    else if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f)
      out += fmt::format("\\x{:02x}", static_cast<unsigned>(c));
    else
      out += c;
  }
  return out + "\"";
}

std::string scalar_yaml(const ConfigNode& node) {
  return node.is_text && !may_stand_plain(node.scalar) ? quoted(node.scalar) : node.scalar;
}

bool stands_inline(const ConfigNode& node) {
  if (node.kind == ConfigNode::Kind::kMap) return node.entries.empty();
  return std::none_of(node.items.begin(), node.items.end(), [](const ConfigNode& item) {
    return item.kind == ConfigNode::Kind::kMap;
  });
}

void emit(const ConfigNode& node, const std::string& indent, std::string& out) {
  for (const ConfigEntry& entry : node.entries) {
    out += indent + entry.key + ":";
    if (stands_inline(entry.value)) {
      out += " " + inline_yaml(entry.value) + "\n";
    } else if (entry.value.kind == ConfigNode::Kind::kMap) {
      out += "\n";
      emit(entry.value, indent + "  ", out);
    } else {
      out += "\n";
      for (const ConfigNode& item : entry.value.items) {
        std::string block;
        emit(item, indent + "    ", block);
        out += indent + "  - " + block.substr(indent.size() + 4);
      }
    }
  }
}

void flatten(const ConfigNode& node,
             const std::string& key,
             std::vector<std::pair<std::string, std::string>>& values) {
  if (stands_inline(node)) {
    values.emplace_back(key, inline_yaml(node));
    return;
  }
  for (const ConfigEntry& entry : node.entries)
    flatten(entry.value, dotted(key, entry.key), values);
  for (size_t i = 0; i < node.items.size(); ++i)
    flatten(node.items[i], dotted(key, std::to_string(i)), values);
}

std::string cell(std::string_view text) {
  std::string out;
  for (const char c : text) out += c == '|' ? "\\|" : std::string(1, c);
  return out;
}

}  // namespace

std::string number_text(double value) {
  if (std::isinf(value)) return value > 0 ? ".inf" : "-.inf";
  std::string text = fmt::format("{}", value);
  // YAML 1.1 readers, Python's among them, take a number without a point for text when it has an
  // exponent.
  if (text.find('.') == std::string::npos) text.insert(std::min(text.find('e'), text.size()), ".0");
  return text;
}

std::string range_text(const Field& field) {
  const bool below = std::isfinite(field.min), above = std::isfinite(field.max);
  if (below && above) return fmt::format("{} to {}", field.min, field.max);
  if (below) return fmt::format("at least {}", field.min);
  return above ? fmt::format("at most {}", field.max) : "";
}

std::string inline_yaml(const ConfigNode& node) {
  if (node.kind == ConfigNode::Kind::kScalar) return scalar_yaml(node);
  const bool list = node.kind == ConfigNode::Kind::kList;
  std::string inside;
  for (const ConfigNode& item : node.items)
    inside += (inside.empty() ? "" : ", ") + inline_yaml(item);
  for (const ConfigEntry& entry : node.entries)
    inside += (inside.empty() ? "" : ", ") + entry.key + ": " + inline_yaml(entry.value);
  return (list ? "[" : "{") + inside + (list ? "]" : "}");
}

std::string block_yaml(const ConfigNode& node) {
  std::string out;
  emit(node, "", out);
  return out;
}

std::vector<Difference> node_differences(const ConfigNode& a, const ConfigNode& b) {
  std::vector<std::pair<std::string, std::string>> values_a, values_b;
  flatten(a, "", values_a);
  flatten(b, "", values_b);
  const std::map<std::string, std::string> of_a(values_a.begin(), values_a.end()),
      of_b(values_b.begin(), values_b.end());
  std::vector<Difference> found;
  for (const auto& [key, value] : values_a) {
    const auto other = of_b.find(key);
    if (other == of_b.end() || other->second != value)
      found.push_back({key, value, other == of_b.end() ? "" : other->second});
  }
  for (const auto& [key, value] : values_b)
    if (!of_a.contains(key)) found.push_back({key, "", value});
  return found;
}

std::string markdown_table(const std::vector<KeyInfo>& keys) {
  std::string out = "| key | type | default | range | meaning |\n|---|---|---|---|---|\n";
  for (const KeyInfo& info : keys)
    if (!info.section)
      out += fmt::format("| `{}` | {} | `{}` | {} | {} |\n",
                         info.key,
                         info.type,
                         cell(info.default_value),
                         range_text(info.field),
                         cell(info.field.doc));
  return out;
}

}  // namespace basin
