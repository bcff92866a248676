// Options that several verbs of this room share.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <string>
#include <vector>

#include "infer/documents.h"
#include "infer/model_directory.h"

namespace basin {

/// --device: auto, cpu or cuda.
void add_device_option(CLI::App& verb, std::string& device);
/// What it names. Throws std::runtime_error when cuda was asked for and is not there.
at::Device device_of_option(const std::string& device);

/// Refuses numbers below `least`.
CLI::Validator at_least(int64_t least);

/// A list of whole numbers, separated by commas: --sinks 0,1,2,4. An empty element is refused.
CLI::Option* add_numbers_option(CLI::App& verb,
                                const std::string& name,
                                std::vector<int64_t>& numbers,
                                const std::string& about);

/// MODEL, --dtype, --device, --threads.
struct ModelOptions {
  std::string path;
  std::string dtype = "float32", device = "auto";
  int threads = 0;  // 0: LibTorch's default, all cores

  void add_to(CLI::App& verb);
  /// Sets the number of threads and opens the model.
  LoadedModel open() const;
};

/// --text, --dataset, --max-tokens; one of the first two is required. Returns the group of those
/// two, to which a verb may add what it can read instead.
CLI::Option_group* add_source_options(CLI::App& verb, DocumentSource& source);

}  // namespace basin
