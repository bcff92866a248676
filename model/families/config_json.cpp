#include "model/families/config_json.h"

#include <fmt/core.h>

#include <stdexcept>

#include "configs/files.h"
#include "configs/json_text.h"

namespace basin {

ConfigJson::ConfigJson(std::string file, std::string prefix, nlohmann::json object)
    : file_(std::move(file)), prefix_(std::move(prefix)), object_(std::move(object)) {}

ConfigJson ConfigJson::read(const std::filesystem::path& file) {
  return parse(read_file(file), file.string());
}

ConfigJson ConfigJson::parse(std::string_view text, const std::string& file) {
  nlohmann::json parsed = parse_untrusted_json(text, file);
  if (!parsed.is_object()) throw std::runtime_error(fmt::format("{}: no JSON object", file));
  return ConfigJson(file, "", std::move(parsed));
}

void ConfigJson::refuse(const std::string& key, const std::string& reason) const {
  throw std::runtime_error(fmt::format("{}: key \"{}{}\": {}", file_, prefix_, key, one_line(reason)));
}

bool ConfigJson::has(const std::string& key) const {
  const auto found = object_.find(key);
  return found != object_.end() && !found->is_null();
}

bool ConfigJson::is_null(const std::string& key) const {
  const auto found = object_.find(key);
  return found != object_.end() && found->is_null();
}

bool ConfigJson::is_object(const std::string& key) const {
  return has(key) && object_.at(key).is_object();
}

std::vector<std::string> ConfigJson::keys() const {
  std::vector<std::string> keys;
  for (const auto& [key, value] : object_.items()) keys.push_back(key);
  return keys;
}

const nlohmann::json& ConfigJson::at(const std::string& key) const {
  if (!has(key)) refuse(key, "missing");
  return object_.at(key);
}

int64_t ConfigJson::integer(const std::string& key) const {
  const nlohmann::json& value = at(key);
  if (!value.is_number_integer())
    refuse(key, fmt::format("expected an integer, found {}", printable_json(value)));
  if (value.is_number_unsigned() && value.get<uint64_t>() > INT64_MAX)
    refuse(key, fmt::format("{} is too large", printable_json(value)));
  return value.get<int64_t>();
}

int64_t ConfigJson::integer(const std::string& key, int64_t fallback) const {
  return has(key) ? integer(key) : fallback;
}

double ConfigJson::number(const std::string& key, double fallback) const {
  if (!has(key)) return fallback;
  if (!at(key).is_number())
    refuse(key, fmt::format("expected a number, found {}", printable_json(at(key))));
  return at(key).get<double>();
}

bool ConfigJson::boolean(const std::string& key, bool fallback) const {
  if (!has(key)) return fallback;
  if (!at(key).is_boolean())
    refuse(key, fmt::format("expected true or false, found {}", printable_json(at(key))));
  return at(key).get<bool>();
}

std::string ConfigJson::text(const std::string& key) const {
  if (!at(key).is_string())
    refuse(key, fmt::format("expected a string, found {}", printable_json(at(key))));
  return at(key).get<std::string>();
}

std::string ConfigJson::text(const std::string& key, const std::string& fallback) const {
  return has(key) ? text(key) : fallback;
}

std::vector<int64_t> ConfigJson::integers(const std::string& key) const {
  if (!has(key)) return {};
  const nlohmann::json& list = at(key);
  bool valid = list.is_array();
  for (const nlohmann::json& value : list) valid = valid && value.is_number_integer();
  if (!valid)
    refuse(key, fmt::format("expected a list of integers, found {}", printable_json(list)));
  return list.get<std::vector<int64_t>>();
}

std::vector<std::string> ConfigJson::texts(const std::string& key) const {
  if (!has(key)) return {};
  const nlohmann::json& list = at(key);
  bool valid = list.is_array();
  for (const nlohmann::json& value : list) valid = valid && value.is_string();
  if (!valid) refuse(key, fmt::format("expected a list of strings, found {}", printable_json(list)));
  return list.get<std::vector<std::string>>();
}

ConfigJson ConfigJson::object(const std::string& key) const {
  if (!has(key)) return ConfigJson(file_, prefix_ + key + ".", nlohmann::json::object());
  if (!at(key).is_object())
    refuse(key, fmt::format("expected an object, found {}", printable_json(at(key))));
  return ConfigJson(file_, prefix_ + key + ".", at(key));
}

}  // namespace basin
