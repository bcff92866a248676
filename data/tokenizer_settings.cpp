// What a model directory says about its tokenizer beside the tokenizer itself.
#include <spdlog/spdlog.h>

#include <algorithm>
#include <stdexcept>

#include "configs/files.h"
#include "data/json_place.h"
#include "data/tokenizer.h"

namespace basin {
namespace {

namespace fs = std::filesystem;

/// "bos_token": "<s>" or {"content": "<s>", ...}; empty where there is none.
std::string token_named(const JsonPlace& settings, const char* key) {
  const JsonPlace token = settings.find(key);
  if (token.is_null() || token.is_string()) {
    return token.is_null() ? "" : token.string();
  }
  return token.at("content").string();
}

/// Written by Basin: what `tokenizer.model` says is what the model was trained with.
bool is_ours(const fs::path& directory, const Tokenizer& sentencepiece) {
  if (fs::exists(directory / "manifest.json") ||
      (sentencepiece.vocab_size() > 1 && sentencepiece.piece(1) == "<sink>")) {
    return true;
  }
  const fs::path config = directory / "config.json";
  return fs::exists(config) &&
         !JsonPlace(parse_json(read_file(config), config.string()), config.string())
              .find("sink")
              .is_null();
}

}  // namespace

int64_t Tokenizer::id_of(const std::string& piece) const {
  const auto found = std::find_if(
      model_.pieces.begin(), model_.pieces.end(), [&](const auto& p) { return p.text == piece; });
  return piece.empty() || found == model_.pieces.end() ? -1 : found - model_.pieces.begin();
}

void Tokenizer::read_settings(const fs::path& directory) {
  bool add_bos = false, add_eos = false;
  for (const char* const name : {"special_tokens_map.json", "tokenizer_config.json"}) {
    const fs::path path = directory / name;
    if (!fs::exists(path)) {
      continue;
    }
    const nlohmann::json document = parse_json(read_file(path), path.string());
    const JsonPlace settings(document, path.string());
    const int64_t bos = id_of(token_named(settings, "bos_token")),
                  eos = id_of(token_named(settings, "eos_token"));
    bos_id_ = bos >= 0 ? bos : bos_id_;
    eos_id_ = eos >= 0 ? eos : eos_id_;
    add_bos = settings.find("add_bos_token").boolean_or(add_bos);
    add_eos = settings.find("add_eos_token").boolean_or(add_eos);
  }
  if (is_sentencepiece() && add_bos && bos_id_ >= 0) {  // a tokenizer.json says so itself
    prepended_ = {static_cast<int32_t>(bos_id_)};
  }
  if (is_sentencepiece() && add_eos && eos_id_ >= 0) {
    appended_ = {static_cast<int32_t>(eos_id_)};
  }
}

std::optional<Tokenizer> open_tokenizer(const fs::path& directory) {
  const fs::path model = directory / "tokenizer.model", json = directory / "tokenizer.json";
  if (!fs::exists(model)) {
    return fs::exists(json) ? std::optional(Tokenizer::load(json)) : std::nullopt;
  }
  Tokenizer sentencepiece = Tokenizer::load(model);
  if (!fs::exists(json) || is_ours(directory, sentencepiece)) {
    return sentencepiece;
  }
  try {
    return Tokenizer::load(json);
  } catch (const std::runtime_error& error) {
    spdlog::warn("{}; taking {} instead", error.what(), model.string());
    return sentencepiece;
  }
}

}  // namespace basin
