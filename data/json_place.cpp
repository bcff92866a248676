#include "data/json_place.h"

#include <fmt/format.h>

#include <stdexcept>

#include "configs/json_text.h"

namespace basin {
namespace {

using Json = nlohmann::json;

std::string type_name(const Json& value) {
  return value.is_number_integer() ? "an integer" : fmt::format("{}", value.type_name());
}

}  // namespace

void JsonPlace::fail(const std::string& what) const {
  throw std::runtime_error(one_line(path_.empty() ? fmt::format("{}: {}", file_, what)
                                                  : fmt::format("{}: {}: {}", file_, path_, what)));
}

JsonPlace JsonPlace::find(const std::string& key) const {
  static const Json kNothing;
  const auto& members = object();
  const auto found = members.find(key);
  return {found == members.end() ? kNothing : found->second,
          file_,
          path_.empty() ? key : path_ + "." + key};
}

JsonPlace JsonPlace::at(const std::string& key) const {
  const JsonPlace found = find(key);
  if (found.is_null()) {
    found.fail("is missing");
  }
  return found;
}

size_t JsonPlace::size() const {
  if (!value_->is_array()) {
    fail("expected a list, found " + type_name(*value_));
  }
  return value_->size();
}

JsonPlace JsonPlace::operator[](size_t i) const {
  return {value_->at(i), file_, fmt::format("{}[{}]", path_, i)};
}

const std::string& JsonPlace::string() const {
  if (!value_->is_string()) {
    fail("expected a string, found " + type_name(*value_));
  }
  return value_->get_ref<const std::string&>();
}

bool JsonPlace::boolean() const {
  if (!value_->is_boolean()) {
    fail("expected true or false, found " + type_name(*value_));
  }
  return value_->get<bool>();
}

int64_t JsonPlace::integer(int64_t largest) const {
  if (!value_->is_number_integer()) {
    fail("expected an integer, found " + type_name(*value_));
  }
  const bool fits = value_->is_number_unsigned()
                        ? value_->get<uint64_t>() <= static_cast<uint64_t>(largest)
                        : value_->get<int64_t>() >= 0 && value_->get<int64_t>() <= largest;
  if (!fits) {
    fail(fmt::format("expected 0 to {}, found {}", largest, value_->dump()));
  }
  return value_->get<int64_t>();
}

const Json::object_t& JsonPlace::object() const {
  if (!value_->is_object()) {
    fail("expected an object, found " + type_name(*value_));
  }
  return value_->get_ref<const Json::object_t&>();
}

}  // namespace basin
