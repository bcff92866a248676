// What a model directory says about its tokenizer beside the tokenizer itself.

#include <algorithm>
#include <cstdlib>
#include <iterator>
#include <limits>
#include <stdexcept>

#include "configs/files.h"
#include "configs/json_text.h"
#include "configs/log.h"
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
         !JsonPlace(parse_untrusted_json(read_file(config), config.string()), config.string())
              .find("sink")
              .is_null();
}

constexpr int64_t kLargestId = std::numeric_limits<int32_t>::max();

/// {"32000": {"content": "<pad>", "special": true}, ...}
std::map<int64_t, AddedPiece> parse_decoder(const JsonPlace& decoder) {
  std::map<int64_t, AddedPiece> pieces;
  for (const auto& [id, token] : decoder.object()) {
    const JsonPlace place = decoder.at(id);
    pieces[std::strtoll(id.c_str(), nullptr, 10)] = {place.at("content").string(),
                                                     place.find("special").boolean_or(false)};
  }
  return pieces;
}

void warn_of_added_pieces(const fs::path& directory, int64_t pieces) {
  const auto added = read_added_pieces(directory);
  const auto first = added.lower_bound(pieces);
  if (first == added.end()) {
    return;
  }
  log_warn(
      "{}: {} added tokens, the first \"{}\" with id {}, are not read beside a tokenizer.model: "
      "texts that spell them are cut like others. Let transformers write a tokenizer.json, which "
      "is read (AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR))",
      directory.string(),
      std::distance(first, added.end()),
      first->second.text,
      first->first);
}

}  // namespace

std::map<int64_t, AddedPiece> read_added_pieces(const fs::path& directory) {
  std::map<int64_t, AddedPiece> pieces;
  if (const fs::path path = directory / "tokenizer.json"; fs::exists(path)) {
    const nlohmann::json document = parse_untrusted_json(read_file(path), path.string());
    const JsonPlace added = JsonPlace(document, path.string()).find("added_tokens");
    for (size_t i = 0; !added.is_null() && i < added.size(); ++i) {
      pieces[added[i].at("id").integer(kLargestId)] = {added[i].at("content").string(),
                                                       added[i].find("special").boolean_or(false)};
    }
    return pieces;
  }
  if (const fs::path path = directory / "tokenizer_config.json"; fs::exists(path)) {
    const nlohmann::json document = parse_untrusted_json(read_file(path), path.string());
    const JsonPlace decoder = JsonPlace(document, path.string()).find("added_tokens_decoder");
    if (!decoder.is_null()) {
      return parse_decoder(decoder);
    }
  }
  if (const fs::path path = directory / "added_tokens.json"; fs::exists(path)) {
    const nlohmann::json document = parse_untrusted_json(read_file(path), path.string());
    const JsonPlace ids(document, path.string());
    for (const auto& [text, id] : ids.object()) {
      pieces[ids.at(text).integer(kLargestId)] = {text, false};
    }
  }
  return pieces;
}

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
    const nlohmann::json document = parse_untrusted_json(read_file(path), path.string());
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

std::optional<Tokenizer> open_tokenizer(const fs::path& directory, bool warns) {
  const fs::path model = directory / "tokenizer.model", json = directory / "tokenizer.json";
  if (!fs::exists(model)) {
    return fs::exists(json) ? std::optional(Tokenizer::load(json)) : std::nullopt;
  }
  Tokenizer sentencepiece = Tokenizer::load(model);
  if (!fs::exists(json)) {
    if (warns) {
      warn_of_added_pieces(directory, sentencepiece.vocab_size());
    }
    return sentencepiece;
  }
  if (is_ours(directory, sentencepiece)) {
    return sentencepiece;
  }
  try {
    return Tokenizer::load(json);
  } catch (const std::runtime_error& error) {
    if (warns) {
      log_warn("{}; taking {} instead", error.what(), model.string());
    }
    return sentencepiece;
  }
}

}  // namespace basin
