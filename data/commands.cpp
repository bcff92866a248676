#include "data/commands.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <memory>
#include <nlohmann/json.hpp>

#include "configs/clock.h"
#include "configs/files.h"
#include "configs/json_text.h"
#include "configs/progress.h"
#include "data/prepare.h"

namespace basin {
namespace {

std::string split_row(const char* name, const SplitCounts& counts) {
  return fmt::format(
      "{:<9} {:>10} {:>14} {:>12} {:>11.2f}\n",
      name,
      counts.documents,
      counts.tokens,
      format_bytes(static_cast<double>(counts.bytes)),
      static_cast<double>(counts.bytes) / static_cast<double>(std::max<int64_t>(counts.tokens, 1)));
}

std::string summary(const PrepareOptions& options, const PrepareResult& result, double seconds) {
  const Sidecar& sidecar = result.sidecar;
  const std::string prefix = options.prefix.string();
  double bytes = static_cast<double>(sidecar.train.bytes);
  std::string table = fmt::format(
      "{:<9} {:>10} {:>14} {:>12} {:>11}\n", "", "documents", "tokens", "text", "bytes/token");
  table += split_row("train", sidecar.train);
  if (sidecar.heldout) {
    table += split_row("held out", *sidecar.heldout);
    bytes += static_cast<double>(sidecar.heldout->bytes);
  }
  table += fmt::format("tokenizer: {} pieces, {}.model\n", sidecar.vocab_size, prefix);
  table += fmt::format("written:   {0}_train.{{bin,idx}}{1}, {0}.json\n",
                       prefix,
                       sidecar.heldout ? fmt::format(", {}_heldout.{{bin,idx}}", prefix) : "");
  table += result.up_to_date
               ? fmt::format("up to date: {} is what this command would make\n", prefix)
               : fmt::format(
                     "done in {}, {}/s\n", format_duration(seconds), format_bytes(bytes / seconds));
  return table;
}

void run_prepare(const PrepareOptions& options, bool json) {
  const Clock::time_point started = Clock::now();
  const PrepareResult result = prepare(options);
  const double seconds = seconds_since(started);
  std::string text;
  if (json) {
    nlohmann::json document = result.sidecar.to_json();
    document["prefix"] = options.prefix.string();
    document["up_to_date"] = result.up_to_date;
    document["seconds"] = seconds;
    text = to_text(document);
  } else {
    text = summary(options, result, seconds);
  }
  write_stdout(text);
}

}  // namespace

void add_prepare(CLI::App& app) {
  auto options = std::make_shared<PrepareOptions>();
  auto json = std::make_shared<bool>(false);
  CLI::App* verb =
      app.add_subcommand("prepare", "text -> tokenizer and token datasets for training");
  verb->add_option("--input,-i",
                   options->inputs,
                   "text: .txt (one document a file) or .jsonl (one a line), also .gz and .zst; "
                   "files, folders, globs")
      ->required();
  verb->add_option("--out,-o",
                   options->prefix,
                   "PREFIX of PREFIX.model, PREFIX_train.{bin,idx}, PREFIX_heldout.{bin,idx} and "
                   "PREFIX.json")
      ->required();
  verb->add_option(
      "--vocab-size", options->vocab_size, "pieces of the new tokenizer, a multiple of 128");
  verb->add_option("--holdout",
                   options->holdout,
                   "documents kept from training: globs on file path, name or stem, or one "
                   "fraction such as 0.01 (a lone .txt is split)");
  verb->add_option("--tokenizer",
                   options->tokenizer,
                   "use this SentencePiece model or tokenizer.json, or that of this model directory, "
                   "instead of training one");
  verb->add_option("--text-key", options->text_key, "key of the text in .jsonl")
      ->capture_default_str();
  verb->add_option(
          "--seed", options->seed, "draws the tokenizer's training text and a held-out fraction")
      ->capture_default_str()
      ->check(CLI::Range(uint64_t{0}, uint64_t{9'000'000'000'000'000}));
  verb->add_option("--threads", options->threads, "0: all cores; the output does not depend on it")
      ->capture_default_str()
      ->check(CLI::Range(0, 4096));
  verb->add_flag("--force", options->force, "replace files that `prepare` did not write");
  verb->add_flag("--json", *json, "print the summary as JSON");
  verb->footer(
      "example:\n  basin prepare --input books/ 'news/*.jsonl.zst' --out data/corpus --vocab-size "
      "8192 --holdout 0.01\n"
      "The same command again finds its output up to date and does nothing.");
  verb->callback([options, json] { run_prepare(*options, *json); });
}

}  // namespace basin
