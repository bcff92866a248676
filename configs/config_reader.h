// Reads a ConfigNode into a configuration struct by its `visit_fields`, and collects everything
// that is wrong on the way: unknown, duplicate, ill-typed and out-of-range keys, then what each
// struct's `problems()` says of fields that are right by themselves.
#pragma once

#include <algorithm>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "configs/config_node.h"
#include "configs/config_walk.h"

namespace basin {

/// "did you mean train.optimizer.lr?" for a key that the section `prefix` does not have: its
/// nearest sibling, or a key of that name elsewhere.
std::string unknown_key_text(const std::string& prefix,
                             const std::string& key,
                             const std::vector<KeyInfo>& keys);

class ConfigReader {
 public:
  /// `keys`: all keys of the whole configuration, for suggestions.
  ConfigReader(std::vector<KeyInfo> keys, Problems& problems)
      : keys_(std::move(keys)), problems_(problems) {}

  /// Overwrites those fields of `out` that `node` has. `key` is the dotted key of the struct, empty
  /// for the whole configuration.
  template <HasFields T>
  void read_struct(const ConfigNode& node, const std::string& key, T& out) {
    if constexpr (HasShorthand<T>) {
      if (node.kind == ConfigNode::Kind::kScalar)
        return read_struct(under_key(node, T::kShorthand), key, out);
    }
    if (node.kind != ConfigNode::Kind::kMap && node.kind != ConfigNode::Kind::kNull)
      return wrong_type<T>(node, key);
    const size_t before = problems_.size();
    std::vector<std::string_view> names;
    T::visit_fields(out, [&]<class V>(std::string_view name, V& value, const Field& field) {
      names.push_back(name);
      read_field(node, name, dotted(key, name), value, field);
    });
    report_keys(node, key, names);
    // A field that failed holds its default, of which problems() would complain beside the point.
    if constexpr (HasProblems<T>) {
      if (problems_.size() == before)
        for (const std::string& message : out.problems())
          report(node, key, message);
    }
  }

 private:
  template <class V>
  void read_field(const ConfigNode& node,
                  std::string_view name,
                  const std::string& key,
                  V& value,
                  const Field& field) {
    const auto entry = std::find_if(node.entries.begin(),
                                    node.entries.end(),
                                    [&](const ConfigEntry& e) { return e.key == name; });
    if (entry != node.entries.end()) {
      read_value(entry->value, key, value, field);
    } else if constexpr (HasFields<V>) {
      ConfigNode absent;  // its defaults still have to agree with each other
      absent.origin = node.origin;
      read_struct(absent, key, value);
    }
  }

  template <class V>
  void read_value(const ConfigNode& node, const std::string& key, V& value, const Field& field) {
    if constexpr (HasFields<V>)
      read_struct(node, key, value);
    else if constexpr (kIsList<V>)
      read_list(node, key, value, field);
    else if (node.kind != ConfigNode::Kind::kScalar)
      wrong_type<V>(node, key);
    else if constexpr (std::is_same_v<V, std::string>)
      value = node.scalar;
    else if constexpr (std::is_enum_v<V>)
      read_enum(node, key, value);
    else if constexpr (std::is_same_v<V, bool>) {
      if (node.is_text || (node.scalar != "true" && node.scalar != "false"))
        return wrong_type<V>(node, key);
      value = node.scalar == "true";
    } else
      read_numeric(node, key, value, field);
  }

  template <class V>
  void read_numeric(const ConfigNode& node, const std::string& key, V& value, const Field& field) {
    const std::optional<double> size = parse_number(node.scalar);
    if (!node.is_text && size && !(*size >= field.min && *size <= field.max))
      return problems_.add(
          node.origin, key, node.scalar + " is out of range: allowed is " + range_text(field));
    std::optional<V> number;
    if constexpr (std::is_same_v<V, int64_t>)
      number = parse_integer(node.scalar);
    else
      number = size;
    if (node.is_text || !number) return wrong_type<V>(node, key);
    value = *number;
  }

  template <class V>
  void read_enum(const ConfigNode& node, const std::string& key, V& value) {
    if (const auto known = enum_value<V>(node.scalar)) {
      value = *known;
      return;
    }
    const std::string meant = closest(node.scalar, enum_names<V>());
    problems_.add(node.origin,
                  key,
                  "expected " + type_text<V>() + ", found " + node.scalar +
                      (meant.empty() ? "" : "; did you mean " + meant + "?"));
  }

  template <class Item>
  void read_list(const ConfigNode& node,
                 const std::string& key,
                 std::vector<Item>& value,
                 const Field& field) {
    if constexpr (HasShorthand<Item>) {
      if (node.kind == ConfigNode::Kind::kScalar || node.kind == ConfigNode::Kind::kMap) {
        value.assign(1, Item{});
        return read_struct(node, key, value.front());
      }
    }
    if (node.kind != ConfigNode::Kind::kList) return wrong_type<std::vector<Item>>(node, key);
    value.assign(node.items.size(), Item{});
    for (size_t i = 0; i < value.size(); ++i)
      read_value(node.items[i], dotted(key, std::to_string(i)), value[i], field);
  }

  template <class V>
  void wrong_type(const ConfigNode& node, const std::string& key) {
    problems_.add(node.origin, key, "expected " + type_text<V>() + ", found " + node.describe());
  }

  /// Reports the entries of a section that are unknown or given twice.
  void report_keys(const ConfigNode& node,
                   const std::string& key,
                   const std::vector<std::string_view>& names);
  /// Adds a message of problems(), at the entry whose key it begins with, spelled out from the top
  /// or not, else at the section.
  void report(const ConfigNode& node, const std::string& key, const std::string& message);
  static ConfigNode under_key(const ConfigNode& node, std::string_view key);

  std::vector<KeyInfo> keys_;
  Problems& problems_;
};

}  // namespace basin
