// Reads run directories for the report. The per-token file can be large (rows x scored tokens), so it is mapped and
// binned in one pass; only the bins are kept.
#include "train/report_data.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <nlohmann/json.hpp>
#include <span>
#include <stdexcept>
#include <string_view>
#include <tuple>

#include "configs/files.h"
#include "configs/log.h"
#include "configs/yaml_config.h"
#include "data/tokenizer.h"
#include "infer/model_directory.h"
#include "model/checkpoint.h"

namespace basin {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;
constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

double number(const Json& object, const char* key) {
  const auto it = object.find(key);
  return it == object.end() || it->is_null() ? kNaN : it->get<double>();
}

/// For what `evaluate` gives as null where it means nothing: recent entries of `dense`, bytes of a dataset without
/// text.
int64_t count_or_zero(const Json& object, const char* key) {
  const Json& value = object.at(key);
  return value.is_null() ? 0 : value.get<int64_t>();
}

/// What was measured: the step, -1 where the file does not say or the model was no step of a run.
int64_t step_or_unknown(const Json& json) {
  const auto it = json.find("step");
  return it == json.end() || it->is_null() ? -1 : it->get<int64_t>();
}

[[noreturn]] void fail(const fs::path& file, const std::string& what, std::string_view writer) {
  throw std::runtime_error(fmt::format("{}: {}; write it anew with `basin {}`", file.string(), what, writer));
}

/// Runs `parse`, naming the file where its contents are not what was expected.
template <class Parse>
auto parsed(const fs::path& file, std::string_view writer, Parse parse) {
  try {
    return parse(Json::parse(read_file(file)));
  } catch (const Json::exception& error) {
    fail(file, error.what(), writer);
  }
}

// ---- metrics.jsonl

LoggedStep logged_step(const Json& json) {
  return {.step = json.at("step").get<int64_t>(),
          .skipped = json.value("skipped", int64_t{0}),
          .tokens = json.at("tokens").get<double>(),
          .loss = number(json, "loss"),
          .val_loss = number(json, "val_loss"),
          .tokens_per_second = number(json, "tokens_per_second"),
          .mfu = number(json, "mfu"),
          .sink_metric = number(json, "sink_metric"),
          .seconds = number(json, "seconds")};
}

// A last line without its newline belongs to a run that is still writing: it is left out, not complained about.
std::vector<LoggedStep> read_metrics(const fs::path& file) {
  const std::string text = read_file(file);
  std::vector<LoggedStep> rows;
  int64_t line_number = 0;
  for (size_t begin = 0, end; (end = text.find('\n', begin)) != std::string::npos; begin = end + 1) {
    ++line_number;
    const std::string_view line(text.data() + begin, end - begin);
    if (line.empty()) continue;
    try {
      rows.push_back(logged_step(Json::parse(line)));
    } catch (const Json::exception& error) {
      throw std::runtime_error(
          fmt::format("{}:{}: no logged step: {}; remove the line, or resume the run from a checkpoint before it",
                      file.string(), line_number, error.what()));
    }
  }
  return rows;
}

// ---- eval/evaluate-*.json

SavedRow evaluate_row(const Json& json) {
  SavedRow row{.mode = json.at("mode").get<std::string>(),
               .sinks = json.at("sinks").get<int64_t>(),
               .recent = count_or_zero(json, "recent"),
               .tokens = json.at("tokens").get<int64_t>(),
               .perplexity = number(json, "perplexity"),
               .bits_per_byte = number(json, "bits_per_byte"),
               .nll_delta = number(json, "nll_delta"),
               .ci_low = kNaN,
               .ci_high = kNaN,
               .tokens_per_second = number(json, "tokens_per_second")};
  if (const auto it = json.find("nll_delta_ci95"); it != json.end() && !it->is_null()) {
    row.ci_low = it->at(0).get<double>();
    row.ci_high = it->at(1).get<double>();
  }
  return row;
}

/// Bins that grow by 1.25 or to 64 scored tokens, whichever is more.
std::vector<int64_t> position_bins(const std::vector<SavedDocument>& documents) {
  std::vector<int64_t> sizes;
  for (const auto& document : documents) sizes.push_back(document.scored);
  std::ranges::sort(sizes);
  const int64_t longest = sizes.empty() ? 0 : sizes.back();
  auto reaches = sizes.begin();  // the first document that is as long as the position
  std::vector<int64_t> bins{1};
  int64_t tokens = 0;
  for (int64_t position = 1; position <= longest; ++position) {
    while (*reaches < position) ++reaches;
    tokens += sizes.end() - reaches;
    if (tokens >= 2 * kFewestTokens && static_cast<double>(position + 1) >= 1.25 * static_cast<double>(bins.back())) {
      bins.push_back(position + 1);
      tokens = 0;
    }
  }
  if (bins.size() > 1 && bins.back() <= longest && tokens < 2 * kFewestTokens)
    bins.pop_back();  // the rest is too little for a bin of its own
  if (bins.back() <= longest) bins.push_back(longest + 1);
  return bins;
}

/// The float32 values of a .npy file (format: numpy.lib.format), whose shape must be (rows, columns).
std::span<const std::byte> npy_values(const MappedFile& mapped, const fs::path& file, int64_t rows, int64_t columns) {
  const std::string_view bytes(reinterpret_cast<const char*>(mapped.data()), mapped.size_bytes());
  if (bytes.size() < 12 || bytes.substr(0, 6) != "\x93NUMPY") fail(file, "no .npy file", "evaluate ... --save");
  const bool wide = bytes[6] != 1;  // version 1 has a header length of 2 bytes, later ones of 4
  size_t length = 0;
  for (size_t i = wide ? 4 : 2; i-- > 0;) length = length << 8 | static_cast<unsigned char>(bytes[8 + i]);
  const size_t begin = (wide ? 12 : 10) + length;
  if (begin > bytes.size()) fail(file, "cut off inside its header", "evaluate ... --save");
  const std::string_view header = bytes.substr(0, begin);
  const std::string shape = fmt::format("({}, {})", rows, columns);
  if (header.find("'<f4'") == std::string_view::npos || header.find(shape) == std::string_view::npos ||
      header.find("'fortran_order': True") != std::string_view::npos) {
    fail(file, "expected float32 of shape " + shape + " in C order, as the .json beside it says",
         "evaluate ... --save");
  }
  if (bytes.size() - begin != static_cast<size_t>(rows * columns) * sizeof(float)) {
    fail(file, fmt::format("{} bytes of values, expected {}", bytes.size() - begin, rows * columns * 4),
         "evaluate ... --save");
  }
  return {mapped.data() + begin, bytes.size() - begin};
}

void read_per_token(SavedEvaluation& evaluation, const fs::path& file) {
  const MappedFile mapped(file);
  int64_t columns = 0;
  for (const auto& document : evaluation.documents) columns += document.scored;
  const auto rows = static_cast<int64_t>(evaluation.rows.size());
  const std::byte* value = npy_values(mapped, file, rows, columns).data();
  const size_t bins = evaluation.bins.size() - 1;
  for (int64_t row = 0; row < rows; ++row) {
    std::vector<double> sum(bins), count(bins);
    for (const auto& document : evaluation.documents) {
      size_t bin = 0;
      for (int64_t position = 1; position <= document.scored; ++position, value += sizeof(float)) {
        while (position >= evaluation.bins[bin + 1]) ++bin;
        float nll;
        std::memcpy(&nll, value, sizeof nll);
        if (std::isnan(nll)) continue;
        sum[bin] += nll;
        count[bin] += 1;
      }
    }
    auto& curve = evaluation.by_position.emplace_back(bins, kNaN);
    for (size_t b = 0; b < bins; ++b) {
      if (count[b] >= kFewestTokens) curve[b] = std::exp(sum[b] / count[b]);
    }
  }
}

SavedEvaluation read_evaluation(const fs::path& file) {
  SavedEvaluation evaluation = parsed(file, "evaluate ... --save", [&](const Json& json) {
    SavedEvaluation e{.source = json.at("source").get<std::string>(),
                      .sink_kind = json.at("sink").at("kind").get<std::string>(),
                      .dtype = json.value("dtype", "float32"),
                      .cache = json.at("cache").get<int64_t>(),
                      .documents = {},
                      .rows = {},
                      .bins = {},
                      .by_position = {},
                      .after_eviction = json.value("after_eviction", int64_t{-1}),
                      .step = step_or_unknown(json)};
    for (const Json& d : json.at("documents"))
      e.documents.push_back({.tokens = d.at("tokens").get<int64_t>(),
                             .scored = d.at("scored").get<int64_t>(),
                             .bytes = count_or_zero(d, "bytes")});
    for (const Json& row : json.at("rows")) e.rows.push_back(evaluate_row(row));
    return e;
  });
  evaluation.bins = position_bins(evaluation.documents);
  const fs::path per_token = fs::path(file).replace_extension(".npy");
  if (fs::exists(per_token) && evaluation.bins.size() > 1) read_per_token(evaluation, per_token);
  return evaluation;
}

// ---- eval/attention.json

SavedAttention read_attention(const fs::path& file) {
  SavedAttention attention = parsed(file, "attention ... --save", [](const Json& json) {
    SavedAttention a{.source = json.value("source", ""),
                     .epsilon = json.at("epsilon").get<double>(),
                     .sink_first = json.at("sink_first").get<double>(),
                     .sink_first_text = json.contains("sink_first_text") ? number(json, "sink_first_text") : kNaN,
                     .positions = json.at("positions").get<int64_t>(),
                     .sequences = json.at("sequences").get<int64_t>(),
                     .map_size = 0,
                     .step = step_or_unknown(json),
                     .alpha = json.at("alpha").get<std::vector<std::vector<double>>>(),
                     .maps = {}};
    if (json.contains("maps") && !json.at("maps").is_null()) {
      a.map_size = json.at("maps").at("size").get<int64_t>();
      a.maps = json.at("maps").at("values").get<std::vector<std::vector<std::vector<float>>>>();
    }
    return a;
  });
  if (attention.alpha.empty() || attention.alpha.front().empty())
    fail(file, "alpha has no layers or no heads", "attention ... --save");
  const size_t layers = attention.alpha.size(), heads = attention.alpha.front().size();
  const auto size = static_cast<size_t>(attention.map_size * attention.map_size);
  bool fits = attention.maps.empty() || attention.maps.size() == layers;
  for (const auto& layer : attention.alpha) fits = fits && layer.size() == heads;
  for (const auto& layer : attention.maps) {
    fits = fits && layer.size() == heads &&
           std::ranges::all_of(layer, [&](const auto& map) { return map.size() == size; });
  }
  if (!fits)
    fail(file, fmt::format("alpha and maps do not all have {} layers, {} heads and maps of {}", layers, heads, size),
         "attention ... --save");
  return attention;
}

// ---- a run

void flatten(const ConfigNode& node, const std::string& key, std::map<std::string, std::string>& flat) {
  const bool sections =
      std::ranges::any_of(node.items, [](const ConfigNode& item) { return item.kind != ConfigNode::Kind::kScalar; });
  if (node.kind == ConfigNode::Kind::kMap) {
    for (const ConfigEntry& entry : node.entries) flatten(entry.value, dotted(key, entry.key), flat);
  } else if (node.kind == ConfigNode::Kind::kList && sections) {
    for (size_t i = 0; i < node.items.size(); ++i) flatten(node.items[i], dotted(key, std::to_string(i)), flat);
  } else if (node.kind == ConfigNode::Kind::kList) {
    std::string list;
    for (const ConfigNode& item : node.items) list += (list.empty() ? "" : ", ") + item.scalar;
    flat[key] = "[" + list + "]";
  } else {
    flat[key] = node.scalar;
  }
}

/// Dotted key -> value as written; a list of scalars is one value.
std::map<std::string, std::string> flat_config(const fs::path& file) {
  std::map<std::string, std::string> flat;
  flatten(parse_yaml(read_config_file(file), file.string()), "", flat);
  return flat;
}

std::string tokenizer_hash(const fs::path& run) {
  std::vector<fs::path> steps;
  for (const auto& entry : fs::directory_iterator(run)) {
    if (entry.path().filename().string().starts_with("step-")) steps.push_back(entry.path());
  }
  std::ranges::sort(steps, std::greater{});
  steps.insert(steps.begin(), run / "final");
  steps.push_back(run);
  for (const auto& step : steps) {
    if (fs::exists(step / "tokenizer.model")) return xxh3_hex_of_file(step / "tokenizer.model");
    if (fs::exists(step / "tokenizer.json")) return basin::tokenizer_hash(read_file(step / "tokenizer.json"));
  }
  return "";
}

int64_t newest_step(const fs::path& run) {
  int64_t newest = -1;
  for (const auto& entry : fs::directory_iterator(run)) {
    const bool whole = fs::exists(entry.path() / "manifest.json");
    if (whole) newest = std::max(newest, step_of_model(entry.path()));
  }
  return newest;
}

RunRecord read_run(const fs::path& directory) {
  if (!fs::is_directory(directory))
    throw std::runtime_error(fmt::format("{}: no such run directory{}", directory.string(), other_models(directory)));
  const auto files = eval_files(directory, "evaluate-");
  const bool has_config = fs::exists(directory / "config.yaml"), has_metrics = fs::exists(directory / "metrics.jsonl");
  const bool has_attention = fs::exists(directory / "eval" / "attention.json");
  if (!has_config && !has_metrics && !has_attention && files.empty()) {
    throw std::runtime_error(fmt::format(
        "{}: no run: looked for config.yaml, metrics.jsonl, eval/evaluate-*.json and eval/attention.json and found "
        "none of them; name a directory that `basin train` wrote (its run.dir)",
        directory.string()));
  }
  RunRecord run;
  run.directory = directory;
  if (has_config) run.config = flat_config(directory / "config.yaml");
  if (has_metrics) run.metrics = read_metrics(directory / "metrics.jsonl");
  const int64_t newest = newest_step(directory);
  const auto is_current = [&](int64_t step, const fs::path& file) {
    if (step < 0 || newest < 0 || step == newest) return true;
    log_warn("{}: of step {}, not of the newest, {}: left out of the results",
             file.string(), step, newest);
    return false;
  };
  for (const auto& file : files) {
    const SavedEvaluation evaluation = read_evaluation(file);
    if (evaluation.step >= 0) run.trajectory.push_back(evaluation);
    if (!names_step(file) && is_current(evaluation.step, file)) run.evaluations.push_back(evaluation);
  }
  const auto order = [](const SavedEvaluation& e) {
    return std::tuple(e.source_name(), e.cache, e.dtype != "float32", e.dtype, e.step);
  };
  std::ranges::sort(run.evaluations, {}, order);
  std::ranges::sort(run.trajectory, {}, order);
  const auto twice = std::ranges::unique(run.trajectory, {}, order);  // the newest, with and without its name
  run.trajectory.erase(twice.begin(), twice.end());
  if (has_attention) {
    const fs::path file = directory / "eval" / "attention.json";
    SavedAttention attention = read_attention(file);
    if (is_current(attention.step, file)) run.attention = std::move(attention);
  }
  for (SavedTask& task : read_tasks(directory))
    if (is_current(task.step, task.file)) run.tasks.push_back(std::move(task));
  run.tokenizer_hash = tokenizer_hash(directory);
  return run;
}

}  // namespace

bool SavedRow::has_interval() const {
  return std::isfinite(ci_low) && std::isfinite(ci_high);
}

std::string SavedEvaluation::source_name() const {
  return fs::path(source).filename().string();
}

const SavedRow* SavedEvaluation::streaming_row(int64_t sinks) const {
  const auto it = std::ranges::find_if(rows, [&](const SavedRow& row) { return row.streams() && row.sinks == sinks; });
  return it == rows.end() ? nullptr : &*it;
}

std::string RunRecord::config_value(const std::string& key) const {
  const auto it = config.find(key);
  return it == config.end() ? "" : it->second;
}

std::string RunRecord::sink_kind() const {
  if (const std::string kind = config_value("model.sink.kind"); !kind.empty()) return kind;
  return evaluations.empty() ? "" : evaluations.front().sink_kind;
}

std::vector<RunRecord> read_runs(const std::vector<fs::path>& directories) {
  std::vector<RunRecord> runs;
  for (const fs::path& given : directories) {
    const fs::path directory = without_slash(given);
    for (const RunRecord& other : runs) {
      std::error_code ignored;
      if (fs::equivalent(other.directory, directory, ignored))
        throw std::invalid_argument(fmt::format("{}: named twice", given.string()));
    }
    runs.push_back(read_run(directory));
  }
  const auto last_part = [](const RunRecord& run) { return fs::weakly_canonical(run.directory).filename().string(); };
  for (RunRecord& run : runs) {
    const bool unique = std::ranges::count(runs, last_part(run), last_part) == 1;
    run.name = unique ? last_part(run) : run.directory.string();
  }
  return runs;
}

}  // namespace basin
