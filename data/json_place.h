// JSON files from elsewhere, read with errors that name the file and the place in it,
// "DIR/tokenizer.json: model.merges[3]: ...".
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>

namespace basin {

/// A value and where it stands. Refers to the value: it must not outlive the document. All errors
/// are std::runtime_error.
class JsonPlace {
 public:
  JsonPlace(const nlohmann::json& value, std::string file, std::string path = "")
      : value_(&value), file_(std::move(file)), path_(std::move(path)) {}

  [[noreturn]] void fail(const std::string& what) const;

  /// The member `key`; fails when this is no object or has none.
  JsonPlace at(const std::string& key) const;
  /// The same, or a null.
  JsonPlace find(const std::string& key) const;
  /// Elements of a list; fails when this is none.
  size_t size() const;
  JsonPlace operator[](size_t i) const;

  bool is_null() const { return value_->is_null(); }
  bool is_string() const { return value_->is_string(); }
  bool is_array() const { return value_->is_array(); }
  const std::string& string() const;
  bool boolean() const;
  /// `otherwise` for a null.
  bool boolean_or(bool otherwise) const { return is_null() ? otherwise : boolean(); }
  /// An integer from 0 to `largest`.
  int64_t integer(int64_t largest) const;
  /// The members; fails when this is no object.
  const nlohmann::json::object_t& object() const;
  const nlohmann::json& value() const { return *value_; }

 private:
  const nlohmann::json* value_;
  std::string file_, path_;
};

}  // namespace basin
