// Runs of the real program on the tiny configuration.
#pragma once

#include <sys/wait.h>

#include <cstdlib>
#include <string>
#include <vector>

#include "configs/yaml_config.h"
#include "tests/train/train_fixture.h"

namespace basin {

class RunsTest : public TrainTest {
 protected:
  /// Exit status of `basin train` with this configuration; its output goes to error_text().
  int train(const RunConfig& config,
            const std::string& arguments,
            const std::string& environment = "") {
    return shell(command(config, arguments, environment));
  }
  /// For the shell. Where the tests have been carried to another machine, the environment says where
  /// it is.
  static std::string program() {
    const char* carried = std::getenv("BASIN_PROGRAM");
    return "'" + std::string(carried ? carried : BASIN_PROGRAM) + "'";
  }
  std::string command(const RunConfig& config,
                      const std::string& arguments,
                      const std::string& environment) const {
    write_file(root_ / "run.yaml", to_yaml(config));
    return environment + " " + program() + " train '" + (root_ / "run.yaml").string() + "' " +
           arguments + " >'" + (root_ / "out").string() + "' 2>'" + (root_ / "err").string() + "'";
  }
  static int shell(const std::string& line) {
    const int status = std::system(line.c_str());
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  }
  std::string error_text() const { return read_file(root_ / "err"); }
  std::vector<double> losses(const std::string& run) const {
    std::vector<double> out;
    for (const nlohmann::json& row : rows(run)) out.push_back(row.at("loss"));
    return out;
  }
};

}  // namespace basin
