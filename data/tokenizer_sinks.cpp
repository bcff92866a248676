#include "data/tokenizer_sinks.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "configs/files.h"
#include "data/tokenizer.h"

namespace basin {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;  // the rest of a file stays in its order

constexpr const char* kFiles[] = {"tokenizer.model",
                                  "tokenizer.json",
                                  "tokenizer_config.json",
                                  "special_tokens_map.json",
                                  "added_tokens.json",
                                  "vocab.json",
                                  "merges.txt",
                                  "chat_template.jinja",
                                  "chat_template.json"};

Json read_object(const fs::path& path) {
  if (!fs::exists(path)) return Json::object();
  Json json = Json::parse(read_file(path), nullptr, /*allow_exceptions=*/false);
  if (!json.is_object())
    throw std::runtime_error(fmt::format("{}: not a JSON object", path.string()));
  return json;
}

/// The pieces of tokenizer.json: those of its model, and those added.
std::vector<std::pair<int64_t, std::string>> pieces_of(const Json& tokenizer,
                                                       const fs::path& path) {
  std::vector<std::pair<int64_t, std::string>> pieces;
  try {
    for (const auto& [piece, id] : tokenizer.at("model").at("vocab").items())
      pieces.emplace_back(id.get<int64_t>(), piece);
    if (tokenizer.contains("added_tokens"))
      for (const Json& token : tokenizer.at("added_tokens"))
        pieces.emplace_back(token.at("id").get<int64_t>(), token.at("content").get<std::string>());
  } catch (const Json::exception& error) {
    throw std::runtime_error(fmt::format("{}: no tokenizer ({})", path.string(), error.what()));
  }
  return pieces;
}

/// The names of the sinks, new ones where `pieces` has none for the id.
std::vector<std::string> name_sinks(std::span<const int64_t> ids,
                                    const std::vector<std::pair<int64_t, std::string>>& pieces) {
  std::vector<std::string> names;
  const auto taken = [&](const std::string& name) {
    return std::ranges::find(pieces, name, &std::pair<int64_t, std::string>::second) !=
               pieces.end() ||
           std::ranges::find(names, name) != names.end();
  };
  for (const int64_t id : ids) {
    const auto known = std::ranges::find(pieces, id, &std::pair<int64_t, std::string>::first);
    std::string name = known != pieces.end() ? known->second : "<sink>";
    for (int i = 1; known == pieces.end() && taken(name); ++i) name = fmt::format("<sink{}>", i);
    names.push_back(name);
  }
  return names;
}

Json added_token(const std::string& name, bool special) {
  return {{"content", name},
          {"single_word", false},
          {"lstrip", false},
          {"rstrip", false},
          {"normalized", false},
          {"special", special}};
}

/// In transformers, a token that is not among the added ones would be text like any other.
void add_token(Json& tokenizer, int64_t id, const std::string& name, bool special) {
  Json& added = tokenizer["added_tokens"];
  if (!added.is_array()) added = Json::array();
  if (std::ranges::any_of(added, [&](const Json& token) { return token["id"] == id; })) return;
  Json token = {{"id", id}};
  token.update(added_token(name, special));
  added.push_back(token);
}

Json template_of(std::span<const int64_t> ids, const std::vector<std::string>& names) {
  Json single = Json::array(), specials = Json::object();
  for (size_t i = 0; i < ids.size(); ++i) {
    single.push_back({{"SpecialToken", {{"id", names[i]}, {"type_id", 0}}}});
    specials[names[i]] = {
        {"id", names[i]}, {"ids", Json::array({ids[i]})}, {"tokens", Json::array({names[i]})}};
  }
  single.push_back({{"Sequence", {{"id", "A"}, {"type_id", 0}}}});
  Json pair = single;  // the second text of a pair gets no sink of its own
  pair.push_back({{"Sequence", {{"id", "B"}, {"type_id", 1}}}});
  return {{"type", "TemplateProcessing"},
          {"single", single},
          {"pair", pair},
          {"special_tokens", specials}};
}

/// The sinks take the place of what was put in front; steps that only trim offsets stay.
Json with_template(const Json& before, Json sinks) {
  const auto type_of = [](const Json& step) {
    return step.is_object() ? step.value("type", std::string()) : std::string();
  };
  Json steps = Json::array();
  if (type_of(before) == "ByteLevel") steps.push_back(before);
  if (type_of(before) == "Sequence" && before.contains("processors"))
    for (const Json& step : before["processors"])
      if (type_of(step) != "TemplateProcessing") steps.push_back(step);
  if (steps.empty()) return sinks;
  steps.push_back(std::move(sinks));
  return {{"type", "Sequence"}, {"processors", steps}};
}

}  // namespace

bool is_tokenizer_file(std::string_view name) {
  return std::ranges::find(kFiles, name) != std::end(kFiles);
}

void copy_tokenizer_files(const fs::path& from, const fs::path& to) {
  for (const char* name : kFiles)
    if (fs::is_regular_file(from / name)) write_file(to / name, read_file(from / name));
}

int64_t next_piece_id(const fs::path& directory, const Tokenizer& tokenizer) {
  const auto added = read_added_pieces(directory);
  return std::max(tokenizer.vocab_size(), added.empty() ? 0 : added.rbegin()->first + 1);
}

void prepend_sinks(const fs::path& directory,
                   std::span<const int64_t> ids,
                   int64_t model_max_length) {
  const fs::path path = directory / "tokenizer.json", model = directory / "tokenizer.model";
  const auto added_before = read_added_pieces(directory);
  if (!fs::exists(path) && fs::exists(model))
    write_tokenizer_files(Tokenizer::load(model), {}, model_max_length, directory);
  if (!fs::exists(path)) return;  // write_tokenizer_files has said why
  Json tokenizer = read_object(path);
  for (const auto& [id, piece] : added_before) add_token(tokenizer, id, piece.text, piece.special);
  const std::vector<std::string> names = name_sinks(ids, pieces_of(tokenizer, path));
  for (size_t i = 0; i < ids.size(); ++i) add_token(tokenizer, ids[i], names[i], true);
  tokenizer["post_processor"] = with_template(tokenizer["post_processor"], template_of(ids, names));
  write_file(path, tokenizer.dump(1) + "\n");

  Json settings = read_object(directory / "tokenizer_config.json");
  settings["bos_token"] = names.front();
  settings["add_bos_token"] = true;
  // A LlamaTokenizer would build its own post-processor, with one sink at most.
  settings["tokenizer_class"] = "PreTrainedTokenizerFast";
  settings.erase("auto_map");
  settings["model_max_length"] = model_max_length;
  if (settings.contains("added_tokens_decoder"))
    for (size_t i = 0; i < ids.size(); ++i)
      settings["added_tokens_decoder"][std::to_string(ids[i])] = added_token(names[i], true);
  write_file(directory / "tokenizer_config.json", settings.dump(1) + "\n");

  Json specials = read_object(directory / "special_tokens_map.json");
  specials["bos_token"] = names.front();
  write_file(directory / "special_tokens_map.json", specials.dump(1) + "\n");
}

}  // namespace basin
