#include "data/json_tokenizer.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <stdexcept>

#include "configs/files.h"
#include "configs/json_text.h"
#include "configs/signals.h"
#include "data/tokenizer.h"

namespace basin {
namespace {

constexpr size_t kLongestAddedToken = 1024;  // bytes

/// Called <sink>, <sink1>, ...: what prepend_sinks adds to a tokenizer (data/tokenizer_sinks.h).
bool is_sink(const nlohmann::json& token) {
  const auto content = token.is_object() ? token.find("content") : token.end();
  return token.is_object() && content != token.end() && content->is_string() &&
         content->get_ref<const std::string&>().starts_with("<sink");
}

std::string hash_of(nlohmann::json document) {
  for (const char* const key : {"post_processor", "truncation", "padding"}) {
    document.erase(key);
  }
  if (const auto added = document.find("added_tokens");
      added != document.end() && added->is_array()) {
    added->erase(std::remove_if(added->begin(), added->end(), is_sink), added->end());
  }
  return xxh3_hex(document.dump());
}

}  // namespace

std::string tokenizer_hash(const std::string& model_bytes) {
  nlohmann::json document = nlohmann::json::parse(model_bytes, nullptr, /*allow_exceptions=*/false);
  return document.is_object() ? hash_of(std::move(document)) : xxh3_hex(model_bytes);
}

std::unique_ptr<JsonTokenizer> JsonTokenizer::parse(std::string_view bytes,
                                                    const std::string& name) {
  const nlohmann::json document = parse_untrusted_json(bytes, name);
  const JsonPlace root(document, name);
  if (const JsonPlace version = root.find("version"); !version.is_null()) {
    if (version.string() != "1.0") {
      version.fail(fmt::format("expected \"1.0\", found \"{}\"", version.string()));
    }
  }
  return std::unique_ptr<JsonTokenizer>(new JsonTokenizer(root, hash_of(document)));
}

JsonTokenizer::JsonTokenizer(const JsonPlace& root, std::string hash)
    : normalizer_(TextNormalizer::parse(root.find("normalizer"))),
      pre_tokenizer_(PreTokenizer::parse(root.find("pre_tokenizer"))),
      model_(BpeModel::parse(root.at("model"), pre_tokenizer_.gives_bytes())),
      decoder_(PieceDecoder::parse(root.find("decoder"))),
      hash_(std::move(hash)) {
  if (const JsonPlace added = root.find("added_tokens"); !added.is_null()) {
    read_added_tokens(added);
  }
  list_tokens(root);
  if (const JsonPlace post_processor = root.find("post_processor"); !post_processor.is_null()) {
    read_post_processor(post_processor);
  }
}

AddedToken JsonTokenizer::parse_added_token(const JsonPlace& place) const {
  AddedToken token;
  token.content = token.pattern = place.at("content").string();
  token.single_word = place.find("single_word").boolean_or(false);
  token.lstrip = place.find("lstrip").boolean_or(false);
  token.rstrip = place.find("rstrip").boolean_or(false);
  token.special = place.find("special").boolean_or(false);
  token.normalized = place.find("normalized").boolean_or(!token.special);
  if (token.normalized) {
    std::string storage;
    token.pattern = std::string(normalizer_.apply(token.content, storage));
  }
  if (token.pattern.empty() || token.pattern.size() > kLongestAddedToken) {
    place.at("content").fail(fmt::format(
        "expected 1 to {} bytes of text, found {}", kLongestAddedToken, token.pattern.size()));
  }
  return token;
}

/// Ids follow from the order, as in the `tokenizers` package: those of the vocabulary stay, others
/// come behind it. What the file says must agree.
void JsonTokenizer::read_added_tokens(const JsonPlace& place) {
  added_.reserve(place.size());  // finders point into it
  auto next = static_cast<int32_t>(model_.vocabulary().size());
  for (size_t i = 0; i < place.size(); ++i) {
    AddedToken token = parse_added_token(place[i]);
    const int32_t known = model_.id_of(token.content);
    token.id = known >= 0 ? known : next++;
    const JsonPlace id = place[i].at("id");
    if (id.integer(std::numeric_limits<int32_t>::max()) != token.id) {
      id.fail(fmt::format("\"{}\" says {}, but {} {}",
                          token.content,
                          id.value().dump(),
                          known >= 0 ? "the vocabulary has it as" : "the next free id is",
                          token.id));
    }
    if (!added_ids_.emplace(token.content, token.id).second) {
      place[i].fail(fmt::format("\"{}\" is added twice", token.content));
    }
    added_.push_back(std::move(token));
    try {
      (added_.back().normalized ? normalized_finder_ : raw_finder_).add(added_.back());
    } catch (const std::invalid_argument& error) {
      place[i].fail(fmt::format("\"{}\" {}", added_.back().content, error.what()));
    }
  }
}

void JsonTokenizer::list_tokens(const JsonPlace& root) {
  int32_t largest = -1;
  for (const auto& [text, id] : model_.vocabulary()) {
    largest = std::max(largest, id);
  }
  for (const AddedToken& token : added_) {
    largest = std::max(largest, token.id);
  }
  if (largest < 0) {
    root.at("model").at("vocab").fail("is empty");
  }
  tokens_.resize(static_cast<size_t>(largest) + 1);
  for (const auto& [text, id] : model_.vocabulary()) {
    const bool is_byte = model_.byte_fallback() && text.size() == 6 && text.starts_with("<0x");
    tokens_[id] = {text,
                   is_byte                          ? Kind::kByte
                   : text == model_.unknown_token() ? Kind::kUnknown
                                                    : Kind::kNormal,
                   decoder_.decode(text)};
  }
  std::unordered_map<std::string_view, bool> special;
  for (const AddedToken& token : added_) {
    special[token.content] |= token.special;
  }
  for (const AddedToken& token : added_) {
    Token& entry = tokens_[token.id];
    if (entry.kind != Kind::kNone && entry.text != token.content) {
      root.at("added_tokens")
          .fail(fmt::format(
              "\"{}\" gets id {}, which \"{}\" has", token.content, token.id, entry.text));
    }
    // Whether it is left out is looked up by what decoding sees of it.
    const auto found = special.find(token.pattern);
    const bool silent = found != special.end() && found->second;
    entry = {token.content,
             silent ? Kind::kSpecial : Kind::kAdded,
             silent ? PieceDecoder::Decoded() : decoder_.decode(token.pattern)};
  }
}

void JsonTokenizer::read_post_processor(const JsonPlace& place) {
  const std::string& type = place.at("type").string();
  if (type == "Sequence") {
    const JsonPlace parts = place.at("processors");
    for (size_t i = 0; i < parts.size(); ++i) {
      read_post_processor(parts[i]);
    }
  } else if (type == "TemplateProcessing") {
    read_template(place);
  } else if (type != "ByteLevel") {  // which only moves offsets
    place.fail(
        fmt::format("the post-processor {} is not supported (those that are: "
                    "TemplateProcessing, ByteLevel, Sequence)",
                    type));
  }
}

/// `single` around what is there already.
void JsonTokenizer::read_template(const JsonPlace& place) {
  std::vector<int32_t> before, after;
  bool seen = false;  // the text itself
  const JsonPlace single = place.at("single"), specials = place.find("special_tokens");
  for (size_t i = 0; i < single.size(); ++i) {
    if (const JsonPlace text = single[i].find("Sequence"); !text.is_null()) {
      if (seen || text.at("id").string() != "A") {
        text.fail("expected the text, A, once");
      }
      seen = true;
      continue;
    }
    const JsonPlace ids = specials.at(single[i].at("SpecialToken").at("id").string()).at("ids");
    for (size_t n = 0; n < ids.size(); ++n) {
      const int64_t id = ids[n].integer(static_cast<int64_t>(tokens_.size()) - 1);
      (seen ? after : before).push_back(static_cast<int32_t>(id));
    }
  }
  if (!seen) {
    single.fail("leaves out the text, A");
  }
  prepended_.insert(prepended_.begin(), before.begin(), before.end());
  appended_.insert(appended_.end(), after.begin(), after.end());
}

void JsonTokenizer::encode(std::string_view text,
                           EncodeCache* cache,
                           std::vector<int32_t>& ids) const {
  BpeModel::Work work;
  std::string storage;
  const PreTokenizer::Word encode_word = [&](std::string_view word) {
    check_interrupt();  // documents may be long
    model_.encode(word, work, cache, ids);
  };
  raw_finder_.cut(text, [&](size_t begin, size_t end, const AddedToken* token) {
    if (token != nullptr) {
      ids.push_back(token->id);
      return;
    }
    const std::string_view part = normalizer_.apply(text.substr(begin, end - begin), storage);
    const bool at_start = begin == 0;
    normalized_finder_.cut(part, [&](size_t from, size_t to, const AddedToken* inner) {
      if (inner != nullptr) {
        ids.push_back(inner->id);
      } else {
        pre_tokenizer_.cut(part.substr(from, to - from), at_start && from == 0, encode_word);
      }
    });
  });
}

int64_t JsonTokenizer::id_of(const std::string& token) const {
  const auto added = added_ids_.find(token);
  return added != added_ids_.end() ? added->second : model_.id_of(token);
}

std::string JsonTokenizer::decode_text(std::span<const int32_t> ids) const {
  std::vector<const PieceDecoder::Decoded*> pieces;
  for (const int32_t id : ids) {
    const Token& token = tokens_.at(static_cast<size_t>(id));
    if (token.kind != Kind::kSpecial && token.kind != Kind::kNone) {
      pieces.push_back(&token.decoded);
    }
  }
  return decoder_.join(pieces);
}

}  // namespace basin
