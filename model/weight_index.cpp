#include "model/weight_index.h"

#include <fmt/core.h>

#include <stdexcept>

#include "configs/json_text.h"

namespace basin {
namespace {

/// Why `file` cannot be the name of a weight file; empty when it can.
std::string problem(const std::string& file, std::string_view suffix) {
  using namespace std::string_literals;
  if (file.find_first_of("/\\\0"s) != std::string::npos || file == "." || file == "..")
    return "is no file name: weight files lie beside their index";
  if (file.ends_with(".json")) return "is an index itself: an index names weight files only";
  if (!file.ends_with(suffix) || file.size() == suffix.size())
    return fmt::format("does not end with {}", suffix);
  return "";
}

}  // namespace

std::map<std::string, std::string> read_weight_index(const std::string& name,
                                                     std::string_view text,
                                                     std::string_view suffix) {
  const nlohmann::json json = parse_untrusted_json(text, name);
  const auto map = json.is_object() ? json.find("weight_map") : json.end();
  if (!json.is_object() || map == json.end() || !map->is_object())
    throw std::runtime_error(
        fmt::format("{}: no object \"weight_map\", which says where each tensor is", name));
  std::map<std::string, std::string> files;
  for (const auto& [tensor, file] : map->items()) {
    const std::string found =
        file.is_string() ? problem(file.get_ref<const std::string&>(), suffix) : "is no string";
    if (!found.empty())
      throw std::runtime_error(fmt::format(
          "{}: tensor \"{}\": {} {}", name, printable(tensor), printable_json(file), found));
    files.emplace(tensor, file.get<std::string>());
  }
  if (files.empty()) throw std::runtime_error(fmt::format("{}: \"weight_map\" is empty", name));
  return files;
}

}  // namespace basin
