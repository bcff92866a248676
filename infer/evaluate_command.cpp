// basin evaluate: perplexity under streaming and the ways that it is compared with.
#include <spdlog/spdlog.h>

#include <filesystem>
#include <memory>
#include <optional>

#include "configs/files.h"
#include "infer/command_options.h"
#include "infer/commands.h"
#include "infer/evaluate_output.h"

namespace basin {
namespace {

struct Arguments {
  ModelOptions model;
  DocumentSource source;
  EvaluateConfig config;
  std::vector<std::string> modes = {"stream"};
  std::string per_token;
  std::optional<int64_t> cache;
  bool json = false, save = false;
};

void run(const Arguments& arguments) {
  EvaluateConfig config = arguments.config;
  config.modes.clear();
  for (const std::string& mode : arguments.modes) config.modes.push_back(parse_mode(mode));
  const LoadedModel model = arguments.model.open();
  config.trained_tokens = model.trained_tokens;
  config.cache = arguments.cache ? *arguments.cache : model.default_cache();
  config.validate(model.model->config().sink.tokens());
  const std::vector<TokenDocument> documents = read_documents(arguments.source, model);
  const std::filesystem::path saved_in = eval_directory(arguments.model.path);
  if (arguments.save) make_writable_directory(saved_in);
  if (!arguments.per_token.empty())
    make_writable_directory(std::filesystem::path(arguments.per_token).parent_path());
  const Evaluation evaluation = evaluate(model, documents, config);

  const EvaluationHeader header{model.directory.string(),
                                model.model->config().sink,
                                config.cache,
                                arguments.model.dtype,
                                arguments.source.describe(),
                                arguments.source.stem(),
                                named_step(arguments.model.path)};
  write_stdout(arguments.json ? json_text(header, evaluation) : to_table(header, evaluation));
  if (!arguments.per_token.empty()) write_per_token(arguments.per_token, evaluation);
  if (arguments.save)
    spdlog::info("saved {}", save_evaluation(saved_in, header, evaluation).string());
}

}  // namespace

void add_evaluate(CLI::App& app, int& status) {
  auto arguments = std::make_shared<Arguments>();
  CLI::App* verb = app.add_subcommand(
      "evaluate",
      "perplexity of documents under streaming, with any number of initial tokens kept");
  arguments->model.add_to(*verb);
  add_source_options(*verb, arguments->source);
  verb->add_option(
          "--mode", arguments->modes, "dense, window, recompute, stream, separated by commas")
      ->delimiter(',')
      ->capture_default_str();
  verb->add_option("--cache",
                   arguments->cache,
                   "entries of the cache, kept initial tokens included; default: what the model "
                   "was trained on, minus 1");
  verb->add_option("--sinks",
                   arguments->config.sinks,
                   "kept initial tokens, one streaming row each; a model's own sink tokens count")
      ->delimiter(',')
      ->capture_default_str();
  verb->add_option("--limit",
                   arguments->config.limit,
                   "recompute scores only N tokens, spread evenly over all documents; 0: all");
  verb->add_option("--per-token",
                   arguments->per_token,
                   "write nll per token as float32 .npy: one row per row of the table, NaN where "
                   "it did not score");
  verb->add_flag("--json", arguments->json, "print one JSON document instead of the table");
  verb->add_flag(
      "--save",
      arguments->save,
      "also write evaluate-SOURCE-C<cache>.json and .npy into the run's eval/ folder; with "
      "-step-XXXXXXXX behind it where MODEL names a step, for the report's curve");
  verb->footer(
      "Example: basin evaluate runs/demo-sink --dataset data/demo_heldout --sinks 0,1,2,4 --cache "
      "255");
  verb->callback([arguments, &status] {
    run(*arguments);
    status = 0;
  });
}

}  // namespace basin
