// Environment variables as a value: what launchers say is read from one, so that tests can make
// one up.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>

namespace basin {

class Environment {
 public:
  /// This process's.
  static Environment of_process();
  explicit Environment(std::map<std::string, std::string> variables)
      : variables_(std::move(variables)) {}

  /// The variable's value; one that is empty counts as not set.
  std::optional<std::string> text(const std::string& name) const;
  /// The same as a whole number. Throws std::invalid_argument naming the variable when it is none.
  std::optional<int64_t> integer(const std::string& name) const;

  const std::map<std::string, std::string>& variables() const { return variables_; }

 private:
  std::map<std::string, std::string> variables_;
};

}  // namespace basin
