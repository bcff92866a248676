// basin generate: text that streams for as long as wanted, from a cache of constant size.
#include <fmt/core.h>

#include <algorithm>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <stdexcept>

#include "configs/clock.h"
#include "configs/files.h"
#include "configs/json_text.h"
#include "configs/log.h"
#include "configs/signals.h"
#include "infer/command_options.h"
#include "infer/commands.h"
#include "infer/generator.h"
#include "infer/utf8.h"

namespace basin {
namespace {

constexpr uint64_t kLargestSeed = 9'000'000'000'000'000;

struct Arguments {
  ModelOptions model;
  std::string prompt, prompt_file;
  int64_t max_tokens = 256;
  std::optional<int64_t> cache, sinks;
  SamplerConfig sampler;
  bool ignore_eos = false, eight_bit = false, json = false;
};

std::string read_prompt(const Arguments& arguments) {
  const std::string& file = arguments.prompt_file;
  std::string prompt = file.empty() ? arguments.prompt : read_file(file == "-" ? "/dev/stdin" : file);
  if (prompt.find('\0') != std::string::npos)  // UTF-16, mostly
    throw std::runtime_error(
        fmt::format("--prompt-file {}: not a text file in UTF-8: it has zero bytes", file));
  if (const int64_t invalid = sanitize_utf8(prompt); invalid > 0)
    log_warn("prompt: {} invalid UTF-8 sequences read as U+FFFD", invalid);
  return prompt;
}

/// One JSON document: the ids that were fed, the sink's included, those that were drawn, their text.
std::string json_text(const LoadedModel& model,
                      std::span<const int32_t> prompt,
                      std::span<const int32_t> drawn) {
  std::vector<int64_t> fed = model.model->config().sink.ids();
  fed.insert(fed.end(), prompt.begin(), prompt.end());
  std::string text;
  const Tokenizer& tokenizer = model.require_tokenizer();
  for (const int32_t id : drawn)
    if (id < tokenizer.vocab_size()) text += tokenizer.decode({&id, 1});
  const nlohmann::ordered_json json = {
      {"prompt_tokens", fed}, {"tokens", std::vector(drawn.begin(), drawn.end())}, {"text", text}};
  return to_text(json);
}

void run(const Arguments& arguments) {
  arguments.sampler.validate();
  const LoadedModel model = arguments.model.open();
  if (arguments.eight_bit) round_to_q8(*model.model);
  const Tokenizer& tokenizer = model.require_tokenizer();
  const int64_t entries = arguments.cache ? *arguments.cache : model.default_cache();
  // By default a sink model keeps its own sink tokens, any other model its first four tokens (or
  // fewer, when the cache is that small).
  const int64_t own = model.model->config().sink.tokens(),
                usual = own > 0 ? own : std::min<int64_t>(4, entries - 1);
  const CacheShape shape = split_cache(entries, arguments.sinks.value_or(usual));
  if (model.trained_tokens > 0 && entries > model.trained_tokens - 1)
    log_warn(
        "a cache of {} entries reaches further back than the {} tokens that the model was trained "
        "to see",
        entries,
        model.trained_tokens);

  const std::string prompt = read_prompt(arguments);
  std::vector<int32_t> ids(model.prepended_ids().begin(), model.prepended_ids().end());
  const std::vector<int32_t> words = tokenizer.encode(prompt);
  ids.insert(ids.end(), words.begin(), words.end());
  if (const auto place = model.find_sink(ids))
    log_warn(
        "prompt: token {} is \"{}\", a sink token, which the model puts in front by itself and was "
        "never trained to see elsewhere",
        *place + 1,
        tokenizer.piece(ids[*place]));
  Generator generator(*model.model,
                      shape,
                      arguments.sampler,
                      arguments.eight_bit ? DecodeWeights::kQ8 : DecodeWeights::kModel);
  const auto fed = Clock::now();
  generator.feed(ids);
  log_info("prompt: {} tokens in {:.2f} s; cache {} + {} entries, {:.1f} MB",
           ids.size(),
           seconds_since(fed),
           shape.sinks,
           shape.recent,
           static_cast<double>(generator.cache().bytes()) / 1e6);

  Utf8Stream characters;
  const auto started = Clock::now();
  int64_t made = 0;
  std::vector<int32_t> drawn;  // for --json only
  const auto finish = [&] {
    write_stdout(arguments.json ? json_text(model, ids, drawn) : characters.finish() + "\n");
    log_info(
        "{} tokens, {:.1f} tokens/s", made, static_cast<double>(made) / seconds_since(started));
  };
  try {
    while (made < arguments.max_tokens || arguments.max_tokens == 0) {
      check_interrupt();
      const auto id = static_cast<int32_t>(generator.next());
      ++made;
      if (!arguments.ignore_eos &&
          std::find(model.eos_ids.begin(), model.eos_ids.end(), id) != model.eos_ids.end())
        break;
      if (arguments.json)
        drawn.push_back(id);
      else if (id < tokenizer.vocab_size())
        write_stdout(characters.push(tokenizer.decode({&id, 1})));
    }
  } catch (const Interrupted&) {  // the usual end of an endless text
    finish();
    throw;
  }
  finish();
}

}  // namespace

void add_generate(CLI::App& app) {
  auto arguments = std::make_shared<Arguments>();
  CLI::App* verb = app.add_subcommand(
      "generate", "continues a prompt, for ever if wanted, with a cache of constant size");
  arguments->model.add_to(*verb);
  CLI::Option* prompt = verb->add_option(
      "--prompt", arguments->prompt, "text to continue; longer than the cache is fine");
  verb->add_option("--prompt-file", arguments->prompt_file, "the same, from a file; -: from standard input")
      ->excludes(prompt);
  verb->add_option("--max-tokens",
                   arguments->max_tokens,
                   "tokens to generate; 0: until the end-of-text token or Ctrl-C")
      ->capture_default_str()
      ->check(at_least(0));
  verb->add_option("--temperature",
                   arguments->sampler.temperature,
                   "divides the logits; 0: always the likeliest token")
      ->capture_default_str();
  verb->add_option("--top-k", arguments->sampler.top_k, "only the k likeliest tokens; 0: all")
      ->capture_default_str();
  verb->add_option("--top-p",
                   arguments->sampler.top_p,
                   "only the likeliest tokens that together have this probability")
      ->capture_default_str();
  verb->add_option("--min-p",
                   arguments->sampler.min_p,
                   "only tokens with this share of the likeliest one's probability")
      ->capture_default_str();
  verb->add_option("--seed", arguments->sampler.seed, "the same seed gives the same text")
      ->capture_default_str()
      ->check(CLI::Range(uint64_t{0}, kLargestSeed));
  verb->add_option("--cache",
                   arguments->cache,
                   "entries of the cache, kept initial tokens included; default: what the model "
                   "was trained on, minus 1");
  verb->add_option("--sinks",
                   arguments->sinks,
                   "initial tokens kept; default: the model's own sink tokens, else 4");
  verb->add_flag(
      "--q8",
      arguments->eight_bit,
      "8-bit weights (blocks of 32 with a scale each): half of what bfloat16 has to read "
      "for a token");
  verb->add_flag("--json",
                 arguments->json,
                 "print one JSON document in the end: the ids fed and drawn, and their text");
  verb->add_flag("--ignore-eos", arguments->ignore_eos, "go on after the end-of-text token");
  verb->footer(
      "Example: basin generate runs/demo-sink --prompt 'My fellow citizens' --max-tokens 200 "
      "--temperature 0.8");
  verb->callback([arguments] { run(*arguments); });
}

}  // namespace basin
