// What `visit_fields` is walked for, apart from reading: the values of a configuration as a tree,
// and the description of its keys.
#pragma once

#include <concepts>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "configs/config_node.h"
#include "configs/fields.h"

namespace basin {

struct AnyVisitor {
  template <class... Arguments>
  void operator()(Arguments&&...) const {}
};

/// A configuration struct.
template <class T>
concept HasFields = requires(T& config, AnyVisitor visitor) {
  T::visit_fields(config, visitor);
};

/// A struct of which a bare scalar sets one field: `static constexpr std::string_view kShorthand =
/// "path";`. Where a list of such structs is expected, one scalar or one section stands for a list
/// of one.
template <class T>
concept HasShorthand = HasFields<T> && requires {
  { T::kShorthand } -> std::convertible_to<std::string_view>;
};

template <class T>
concept HasProblems = requires(const T& config) {
  { config.problems() } -> std::convertible_to<std::vector<std::string>>;
};

template <class T>
inline constexpr bool kIsList = false;
template <class T>
inline constexpr bool kIsList<std::vector<T>> = true;

template <class Enum>
constexpr std::span<const std::string_view> enum_names() {
  static_assert(!std::string_view(kEnumNames<Enum>[0]).empty(),
                "kEnumNames is not specialised for this enum");
  return kEnumNames<Enum>;
}

/// Shortest text that reads back as the same number, as YAML of any version understands it: "0.95",
/// "3.0", "1.0e-05", ".inf".
std::string number_text(double value);

/// The values of a configuration, every default included.
template <class T>
ConfigNode to_node(const T& value) {
  ConfigNode node;
  if constexpr (HasFields<T>) {
    node.kind = ConfigNode::Kind::kMap;
    T::visit_fields(value, [&](std::string_view name, const auto& field, const Field&) {
      ConfigEntry& entry = node.entries.emplace_back();
      entry.key = name;
      entry.value = to_node(field);
    });
  } else if constexpr (kIsList<T>) {
    node.kind = ConfigNode::Kind::kList;
    for (const auto& item : value) node.items.push_back(to_node(item));
  } else {
    node.kind = ConfigNode::Kind::kScalar;
    node.is_text = std::is_same_v<T, std::string> || std::is_enum_v<T>;
    if constexpr (std::is_same_v<T, bool>)
      node.scalar = value ? "true" : "false";
    else if constexpr (std::is_same_v<T, int64_t>)
      node.scalar = std::to_string(value);
    else if constexpr (std::is_same_v<T, double>)
      node.scalar = number_text(value);
    else if constexpr (std::is_enum_v<T>)
      node.scalar = std::string(enum_names<T>()[static_cast<size_t>(value)]);
    else {
      static_assert(std::is_same_v<T, std::string>,
                    "fields are bool, int64_t, double, std::string, enums, structs with "
                    "visit_fields, and std::vector of these");
      node.scalar = value;
    }
  }
  return node;
}

/// What kind of value a field takes, for messages and the reference: "a whole number", "one of
/// none, token, zero, logit".
template <class T>
std::string type_text() {
  if constexpr (std::is_same_v<T, bool>)
    return "true or false";
  else if constexpr (std::is_same_v<T, int64_t>)
    return "a whole number";
  else if constexpr (std::is_same_v<T, double>)
    return "a number";
  else if constexpr (std::is_same_v<T, std::string>)
    return "text";
  else if constexpr (std::is_enum_v<T>)
    return "one of " + comma_list(enum_names<T>());
  else if constexpr (HasFields<T>)
    return "a section";
  else {
    using Item = typename T::value_type;
    if constexpr (HasFields<Item>)
      return "a list of sections";
    else if constexpr (std::is_same_v<Item, int64_t>)
      return "a list of whole numbers";
    else if constexpr (std::is_same_v<Item, double>)
      return "a list of numbers";
    else
      return "a list of " + type_text<Item>();
  }
}

/// One key of a configuration, as the reference and the suggestions know it.
struct KeyInfo {
  std::string key;  // "model.sink.count"; "data.train.N.path" within a list
  std::string type;
  std::string default_value;  // as YAML
  Field field;
  bool section = false;  // has keys of its own instead of a value
};

/// `node` on one line: scalars as they are, lists as [a, b], sections as {a: 1}.
std::string inline_yaml(const ConfigNode& node);

/// Appends all keys of T, sections before what they contain.
template <class T>
void describe_keys(const T& defaults, const std::string& prefix, std::vector<KeyInfo>& keys) {
  T::visit_fields(defaults,
                  [&]<class V>(std::string_view name, const V& value, const Field& field) {
                    const std::string key = dotted(prefix, name);
                    keys.push_back({key,
                                    type_text<V>(),
                                    HasFields<V> ? "" : inline_yaml(to_node(value)),
                                    field,
                                    HasFields<V>});
                    if constexpr (HasFields<V>)
                      describe_keys(value, key, keys);
                    else if constexpr (kIsList<V>) {
                      if constexpr (HasFields<typename V::value_type>)
                        describe_keys(typename V::value_type{}, key + ".N", keys);
                    }
                  });
}

/// "0 to 1", "at least 1", "at most 5"; empty when everything is allowed.
std::string range_text(const Field& field);

}  // namespace basin
