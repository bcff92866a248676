// basin export: a model for other software.
#include <fmt/format.h>

#include <memory>
#include <optional>
#include <stdexcept>
#include <string>

#include "configs/log.h"
#include "configs/units.h"
#include "infer/command_options.h"
#include "infer/commands.h"
#include "infer/export_gguf.h"
#include "infer/export_hf.h"

namespace basin {
namespace {

struct Arguments {
  std::string model, format, out, dtype;
  std::optional<std::string> max_shard_size;
  bool force = false;
};

void run_hf(const Arguments& arguments) {
  HfExport options;
  options.out = arguments.out;
  options.dtype = arguments.dtype;
  const std::string size = arguments.max_shard_size.value_or("5GB");
  const auto bytes = parse_bytes(size);
  if (!bytes)
    throw std::invalid_argument(
        fmt::format("--max-shard-size: \"{}\" is no size: expected a number with B, kB, MB, GB, TB "
                    "or KiB to TiB, such as 5GB",
                    size));
  options.max_shard_bytes = *bytes;
  options.force = arguments.force;
  export_hugging_face(arguments.model, options);
}

void run(const Arguments& arguments) {
  if (arguments.format == "hf")
    run_hf(arguments);
  else if (arguments.max_shard_size)
    throw std::invalid_argument("--max-shard-size is for --format hf: a GGUF file is one file");
  else
    export_gguf(arguments.model, {arguments.out, arguments.dtype, arguments.force});
  log_info("wrote {}", arguments.out);
}

}  // namespace

void add_export(CLI::App& app) {
  auto arguments = std::make_shared<Arguments>();
  CLI::App* verb = app.add_subcommand("export", "a model as other software loads it");
  verb->add_option("MODEL",
                   arguments->model,
                   "a run (its newest step), a step, or a model directory in Hugging Face layout")
      ->required();
  verb->add_option("--format",
                   arguments->format,
                   "hf: a Hugging Face directory with a model card; gguf: one file for llama.cpp")
      ->required()
      ->check(CLI::IsMember({"hf", "gguf"}));
  verb->add_option("--out", arguments->out, "the directory or file to write; must not be there yet")
      ->required();
  verb->add_option("--dtype",
                   arguments->dtype,
                   "hf: float32, float16, bfloat16; gguf: f32, f16, bf16, q8_0 (matrices; norms "
                   "stay f32); default: what the model is stored in");
  verb->add_option("--max-shard-size",
                   arguments->max_shard_size,
                   "hf: weights beyond this go into several files with an index")
      ->default_str("5GB");
  verb->add_flag("--force", arguments->force, "replace an earlier export");
  verb->footer(
      "Examples:\n  basin export runs/demo-sink --format hf --out exported/demo-sink\n"
      "  basin export runs/demo-sink --format gguf --dtype q8_0 --out demo-sink.gguf");
  verb->callback([arguments] { run(*arguments); });
}

}  // namespace basin
