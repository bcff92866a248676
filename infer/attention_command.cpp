// basin attention: does the model have attention sinks, and where.
#include <ATen/ATen.h>
#include <fmt/core.h>

#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <stdexcept>

#include "configs/files.h"
#include "configs/json_text.h"
#include "configs/log.h"
#include "infer/attention_maps.h"
#include "infer/command_options.h"
#include "infer/commands.h"
#include "infer/evaluate_output.h"

namespace basin {
namespace {

struct Arguments {
  ModelOptions model;
  DocumentSource source;
  bool json = false, save = false;
};

// One line per layer: alpha of each head, a star where it passes the threshold.
std::string to_table(const SinkMetric& metric, bool has_sink_token) {
  const int64_t L = metric.alpha.size(0), H = metric.alpha.size(1);
  std::string table =
      fmt::format("alpha: mean attention to {}, {} positions, {} sequences; * above {}\n\nlayer",
                  has_sink_token ? "the sink token" : "the first token",
                  kSinkPositions,
                  metric.sequences,
                  kSinkEpsilon);
  for (int64_t h = 0; h < H; ++h) table += fmt::format("  {:>7}", fmt::format("head {}", h));
  table += "\n";
  for (int64_t l = 0; l < L; ++l) {
    table += fmt::format("{:>5}", l);
    for (int64_t h = 0; h < H; ++h) {
      const double alpha = metric.alpha[l][h].item<double>();
      table += fmt::format("  {:>6.3f}{}", alpha, alpha > kSinkEpsilon ? '*' : ' ');
    }
    table += "\n";
  }
  table +=
      fmt::format("\n{:.1f} % of {} heads have their sink there", 100 * metric.sink_first, L * H);
  if (has_sink_token)
    table += fmt::format("; {:.1f} % on the first token of the text", 100 * metric.sink_first_text);
  return table + ".\n";
}

void run(const Arguments& arguments) {
  const LoadedModel model = arguments.model.open();
  const int64_t sinks = model.model->config().sink.tokens();
  const std::vector<TokenDocument> documents = read_documents(arguments.source, model);
  const std::filesystem::path saved_in = eval_directory(arguments.model.path);
  if (arguments.save) make_writable_directory(saved_in);
  if (model.trained_tokens > 0 && kSinkPositions - sinks > model.trained_tokens)
    log_warn(
        "the metric reads {} tokens of text, the model was trained on {}: what it does behind them "
        "is not what it learnt",
        kSinkPositions - sinks,
        model.trained_tokens);
  const SinkMetric metric =
      measure_sink(*model.model, spread_samples(documents, kSinkPositions - sinks, kSinkSequences));
  if (metric.sequences < kSinkSequences)
    log_warn("the text has only {} sequences of {} tokens; the metric is defined on {}",
             metric.sequences,
             kSinkPositions - sinks,
             kSinkSequences);
  if (!at::isfinite(metric.maps).all().item<bool>())
    throw std::runtime_error(
        "the model's attention is not a number: its weights are damaged or its arithmetic overflows");
  nlohmann::ordered_json json = result_header(model.directory.string(), model.model->config().sink);
  json["dtype"] = arguments.model.dtype;
  json["source"] = arguments.source.describe();
  json.update(to_json(metric));
  write_stdout(arguments.json ? to_line(json) : to_table(metric, sinks > 0));
  if (arguments.save) {
    const std::string step = named_step(arguments.model.path);
    const std::filesystem::path path =
        saved_in / (step.empty() ? "attention.json" : "attention-" + step + ".json");
    write_file(path, to_line(json));
    log_info("saved {}", path.string());
  }
}

}  // namespace

void add_attention(CLI::App& app) {
  auto arguments = std::make_shared<Arguments>();
  CLI::App* verb = app.add_subcommand(
      "attention", "attention-sink metric and mean attention maps per layer and head");
  arguments->model.add_to(*verb);
  add_source_options(*verb, arguments->source);
  verb->add_flag(
      "--json", arguments->json, "print one JSON document, maps included, instead of the table");
  verb->add_flag(
      "--save",
      arguments->save,
      "also write attention.json into the run's eval/ folder, attention-step-XXXXXXXX.json where "
      "MODEL names a step");
  verb->footer("Example: basin attention runs/demo-sink --dataset data/demo_heldout");
  verb->callback([arguments] { run(*arguments); });
}

}  // namespace basin
