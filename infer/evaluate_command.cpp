// basin evaluate: perplexity under streaming and the ways that it is compared with; accuracy on
// tasks.
#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <memory>
#include <optional>
#include <stdexcept>

#include "configs/files.h"
#include "configs/log.h"
#include "infer/command_options.h"
#include "infer/commands.h"
#include "infer/evaluate_output.h"
#include "infer/tasks_output.h"

namespace basin {
namespace {

struct Arguments {
  ModelOptions model;
  DocumentSource source;
  EvaluateConfig config;
  std::vector<std::string> modes = {"stream"};
  std::string per_token;
  std::optional<int64_t> cache;
  std::vector<int64_t> sinks;  // empty: the usual ones
  std::vector<std::string> tasks;
  std::string per_example;
  bool json = false, save = false;
};

/// Every file is read, and every place to write is tried, before the first is scored.
void run_tasks(const Arguments& arguments) {
  std::vector<ScoredTask> scored;
  for (const std::string& path : arguments.tasks) {
    scored.push_back({read_task(path), {}});
    for (size_t i = 0; i + 1 < scored.size(); ++i)
      if (scored[i].task.name == scored.back().task.name)
        throw std::invalid_argument(
            fmt::format("--tasks: {} and {} have the same name, which names "
                        "their results: rename one of them",
                        scored[i].task.source,
                        path));
  }
  const std::filesystem::path saved_in =
      arguments.save ? eval_directory(arguments.model.path) : std::filesystem::path();
  if (arguments.save) make_writable_directory(saved_in);
  if (!arguments.per_example.empty())
    make_writable_place(arguments.per_example);
  const LoadedModel model = arguments.model.open();
  for (auto& [task, result] : scored) result = score_task(model, task);
  const TasksHeader header{
      model.directory.string(), model.model->config().sink, arguments.model.dtype};
  write_stdout(arguments.json ? json_text(header, scored) : to_table(header, scored));
  if (!arguments.per_example.empty()) write_per_example(arguments.per_example, scored);
  if (!arguments.save) return;
  for (const auto& path : save_tasks(saved_in, named_step(arguments.model.path), header, scored))
    log_info("saved {}", path.string());
}

/// The paper's columns, and the model's own number of sink tokens.
std::vector<int64_t> usual_sinks(int64_t own) {
  std::vector<int64_t> sinks = EvaluateConfig().sinks;
  sinks.push_back(own);
  std::ranges::sort(sinks);
  sinks.erase(std::unique(sinks.begin(), sinks.end()), sinks.end());
  return sinks;
}

void run(const Arguments& arguments) {
  if (!arguments.tasks.empty()) return run_tasks(arguments);
  EvaluateConfig config = arguments.config;
  config.modes.clear();
  for (const std::string& mode : arguments.modes) config.modes.push_back(parse_mode(mode));
  if (!arguments.sinks.empty() &&
      std::ranges::find(config.modes, Mode::kStream) == config.modes.end())
    throw std::invalid_argument("--sinks is for mode stream, which --mode does not name");
  const LoadedModel model = arguments.model.open();
  config.trained_tokens = model.trained_tokens;
  config.cache = arguments.cache ? *arguments.cache : model.default_cache();
  config.sinks = arguments.sinks.empty() ? usual_sinks(model.model->config().sink.tokens())
                                         : arguments.sinks;
  config.validate(model.model->config());
  const std::vector<TokenDocument> documents = read_documents(arguments.source, model);
  const std::filesystem::path saved_in = eval_directory(arguments.model.path);
  const EvaluationHeader header{model.directory.string(),
                                model.model->config().sink,
                                config.cache,
                                arguments.model.dtype,
                                arguments.source.describe(),
                                arguments.source.stem(),
                                named_step(arguments.model.path)};
  if (arguments.save) {
    make_writable_directory(saved_in);
    refuse_to_replace(saved_in, header, config, documents, arguments.source.max_tokens);
  }
  if (!arguments.per_token.empty())
    make_writable_place(arguments.per_token);
  const Evaluation evaluation = evaluate(model, documents, config);
  write_stdout(arguments.json ? json_text(header, evaluation) : to_table(header, evaluation));
  if (!arguments.per_token.empty()) write_per_token(arguments.per_token, evaluation);
  if (arguments.save)
    log_info("saved {}", save_evaluation(saved_in, header, evaluation).string());
}

}  // namespace

void add_evaluate(CLI::App& app) {
  auto arguments = std::make_shared<Arguments>();
  CLI::App* verb = app.add_subcommand("evaluate",
                                      "perplexity of documents under streaming, with any number of "
                                      "initial tokens kept; accuracy on "
                                      "zero-shot tasks");
  arguments->model.add_to(*verb);
  CLI::Option* tasks =
      add_source_options(*verb, arguments->source)
          ->add_option("--tasks",
                       arguments->tasks,
                       "zero-shot tasks, .jsonl with one example a line (forms below); may be "
                       "repeated");
  verb->add_option(
          "--mode", arguments->modes, "dense, window, recompute, stream, separated by commas")
      ->delimiter(',')
      ->capture_default_str();
  verb->add_option("--cache",
                   arguments->cache,
                   "entries of the cache, kept initial tokens included; default: what the model "
                   "was trained on, minus 1");
  add_numbers_option(*verb,
                     "--sinks",
                     arguments->sinks,
                     "kept initial tokens, one streaming row each; a model's own sink tokens count")
      ->default_str("0,1,2,4 and as many as the model's own");
  verb->add_option("--limit",
                   arguments->config.limit,
                   "recompute scores only N tokens, spread evenly over all documents; 0: all");
  verb->add_option("--per-token",
                   arguments->per_token,
                   "write nll per token as float32 .npy: one row per row of the table, NaN where "
                   "it did not score");
  verb->add_option("--per-example",
                   arguments->per_example,
                   "with --tasks: write each example's log-likelihoods to this .jsonl file")
      ->needs(tasks);
  for (const char* name :
       {"--mode", "--cache", "--sinks", "--limit", "--per-token", "--text-key", "--max-tokens"})
    verb->get_option(name)->excludes(tasks);
  verb->add_flag("--json", arguments->json, "print one JSON document instead of the table");
  verb->add_flag("--save",
                 arguments->save,
                 "also write evaluate-SOURCE-C<cache>[-bfloat16].json and .npy (tasks-NAME[-bfloat16].json) into "
                 "the "
                 "run's eval/ folder; with "
                 "-step-XXXXXXXX behind it where MODEL names a step, for the report's curve");
  verb->footer(
      "Examples:\n"
      "  basin evaluate runs/demo-sink --dataset data/demo_heldout --sinks 0,1,2,4 --cache 255\n"
      "  basin evaluate runs/demo-sink --tasks piqa.jsonl lambada.jsonl --save\n"
      "Lines of a --tasks file, all of one kind; choices and targets follow the context as they "
      "are:\n"
      "  {\"context\": \"The sky is\", \"choices\": [\" blue.\", \" salty.\"], \"answer\": 0}   "
      "multiple choice\n"
      "  {\"context\": \"She looked up at the\", \"target\": \" sky\"}                      last "
      "word\n"
      "  {\"goal\": ..., \"sol1\": ..., \"sol2\": ..., \"label\": 0} as PIQA has them, {\"text\": "
      "...} as LAMBADA's\n"
      "Tokens and scores are those of lm-eval: acc by log-likelihood, acc_norm by that per "
      "character of\n"
      "the choice, acc_bytes per byte; last words: acc by greedy decoding, perplexity of the "
      "word.");
  verb->callback([arguments] { run(*arguments); });
}

}  // namespace basin
