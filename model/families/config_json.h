// A config.json under translation: typed access to its keys, and errors that name file and key.
// `null` reads as absent, as in Hugging Face.
#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace basin {

/// All members throw std::runtime_error for a value of another type; those without a fallback, also
/// for a missing key.
class ConfigJson {
 public:
  static ConfigJson read(const std::filesystem::path& file);
  /// `text` is what `file` holds.
  static ConfigJson parse(std::string_view text, const std::string& file);

  bool has(const std::string& key) const;
  bool is_null(const std::string& key) const;  // written so, where absence means something else
  bool is_object(const std::string& key) const;
  std::vector<std::string> keys() const;
  int64_t integer(const std::string& key) const;
  int64_t integer(const std::string& key, int64_t fallback) const;
  double number(const std::string& key, double fallback) const;
  bool boolean(const std::string& key, bool fallback) const;
  std::string text(const std::string& key) const;
  std::string text(const std::string& key, const std::string& fallback) const;
  std::vector<int64_t> integers(const std::string& key) const;   // empty when absent
  std::vector<std::string> texts(const std::string& key) const;  // empty when absent
  ConfigJson object(const std::string& key) const;               // empty when absent

  /// "FILE: key \"KEY\": reason"
  [[noreturn]] void refuse(const std::string& key, const std::string& reason) const;

 private:
  ConfigJson(std::string file, std::string prefix, nlohmann::json object);
  const nlohmann::json& at(const std::string& key) const;

  std::string file_, prefix_;
  nlohmann::json object_;
};

}  // namespace basin
