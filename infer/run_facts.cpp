#include "infer/run_facts.h"

#include <fmt/core.h>

#include <algorithm>
#include <functional>
#include <nlohmann/json.hpp>
#include <sstream>

#include "configs/files.h"
#include "configs/log.h"
#include "configs/yaml_config.h"
#include "infer/model_directory.h"

namespace basin {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

/// Runs `read` on a file that may be missing or damaged.
void read_if_there(const fs::path& file, const std::function<void(const std::string&)>& read) {
  if (!fs::exists(file)) return;
  try {
    read(read_file(file));
  } catch (const std::exception& error) {
    log_warn("{}: left out of the model card: {}", file.string(), error.what());
  }
}

std::optional<double> number(const Json& row, const char* key) {
  const auto found = row.find(key);
  return found != row.end() && found->is_number() ? std::optional(found->get<double>())
                                                  : std::nullopt;
}

void read_metrics(const std::string& text, RunFacts& facts) {
  std::istringstream lines(text);
  int64_t last = -1;
  for (std::string line; std::getline(lines, line);) {
    if (line.empty()) continue;
    const Json row = Json::parse(line);
    const int64_t step = row.at("step");
    if (facts.step >= 0 && step > facts.step) break;
    last = step;
    facts.tokens = number(row, "tokens").value_or(0);
    if (const auto loss = number(row, "loss")) facts.loss = loss, facts.loss_step = step;
    if (const auto loss = number(row, "val_loss")) facts.val_loss = loss, facts.val_step = step;
  }
  if (facts.step < 0) facts.step = last;
  // Not every step is logged, but each has as many tokens.
  if (last > 0) facts.tokens = facts.tokens / static_cast<double>(last) * static_cast<double>(facts.step);
}

void read_table(const std::string& text, RunFacts& facts) {
  const Json json = Json::parse(text);
  const auto step = json.find("step");
  const bool other_step = facts.step >= 0 && step != json.end() && step->is_number_integer() &&
                          step->get<int64_t>() != facts.step;
  if (other_step) return;
  StreamTable table{
      fs::path(json.at("source").get<std::string>()).filename().string(),
      json.at("cache"),
      json.value("dtype", "float32"),
      {}};
  for (const Json& row : json.at("rows"))
    if (row.at("mode") == "stream" || row.at("mode") == "window")
      table.rows.push_back(
          {row.at("sinks"), row.at("tokens"), row.at("nll"), row.at("perplexity")});
  const auto same = [&](const StreamTable& other) {
    return other.source == table.source && other.cache == table.cache &&
           other.dtype == table.dtype;
  };
  if (!table.rows.empty() && std::ranges::none_of(facts.tables, same))
    facts.tables.push_back(std::move(table));
}

}  // namespace

std::string RunFacts::value(const std::string& key) const {
  const ConfigNode* node = config.at(key);
  return node ? node->scalar : "";
}

std::vector<std::string> RunFacts::datasets() const {
  std::vector<std::string> paths;
  if (const ConfigNode* list = config.at("data.train"))
    for (const ConfigNode& item : list->items)
      if (const ConfigNode* path = item.at("path")) paths.push_back(path->scalar);
  return paths;
}

RunFacts read_run_facts(const fs::path& run, int64_t step) {
  RunFacts facts;
  facts.step = step;
  read_if_there(run / "config.yaml", [&](const std::string& text) {
    facts.config = parse_yaml(text, (run / "config.yaml").string());
  });
  read_if_there(run / "metrics.jsonl", [&](const std::string& text) { read_metrics(text, facts); });
  for (const fs::path& file : eval_files(run, "evaluate-"))
    read_if_there(file, [&](const std::string& text) { read_table(text, facts); });
  return facts;
}

}  // namespace basin
