#include "infer/evaluate_output.h"

#include <fmt/core.h>

#include <nlohmann/json.hpp>

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
  std::string table = fmt::format(
      "{}: {}, cache {}, {}\n{}: {} document{}, {} tokens to score; delta is nll minus that of "
      "stream with 4 kept, paired per token\n\n",
      header.model,
      describe_sink(header.sink),
      header.cache,
      header.dtype,
      header.source,
      evaluation.documents.size(),
      evaluation.documents.size() == 1 ? "" : "s",
      scored);
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

std::filesystem::path save_evaluation(const std::filesystem::path& directory,
                                      const EvaluationHeader& header,
                                      const Evaluation& evaluation) {
  std::filesystem::create_directories(directory);
  const std::string stem = fmt::format("evaluate-{}-C{}{}{}",
                                       header.stem,
                                       header.cache,
                                       header.step.empty() ? "" : "-",
                                       header.step);
  write_per_token(directory / (stem + ".npy"), evaluation);
  const std::filesystem::path path = directory / (stem + ".json");
  write_file(path, json_text(header, evaluation));
  return path;
}

}  // namespace basin
