// --set, of the verbs that read a run file.
#pragma once

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

namespace basin {

/// One KEY=VALUE each time that it is given.
inline void add_set_option(CLI::App& verb, std::vector<std::string>& overrides) {
  verb.add_option("--set",
                  overrides,
                  "override a key of the run file, e.g. model.vocab_size=32000; may be repeated")
      ->type_size(1)
      ->allow_extra_args(false);
}

}  // namespace basin
