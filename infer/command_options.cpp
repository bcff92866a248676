#include "infer/command_options.h"

#include <ATen/Parallel.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <iterator>
#include <vector>

#include "configs/config_node.h"
#include "configs/json_text.h"
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

CLI::Validator at_least(int64_t least) {
  return {[least](std::string& text) {
            double number = 0;
            const bool fits =
                CLI::detail::lexical_cast(text, number) && number >= static_cast<double>(least);
            return fits ? std::string() : fmt::format("{} is less than {}", text, least);
          },
          fmt::format(">= {}", least)};
}

CLI::Option* add_numbers_option(CLI::App& verb,
                                const std::string& name,
                                std::vector<int64_t>& numbers,
                                const std::string& about) {
  const auto read = [&numbers, name](const std::vector<std::string>& words) {
    numbers.clear();
    for (const std::string& word : words)
      for (size_t begin = 0, end = 0; end != std::string::npos; begin = end + 1) {
        end = word.find(',', begin);
        const std::string part = word.substr(begin, end == std::string::npos ? end : end - begin);
        const auto number = parse_integer(part);
        if (!number)
          throw CLI::ValidationError(
              name,
              fmt::format("{}: expected whole numbers with commas between them, found \"{}\"",
                          word,
                          printable(part)));
        numbers.push_back(*number);
      }
  };
  return verb.add_option_function<std::vector<std::string>>(name, read, about)
      ->type_name("INT,...")
      ->default_str(fmt::format("{}", fmt::join(numbers, ",")));
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
      ->check(at_least(0));
  return group;
}

}  // namespace basin
