#include "infer/evaluate_output.h"

#include <fmt/core.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <numeric>
#include <stdexcept>

#include "configs/files.h"
#include "configs/json_text.h"
#include "infer/model_directory.h"
#include "infer/npy.h"

namespace basin {
namespace {

using Json = nlohmann::ordered_json;

template <class T>
Json or_null(const std::optional<T>& value) {
  return value ? Json(*value) : Json(nullptr);
}

Json row_to_json(const EvaluationRow& row) {
  Json json;
  json["mode"] = enum_name(row.mode);
  json["sinks"] = row.sinks;
  json["recent"] = or_null(row.recent);
  json["tokens"] = row.tokens;
  json["nll"] = row.nll;
  json["perplexity"] = row.perplexity();
  json["bits_per_byte"] = or_null(row.bits_per_byte);
  json["nll_delta"] = or_null(row.nll_delta);
  json["nll_delta_ci95"] = row.nll_delta_ci95
                               ? Json::array({row.nll_delta_ci95->low, row.nll_delta_ci95->high})
                               : Json(nullptr);
  json["tokens_per_second"] = row.tokens_per_second;
  return json;
}

std::string table_row(const EvaluationRow& row) {
  const auto text = [](const auto& value, const char* format) {
    return value ? fmt::format(fmt::runtime(format), *value) : std::string("-");
  };
  const std::string interval =
      row.nll_delta_ci95
          ? fmt::format("{:+.4f} {:+.4f}", row.nll_delta_ci95->low, row.nll_delta_ci95->high)
          : "-";
  const std::string kept = row.mode == Mode::kDense ? "all" : fmt::format("{}", row.sinks);
  return fmt::format(
      "{:<9}  {:>4}  {:>6}  {:>9}  {:>8.4f}  {:>10.4g}  {:>9}  {:>9}  {:>15}  {:>9.0f}\n",
      enum_name(row.mode),
      kept,
      text(row.recent, "{}"),
      row.tokens,
      row.nll,
      row.perplexity(),
      text(row.bits_per_byte, "{:.4f}"),
      text(row.nll_delta, "{:+.4f}"),
      interval,
      row.tokens_per_second);
}

int64_t sum(const std::vector<int64_t>& values) {
  return std::accumulate(values.begin(), values.end(), int64_t{0});
}

/// What the saved evaluation `old` holds that one as described would not; empty when nothing.
/// `tokens` of each document.
std::string what_would_be_lost(const Json& old,
                               const EvaluationHeader& header,
                               const EvaluateConfig& config,
                               const std::vector<int64_t>& tokens,
                               bool in_part) {
  std::vector<int64_t> before;
  for (const Json& document : old.at("documents")) before.push_back(document.at("tokens"));
  if (const std::string dtype = old.at("dtype"); dtype != header.dtype) return "results in " + dtype;
  if (in_part && sum(before) > sum(tokens))
    return fmt::format("results of {} tokens, not {}", sum(before), sum(tokens));
  const std::string source = old.at("source");  // a path may be spelled in several ways
  if (source != header.source && before != tokens) return "results of " + source;
  const int64_t step = step_of_model(header.model);
  if (before != tokens || old.at("step") != (step < 0 ? Json(nullptr) : Json(step))) return "";
  for (const Json& row : old.at("rows")) {
    const std::string name = row.at("mode");
    const auto mode = enum_value<Mode>(name == "window" ? "stream" : name).value_or(Mode::kDense);
    const auto has = [&](Mode m) { return std::ranges::find(config.modes, m) != config.modes.end(); };
    const int64_t kept = row.at("sinks");
    const bool there = mode != Mode::kStream
                           ? has(mode)
                           : (kept == 0 && has(Mode::kWindow)) ||
                                 (has(mode) && std::ranges::find(config.sinks, kept) != config.sinks.end());
    if (!there)
      return mode == Mode::kStream ? fmt::format("a row with {} initial tokens kept", kept)
                                   : fmt::format("a row of mode {}", name);
  }
  return "";
}

}  // namespace

std::string describe_sink(const SinkConfig& sink) {
  if (sink.kind != SinkKind::kToken) return fmt::format("sink {}", enum_name(sink.kind));
  return sink.count == 1 ? "1 sink token" : fmt::format("{} sink tokens", sink.count);
}

Json result_header(const std::string& model, const SinkConfig& sink) {
  const int64_t step = step_of_model(model);
  Json json;
  json["model"] = model;
  json["step"] = step < 0 ? Json(nullptr) : Json(step);
  json["sink"] = {{"kind", enum_name(sink.kind)}, {"count", sink.tokens()}};
  return json;
}

Json to_json(const EvaluationHeader& header, const Evaluation& evaluation) {
  Json json = result_header(header.model, header.sink);
  json["cache"] = header.cache;
  json["dtype"] = header.dtype;
  json["source"] = header.source;
  json["after_eviction"] = evaluation.after_eviction;
  json["documents"] = Json::array();
  for (const DocumentSummary& d : evaluation.documents) {
    Json document;
    if (!d.name.empty()) document["name"] = d.name;
    document["tokens"] = d.tokens;
    document["scored"] = d.scored;
    document["bytes"] = or_null(d.bytes);
    json["documents"].push_back(std::move(document));
  }
  json["rows"] = Json::array();
  for (const EvaluationRow& row : evaluation.rows) json["rows"].push_back(row_to_json(row));
  return json;
}

std::string json_text(const EvaluationHeader& header, const Evaluation& evaluation) {
  return to_text(to_json(header, evaluation));
}

std::string to_table(const EvaluationHeader& header, const Evaluation& evaluation) {
  int64_t scored = 0;
  for (const DocumentSummary& d : evaluation.documents) scored += d.scored;
  const bool has_delta = std::ranges::any_of(
      evaluation.rows, [](const EvaluationRow& row) { return row.nll_delta.has_value(); });
  std::string table = fmt::format(
      "{}: {}, cache {}, {}\n{}: {} document{}, {} tokens to score{}{}\n\n",
      header.model,
      describe_sink(header.sink),
      header.cache,
      header.dtype,
      header.source,
      evaluation.documents.size(),
      evaluation.documents.size() == 1 ? "" : "s",
      scored,
      evaluation.after_eviction == 0
          ? ""
          : fmt::format(", {} of them after tokens have left the cache", evaluation.after_eviction),
      has_delta ? "; delta is nll minus that of stream with 4 kept, paired per token" : "");
  table += fmt::format("{:<9}  {:>4}  {:>6}  {:>9}  {:>8}  {:>10}  {:>9}  {:>9}  {:>15}  {:>9}\n",
                       "mode",
                       "kept",
                       "recent",
                       "tokens",
                       "nll",
                       "perplexity",
                       "bits/byte",
                       "delta",
                       "95 % interval",
                       "tokens/s");
  for (const EvaluationRow& row : evaluation.rows) table += table_row(row);
  if (const std::string sentence = first_token_sentence(evaluation.rows); !sentence.empty())
    table += "\n" + sentence + "\n";
  return table;
}

void write_per_token(const std::filesystem::path& path, const Evaluation& evaluation) {
  std::vector<float> values;
  for (const EvaluationRow& row : evaluation.rows)
    values.insert(values.end(), row.token_nll.begin(), row.token_nll.end());
  write_npy(path, values, static_cast<int64_t>(evaluation.rows.size()));
}

std::filesystem::path saved_path(const std::filesystem::path& directory,
                                 const EvaluationHeader& header) {
  std::string name = fmt::format("evaluate-{}-C{}", header.stem, header.cache);
  if (header.dtype != "float32") name += "-" + header.dtype;
  if (!header.step.empty()) name += "-" + header.step;
  return directory / (name + ".json");
}

void refuse_to_replace(const std::filesystem::path& directory,
                       const EvaluationHeader& header,
                       const EvaluateConfig& config,
                       const std::vector<TokenDocument>& documents,
                       int64_t max_tokens) {
  const std::filesystem::path path = saved_path(directory, header);
  if (!std::filesystem::exists(path)) return;
  std::vector<int64_t> tokens;
  for (const TokenDocument& d : documents) tokens.push_back(d.tokens.numel());
  std::string what;
  try {
    what = what_would_be_lost(
        Json::parse(read_file(path)), header, config, tokens, max_tokens > 0);
  } catch (const Json::exception&) {
    return;  // nothing that anybody could read
  }
  if (!what.empty())
    throw std::invalid_argument(fmt::format(
        "--save would replace {}, which holds {}: move it away first", path.string(), what));
}

std::filesystem::path save_evaluation(const std::filesystem::path& directory,
                                      const EvaluationHeader& header,
                                      const Evaluation& evaluation) {
  std::filesystem::create_directories(directory);
  const std::filesystem::path path = saved_path(directory, header);
  write_per_token(std::filesystem::path(path).replace_extension(".npy"), evaluation);
  write_file(path, json_text(header, evaluation));
  return path;
}

}  // namespace basin
