// Software from elsewhere that tests run, where configs/setup.sh has installed it.
#pragma once

#include <filesystem>
#include <string>

namespace basin {

/// The Python of .deps/`venv`; empty where that is not there, or was not finished.
inline std::string python_of(const std::string& venv) {
  const std::filesystem::path folder = std::filesystem::path(BASIN_SOURCE_DIR) / ".deps" / venv;
  return std::filesystem::exists(folder / ".complete") ? folder / "bin/python" : "";
}

/// The command line of a script of tests/ for the shell, `arguments` as they are.
inline std::string script_line(const std::string& python,
                               const std::string& script,
                               const std::string& arguments) {
  return "'" + python + "' '" BASIN_SOURCE_DIR "/tests/" + script + "' " + arguments;
}

}  // namespace basin
