#include "infer/documents.h"

#include <ATen/ATen.h>
#include <fmt/core.h>

#include <algorithm>
#include <filesystem>
#include <span>
#include <stdexcept>

#include "configs/files.h"
#include "configs/signals.h"
#include "data/indexed_dataset.h"
#include "data/text_reader.h"

namespace basin {
namespace {

namespace fs = std::filesystem;

int64_t limited(int64_t tokens, int64_t max_tokens) {
  return max_tokens > 0 ? std::min(tokens, max_tokens) : tokens;
}

void check_sinks(const std::string& document,
                 std::span<const int32_t> ids,
                 const LoadedModel& model) {
  if (const auto place = model.find_sink(ids))
    throw std::invalid_argument(fmt::format(
        "{}: token {} is \"{}\" (id {}), a sink token of {}: sinks are put in front by the model "
        "and must not occur in a text: remove it there",
        document,
        *place + 1,
        model.require_tokenizer().piece(ids[*place]),
        ids[*place],
        model.directory.string()));
}

std::vector<TokenDocument> read_texts(const DocumentSource& source, const LoadedModel& model) {
  const Tokenizer& tokenizer = model.require_tokenizer();
  std::vector<TokenDocument> documents;
  for_each_document(
      source.text, source.text_key, [&](const std::string& name, const std::string& text) {
        check_interrupt();
        std::vector<int32_t> ids(model.prepended_ids().begin(), model.prepended_ids().end());
        const std::vector<int32_t> words = tokenizer.encode(text);
        ids.insert(ids.end(), words.begin(), words.end());
        ids.resize(
            static_cast<size_t>(limited(static_cast<int64_t>(ids.size()), source.max_tokens)));
        check_sinks(name, ids, model);
        documents.push_back({name, at::tensor(at::ArrayRef<int32_t>(ids), at::kLong)});
      });
  return documents;
}

void check_vocabulary(const DocumentSource& source,
                      const IndexedDataset& dataset,
                      const LoadedModel& model) {
  const auto info = find_dataset_info(source.dataset);
  if (info && model.tokenizer && info->tokenizer_hash != model.tokenizer->hash())
    throw std::invalid_argument(
        fmt::format("{} was made with another tokenizer ({}) than {} reads ({}): prepare the text "
                    "again with --tokenizer {}",
                    source.dataset,
                    info->tokenizer_hash,
                    model.directory.string(),
                    model.tokenizer->hash(),
                    (model.directory /
                     (model.tokenizer->is_sentencepiece() ? "tokenizer.model" : "tokenizer.json"))
                        .string()));
  const int64_t largest = dataset.max_token(), rows = model.model->config().vocab_size;
  if (largest >= rows)
    throw std::invalid_argument(
        fmt::format("{} holds token id {}, but the model of {} has only {} embedding rows: they do "
                    "not belong together",
                    source.dataset,
                    largest,
                    model.directory.string(),
                    rows));
  const std::vector<int64_t> sinks = model.model->config().sink.ids();
  if (const auto id = dataset.find_any(sinks))
    throw std::invalid_argument(
        fmt::format("{} holds token id {}, which is a sink token of {}: sinks are put in front by "
                    "the model and must not occur in the data",
                    source.dataset,
                    *id,
                    model.directory.string()));
}

std::vector<TokenDocument> read_dataset(const DocumentSource& source, const LoadedModel& model) {
  const IndexedDataset dataset{fs::path(source.dataset)};
  check_vocabulary(source, dataset, model);
  std::vector<TokenDocument> documents;
  for (int64_t i = 0; i < dataset.num_documents(); ++i) {
    const auto [begin, end] = dataset.document(i);
    at::Tensor tokens = at::empty({limited(end - begin, source.max_tokens)}, at::kLong);
    dataset.read(begin, {tokens.mutable_data_ptr<int64_t>(), static_cast<size_t>(tokens.numel())});
    documents.push_back({"", std::move(tokens)});
  }
  return documents;
}

}  // namespace

std::string DocumentSource::describe() const {
  if (!dataset.empty()) return dataset;
  return text.size() == 1 ? text.front()
                          : fmt::format("{} and {} more", text.front(), text.size() - 1);
}

std::string DocumentSource::stem() const {
  if (!dataset.empty()) return fs::path(dataset).filename().string();
  std::string first = without_slash(text.front()).stem().string();
  for (char& c : first)  // a glob is no file name
    if (c == '*' || c == '?' || c == '[' || c == ']') c = '_';
  return text.size() == 1 ? first : fmt::format("{}-and-{}-more", first, text.size() - 1);
}

std::vector<TokenDocument> read_documents(const DocumentSource& source, const LoadedModel& model) {
  if (source.text.empty() == source.dataset.empty())
    throw std::invalid_argument("give either --text PATH... or --dataset PREFIX");
  if (source.max_tokens < 0)
    throw std::invalid_argument(
        fmt::format("--max-tokens {} cannot be negative", source.max_tokens));
  std::vector<TokenDocument> documents =
      source.dataset.empty() ? read_texts(source, model) : read_dataset(source, model);
  const bool scorable = std::any_of(documents.begin(), documents.end(), [](const TokenDocument& d) {
    return d.tokens.numel() > 1;
  });
  if (!scorable)
    throw std::runtime_error(fmt::format(
        "{}: no document has two tokens, so there is nothing to score", source.describe()));
  return documents;
}

}  // namespace basin
