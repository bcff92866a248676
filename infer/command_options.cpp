#include "infer/command_options.h"

#include <ATen/Parallel.h>

#include <iterator>
#include <vector>

#include "model/device.h"

namespace basin {

void add_device_option(CLI::App& verb, std::string& device) {
  verb.add_option("--device", device, "auto (a GPU where one is usable), cpu or cuda")
      ->capture_default_str()
      ->check(CLI::IsMember(std::vector<std::string>(std::begin(kEnumNames<DeviceKind>),
                                                     std::end(kEnumNames<DeviceKind>))));
}

at::Device device_of_option(const std::string& device) {
  return choose_device(enum_value<DeviceKind>(device).value(), "--device");
}

void ModelOptions::add_to(CLI::App& verb) {
  verb.add_option("MODEL",
                  path,
                  "a run (its newest step), a step, or a model directory in Hugging Face layout")
      ->required();
  verb.add_option("--dtype", dtype, "arithmetic: float32 or bfloat16")
      ->capture_default_str()
      ->check(CLI::IsMember({"float32", "bfloat16"}));
  add_device_option(verb, device);
  verb.add_option("--threads", threads, "CPU threads; 0: all cores")->check(CLI::Range(0, 4096));
}

LoadedModel ModelOptions::open() const {
  if (threads > 0) at::set_num_threads(threads);
  return open_model(path, dtype, device_of_option(device));
}

CLI::Option_group* add_source_options(CLI::App& verb, DocumentSource& source) {
  CLI::Option_group* group = verb.add_option_group("source", "what to read");
  group->add_option("--text",
                    source.text,
                    "text files (.txt, .jsonl, either with .gz or .zst), folders or globs; a .txt "
                    "is one document");
  group->add_option(
      "--dataset", source.dataset, "a token dataset: PREFIX of PREFIX.bin and PREFIX.idx");
  group->require_option(1);
  verb.add_option("--text-key", source.text_key, "which key of a .jsonl line holds its text")
      ->capture_default_str();
  verb.add_option(
          "--max-tokens", source.max_tokens, "only the first N tokens of each document; 0: all")
      ->check(CLI::NonNegativeNumber);
  return group;
}

}  // namespace basin
