#include "train/initial_model.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <stdexcept>

#include "configs/log.h"
#include "configs/yaml_config.h"
#include "data/tokenizer.h"
#include "data/tokenizer_sinks.h"
#include "model/checkpoint.h"
#include "model/step_directories.h"

namespace basin {
namespace {

namespace fs = std::filesystem;

/// Both ways of saying the same number.
ModelConfig spelled_out(ModelConfig config) {
  config.num_key_value_heads = config.kv_heads();
  config.head_dim = config.head_size();
  return config;
}

/// The sinks that `wanted` gives to a model that has none.
SinkConfig new_sink(const std::string& init_from, int64_t rows, SinkConfig wanted) {
  if (!wanted.token_ids.empty()) return wanted;
  for (const SinkRow& row :
       choose_sink_rows(resolve_model_directory(init_from), rows, wanted.count))
    wanted.token_ids.push_back(row.id);
  SinkConfig reserved = wanted;
  reserved.token_ids.clear();
  return reserved.ids() == wanted.token_ids ? reserved : wanted;
}

/// What reads a tokenizer gives ids to added tokens in order.
void check_sink_rows(const std::string& init_from, const std::vector<int64_t>& ids) {
  const fs::path directory = resolve_model_directory(init_from);
  const std::optional<Tokenizer> tokenizer = open_tokenizer(directory, false);
  if (!tokenizer) return;
  const auto added = read_added_pieces(directory);
  int64_t next = next_piece_id(directory, *tokenizer);
  for (const int64_t id : ids) {
    const bool is_piece = (id < tokenizer->vocab_size() && !tokenizer->piece(id).empty()) ||
                          added.contains(id);
    if (!is_piece && id != next)
      throw std::invalid_argument(fmt::format(
          "model.sink.token_ids: {} is no piece of the tokenizer in {}, nor the id that a token "
          "added to it would get ({})",
          id,
          directory.string(),
          next));
    if (!is_piece) ++next;
  }
}

std::string describe(const SinkRow& row) {
  switch (row.kind) {
    case SinkRow::Kind::kBos:
      return fmt::format("row {}, the tokenizer's BOS {}", row.id, row.piece);
    case SinkRow::Kind::kReserved:
      return fmt::format("row {}, {}", row.id, row.piece);
    case SinkRow::Kind::kPadding:
      return fmt::format("row {}, which no piece of the tokenizer has", row.id);
    case SinkRow::Kind::kNew:
      return fmt::format("row {}, which is new and starts as the mean of the others", row.id);
  }
  return "";
}

/// What the first start made of keys that the run file leaves open or gives without the new sinks; resume_obstacles compares the rest.
void settle_resumed(ModelConfig& model, const ModelConfig& before) {
  if (model.num_key_value_heads == 0) model.num_key_value_heads = before.num_key_value_heads;
  if (model.head_dim == 0) model.head_dim = before.head_dim;
  if (model.sink.kind != before.sink.kind || model.sink.kind != SinkKind::kToken) return;
  if (model.sink.token_ids.empty() && model.sink.count == before.sink.count) model.sink = before.sink;
  int64_t without_sinks = before.vocab_size;
  const std::vector<int64_t> ids = before.sink.ids();
  while (std::ranges::find(ids, without_sinks - 1) != ids.end()) --without_sinks;
  if (model.vocab_size == without_sinks) model.vocab_size = before.vocab_size;
}

/// The rows that `source` has, and below them their mean.
void copy_rows(const at::Tensor& source, at::Tensor target) {
  const int64_t rows = source.size(0);
  target.narrow(0, 0, rows).copy_(source);
  if (target.size(0) > rows)
    target.narrow(0, rows, target.size(0) - rows).copy_(source.to(at::kDouble).mean(0, true));
}

}  // namespace

InitialModel find_initial_model(const fs::path& init_from, const fs::path& run_directory) {
  const fs::path before = run_directory / "config.yaml";
  if (!run_directory.empty() && !list_steps(run_directory).empty() && fs::exists(before))
    return {config_from_file<RunConfig>(before).model, true};
  try {
    return {read_model_config(resolve_model_directory(init_from)), false};
  } catch (const std::runtime_error& error) {
    throw std::runtime_error(fmt::format("train.init_from: {}", error.what()));
  }
}

void settle_model(RunConfig& config, const InitialModel& initial) {
  ModelConfig& model = config.model;
  ModelConfig expected = initial.config;
  if (model.vocab_size == 0) model.vocab_size = expected.vocab_size;
  if (initial.resumes) return settle_resumed(model, expected);
  const std::string& from = config.train.init_from;
  if (expected.sink.kind == SinkKind::kNone && model.sink.kind == SinkKind::kToken) {
    const bool is_given = !model.sink.token_ids.empty();
    expected.sink = model.sink = new_sink(from, expected.vocab_size, model.sink);
    for (const int64_t id : expected.sink.ids()) {
      if (id > expected.vocab_size)
        throw std::invalid_argument(fmt::format(
            "model.sink.token_ids: {} is no row of the {} that {} has, nor the next one",
            id,
            initial.config.vocab_size,
            from));
      expected.vocab_size = std::max(expected.vocab_size, id + 1);
    }
    if (is_given) check_sink_rows(from, expected.sink.ids());
    if (model.vocab_size == initial.config.vocab_size) model.vocab_size = expected.vocab_size;
  }
  if (model.num_key_value_heads == 0) model.num_key_value_heads = expected.num_key_value_heads;
  if (model.head_dim == 0) model.head_dim = expected.head_dim;
  std::string lines;
  for (const Difference& key : differences(spelled_out(expected), spelled_out(model)))
    lines += fmt::format("\n  model.{}: {}, but that model has {}{}",
                         key.key,
                         key.b,
                         key.a,
                         key.key.starts_with("sink.") ? " (only sink tokens can be given, and only "
                                                        "to a model without a sink)"
                                                      : "");
  if (!lines.empty())
    throw std::invalid_argument(fmt::format(
        "train.init_from: {} decides what the model is: leave these keys out{}", from, lines));
}

std::vector<SinkRow> choose_sink_rows(const fs::path& directory, int64_t rows, int64_t count) {
  std::vector<SinkRow> chosen;
  const std::optional<Tokenizer> tokenizer = open_tokenizer(directory, false);
  int64_t pieces = rows;
  if (tokenizer) {
    pieces = next_piece_id(directory, *tokenizer);
    const int64_t bos = tokenizer->bos_id();
    if (bos >= 0 && bos < rows && bos != tokenizer->eos_id())
      chosen.push_back({bos, SinkRow::Kind::kBos, tokenizer->piece(bos)});
    if (tokenizer->has_reserved_ids())
      for (const int64_t id : {3, 4, 5})
        chosen.push_back({id, SinkRow::Kind::kReserved, tokenizer->piece(id)});
  }
  for (int64_t id = pieces; std::ssize(chosen) < count; ++id)
    chosen.push_back({id, id < rows ? SinkRow::Kind::kPadding : SinkRow::Kind::kNew});
  chosen.resize(static_cast<size_t>(count));
  return chosen;
}

void check_initial_tokenizer(const RunConfig& config, const DatasetInfo& info) {
  const std::string& from = config.train.init_from;
  if (from.empty() || !list_steps(config.run.dir).empty()) return;
  const std::optional<Tokenizer> tokenizer = open_tokenizer(resolve_model_directory(from), false);
  if (tokenizer && tokenizer->hash() != info.tokenizer_hash)
    throw std::invalid_argument(
        fmt::format("the data was prepared with another tokenizer ({}, {}) than train.init_from {} "
                    "reads ({}): prepare the text again with --tokenizer {}",
                    info.tokenizer_path.string(),
                    info.tokenizer_hash,
                    from,
                    tokenizer->hash(),
                    from));
}

void load_initial_weights(const RunConfig& config, Transformer& target, bool says) {
  const at::NoGradGuard no_grad;
  const fs::path directory = resolve_model_directory(config.train.init_from);
  const auto source = load_model(directory, target.dtype(), target.device());
  for (const Parameter& parameter : target.parameters())
    copy_rows(source->parameter(parameter.name), parameter.tensor);
  if (!says) return;
  log_info("starting from {}", directory.string());
  const SinkConfig& sink = config.model.sink;
  if (source->config().sink.tokens() == sink.tokens()) return;
  const std::vector<SinkRow> rows =
      choose_sink_rows(directory, source->config().vocab_size, sink.count);
  for (size_t i = 0; i < rows.size(); ++i)
    log_info("sink token: {}",
             rows[i].id == sink.ids()[i]
                 ? describe(rows[i])
                 : fmt::format("row {}, as model.sink.token_ids says", sink.ids()[i]));
}

fs::path initial_tokenizer_directory(const RunConfig& config) {
  return fs::path(config.run.dir) / "initial-tokenizer";
}

void save_initial_tokenizer(const RunConfig& config) {
  const fs::path from = resolve_model_directory(config.train.init_from),
                 to = initial_tokenizer_directory(config);
  const std::optional<Tokenizer> tokenizer = open_tokenizer(from);
  if (!tokenizer) return;  // checkpoints get the data's
  make_writable_directory(to);
  copy_tokenizer_files(from, to);
  if (const fs::path ends = from / "generation_config.json"; fs::exists(ends))
    write_file(to / "generation_config.json", read_file(ends));
  // In a checkpoint of ours the tokenizer.model counts: there must be none where it did not before.
  if (!tokenizer->is_sentencepiece()) fs::remove(to / "tokenizer.model");
  const SinkConfig& sink = config.model.sink;
  if (sink.tokens() == 0 || read_model_config(from).sink.tokens() > 0) return;
  prepend_sinks(to, sink.ids(), config.data.sequence_length + sink.tokens());
  open_tokenizer(to, false);  // or the checkpoints' could not be opened either
}

}  // namespace basin
