// How a config struct declares its keys: one `visit_fields` list, which the YAML reader, `--set`,
// `--print-config`, the comparison on resume and the reference in the README all walk. A struct is
// an aggregate with in-class defaults and
//
//   template <class Self, class Visitor>
//   static void visit_fields(Self& self, Visitor&& visit) {
//     visit("lr", self.lr, Field{.doc = "peak learning rate", .min = 0, .max = 1});
//     visit("schedule", self.schedule, Field{.doc = "learning-rate schedule"});  // a struct
//   }
//   std::vector<std::string> problems() const;  // optional: what no single field can say
//
// Field types: bool, int64_t, double, std::string, enums with `kEnumNames`, nested structs,
// std::vector of these. A struct may name the field that a bare scalar sets:
//   static constexpr std::string_view kShorthand = "path";
#pragma once

#include <iterator>
#include <limits>
#include <optional>
#include <span>
#include <string_view>

namespace basin {

/// What the reader and the reference say about one key. `min` and `max` are inclusive and checked
/// for numbers (and each number of a list).
struct Field {
  std::string_view doc;  // one line for the README, with the unit
  double min = -std::numeric_limits<double>::infinity();
  double max = std::numeric_limits<double>::infinity();
};

/// Spellings of an enum in the order of its values, which count from 0. Specialise it beside the
/// enum:
///   template <>
///   inline constexpr std::string_view kEnumNames<SinkKind>[] = {"none", "token"};
template <class Enum>
inline constexpr std::string_view kEnumNames[] = {""};

template <class Enum>
constexpr std::string_view enum_name(Enum value) {
  return kEnumNames<Enum>[static_cast<size_t>(value)];
}

/// The value spelled `name`, nothing when there is none.
template <class Enum>
constexpr std::optional<Enum> enum_value(std::string_view name) {
  for (size_t i = 0; i < std::size(kEnumNames<Enum>); ++i)
    if (kEnumNames<Enum>[i] == name) return static_cast<Enum>(i);
  return std::nullopt;
}

}  // namespace basin
