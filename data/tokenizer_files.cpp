// The tokenizer in the dialects of other software. transformers 5 decides by tokenizer.json's
// post_processor alone whether a sink is prepended, older releases by add_bos_token: both always
// agree here.
#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <nlohmann/json.hpp>
#include <optional>
#include <unordered_map>

#include "configs/files.h"
#include "configs/log.h"
#include "data/tokenizer.h"

namespace basin {
namespace {

using Json = nlohmann::json;

bool is_special(PieceType type) {
  return type == PieceType::kControl || type == PieceType::kUnknown;
}

std::string unknown_piece(const Tokenizer& tokenizer) {
  for (int64_t id = 0; id < tokenizer.vocab_size(); ++id) {
    if (tokenizer.type(id) == PieceType::kUnknown) {
      return tokenizer.piece(id);
    }
  }
  return "<unk>";
}

bool has_piece(const Tokenizer& tokenizer, int64_t id) {
  return id < tokenizer.vocab_size() && tokenizer.type(id) != PieceType::kUnused;
}

/// A sink may lie in a row of the embedding that a foreign tokenizer has no piece for.
std::string sink_name(const Tokenizer& tokenizer, int64_t id) {
  return has_piece(tokenizer, id) ? tokenizer.piece(id) : fmt::format("<sink:{}>", id);
}

Json added_tokens(const Tokenizer& tokenizer) {
  Json tokens = Json::array();
  for (int64_t id = 0; id < tokenizer.vocab_size(); ++id) {
    const bool special = is_special(tokenizer.type(id));
    if (special || tokenizer.type(id) == PieceType::kUserDefined) {
      tokens.push_back({{"id", id},
                        {"content", tokenizer.piece(id)},
                        {"single_word", false},
                        {"lstrip", false},
                        {"rstrip", false},
                        {"normalized", false},
                        {"special", special}});
    }
  }
  return tokens;
}

/// For each piece in the order of scores, which is merge rank: every split into two pieces, ordered
/// by the ids of the halves. Nothing where two pieces have one score, as those that were appended
/// to a trained model do: SentencePiece joins them from left to right, which no list of merges
/// says.
std::optional<Json> merges(const Tokenizer& tokenizer) {
  std::unordered_map<std::string_view, int64_t> ids;
  std::vector<int64_t> by_score;
  for (int64_t id = 0; id < tokenizer.vocab_size(); ++id) {
    if (tokenizer.type(id) == PieceType::kNormal) {
      ids.emplace(tokenizer.piece(id), id);
      by_score.push_back(id);
    }
  }
  const auto score = [&](int64_t id) { return tokenizer.score(id); };
  std::ranges::stable_sort(by_score, std::greater(), score);
  Json result = Json::array();
  std::optional<float> last;
  for (const int64_t id : by_score) {
    const std::string_view piece = tokenizer.piece(id);
    std::vector<std::pair<int64_t, int64_t>> halves;
    for (size_t cut = 1; cut < piece.size(); ++cut) {
      const auto left = ids.find(piece.substr(0, cut)), right = ids.find(piece.substr(cut));
      if (left != ids.end() && right != ids.end()) {
        halves.emplace_back(left->second, right->second);
      }
    }
    if (halves.empty()) {
      continue;
    }
    if (last == score(id)) {
      return std::nullopt;
    }
    last = score(id);
    std::sort(halves.begin(), halves.end());
    for (const auto& [left, right] : halves) {
      result.push_back(tokenizer.piece(left) + " " + tokenizer.piece(right));
    }
  }
  return result;
}

/// Prepends the sinks; null for none. The second text of a pair gets no sink of its own.
Json post_processor(const Tokenizer& tokenizer, std::span<const int64_t> prepended_ids) {
  if (prepended_ids.empty()) {
    return nullptr;
  }
  Json single = Json::array(), special_tokens = Json::object();
  for (const int64_t id : prepended_ids) {
    const std::string piece = sink_name(tokenizer, id);
    single.push_back({{"SpecialToken", {{"id", piece}, {"type_id", 0}}}});
    special_tokens[piece] = {{"id", piece}, {"ids", {id}}, {"tokens", {piece}}};
  }
  single.push_back({{"Sequence", {{"id", "A"}, {"type_id", 0}}}});
  Json pair = single;
  pair.push_back({{"Sequence", {{"id", "B"}, {"type_id", 1}}}});
  return {{"type", "TemplateProcessing"},
          {"single", single},
          {"pair", pair},
          {"special_tokens", special_tokens}};
}

/// Nothing for a SentencePiece model that a tokenizer.json cannot describe exactly.
std::optional<Json> tokenizer_json(const Tokenizer& tokenizer,
                                   std::span<const int64_t> prepended_ids) {
  const SentencePieceModel& sentencepiece = tokenizer.model();
  if (!sentencepiece.is_bpe || sentencepiece.has_character_map ||
      sentencepiece.remove_extra_whitespaces) {
    return std::nullopt;
  }
  std::optional<Json> ranked = merges(tokenizer);
  if (!ranked) {
    return std::nullopt;
  }
  Json vocab = Json::object();
  for (int64_t id = 0; id < tokenizer.vocab_size(); ++id) {
    vocab[tokenizer.piece(id)] = id;
  }
  const Json replace_space = {
      {"type", "Replace"}, {"pattern", {{"String", "▁"}}}, {"content", " "}};
  Json decoders = {replace_space, {{"type", "ByteFallback"}}, {{"type", "Fuse"}}};
  // Spaces become marks in the normalizer, not in a Metaspace pre-tokenizer: releases of tokenizers
  // before 0.19 cannot read one that does not split, and none puts its prefix in front of a text
  // that begins with a space, as SentencePiece's dummy prefix does.
  Json normalizer = {{"type", "Replace"}, {"pattern", {{"String", " "}}}, {"content", "▁"}};
  if (tokenizer.model().add_dummy_prefix) {
    decoders.push_back({{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}});
    normalizer = {{"type", "Sequence"},
                  {"normalizers", {{{"type", "Prepend"}, {"prepend", "▁"}}, normalizer}}};
  }
  const Json model = {{"type", "BPE"},
                      {"dropout", nullptr},
                      {"unk_token", unknown_piece(tokenizer)},
                      {"continuing_subword_prefix", nullptr},
                      {"end_of_word_suffix", nullptr},
                      {"fuse_unk", true},
                      {"byte_fallback", true},
                      {"ignore_merges", false},
                      {"vocab", vocab},
                      {"merges", *std::move(ranked)}};
  return Json{{"version", "1.0"},
              {"truncation", nullptr},
              {"padding", nullptr},
              {"added_tokens", added_tokens(tokenizer)},
              {"normalizer", normalizer},
              {"pre_tokenizer", nullptr},
              {"post_processor", post_processor(tokenizer, prepended_ids)},
              {"decoder", {{"type", "Sequence"}, {"decoders", decoders}}},
              {"model", model}};
}

/// A tokenizer.json as it came, except for what it puts around a text.
void write_tokenizer_json(const Tokenizer& tokenizer,
                          std::span<const int64_t> prepended_ids,
                          int64_t model_max_length,
                          const std::filesystem::path& directory) {
  Json document = Json::parse(tokenizer.model_bytes());
  document["post_processor"] = post_processor(tokenizer, prepended_ids);
  write_file(directory / "tokenizer.json", document.dump(1) + "\n");
  Json specials = Json::object();
  const auto name = [&](const char* key, int64_t id) {
    if (id >= 0 && has_piece(tokenizer, id)) {
      specials[key] = tokenizer.piece(id);
    }
  };
  name("bos_token", prepended_ids.empty() ? -1 : prepended_ids[0]);
  name("eos_token", tokenizer.eos_id());
  write_file(directory / "special_tokens_map.json", specials.dump(1) + "\n");
  Json config = {{"tokenizer_class", "PreTrainedTokenizerFast"},
                 {"add_bos_token", !prepended_ids.empty()},
                 {"add_eos_token", false},
                 {"clean_up_tokenization_spaces", false},
                 {"model_max_length", model_max_length}};
  config.update(specials);
  write_file(directory / "tokenizer_config.json", config.dump(1) + "\n");
}

}  // namespace

void write_tokenizer_files(const Tokenizer& tokenizer,
                           std::span<const int64_t> prepended_ids,
                           int64_t model_max_length,
                           const std::filesystem::path& directory) {
  if (!tokenizer.is_sentencepiece()) {
    write_tokenizer_json(tokenizer, prepended_ids, model_max_length, directory);
    return;
  }
  const SentencePieceModel& model = tokenizer.model();
  // Readers may put a BOS that has a name in front of what has no beginning of its own.
  const Json bos = prepended_ids.empty() ? Json() : Json(sink_name(tokenizer, prepended_ids[0]));
  const std::string eos = tokenizer.eos_id() < 0 ? "</s>" : tokenizer.piece(tokenizer.eos_id());
  const std::string unknown = unknown_piece(tokenizer);
  write_file(directory / "tokenizer.model", tokenizer.model_bytes());
  if (const std::optional<Json> described = tokenizer_json(tokenizer, prepended_ids)) {
    write_file(directory / "tokenizer.json", described->dump(1) + "\n");
  } else {
    log_warn(
        "no tokenizer.json for this SentencePiece model (it is not BPE, it rewrites text, or "
        "pieces share a score): other software reads tokenizer.model");
  }
  // This class takes tokenizer.json as it is. LlamaTokenizer would put a normalizer and a
  // post-processor of its own in its place (one sink at most), and in transformers 4 needs the
  // protobuf package to do so.
  const Json config = {{"tokenizer_class", "PreTrainedTokenizerFast"},
                       {"model_input_names", {"input_ids", "attention_mask"}},
                       {"bos_token", bos},
                       {"eos_token", eos},
                       {"unk_token", unknown},
                       {"pad_token", nullptr},
                       {"add_bos_token", !prepended_ids.empty()},
                       {"add_eos_token", false},
                       {"add_prefix_space", model.add_dummy_prefix},
                       {"legacy", false},
                       {"clean_up_tokenization_spaces", false},
                       {"model_max_length", model_max_length}};
  write_file(directory / "tokenizer_config.json", config.dump(1) + "\n");
  Json specials = {{"eos_token", eos}, {"unk_token", unknown}};
  if (!bos.is_null()) {
    specials["bos_token"] = bos;
  }
  write_file(directory / "special_tokens_map.json", specials.dump(1) + "\n");
}

}  // namespace basin
