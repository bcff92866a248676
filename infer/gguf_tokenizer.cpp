#include "infer/gguf_tokenizer.h"

#include <fmt/core.h>

#include <nlohmann/json.hpp>
#include <optional>
#include <stdexcept>
#include <unordered_map>
#include <vector>

#include "configs/files.h"
#include "configs/log.h"
#include "infer/gguf_pre_tokenizer.h"
#include "infer/gguf_scores.h"

namespace basin {
namespace {

namespace fs = std::filesystem;

constexpr float kUnusedScore = -10000;  // as llama.cpp's converter gives to padding

/// llama.cpp's numbers of what a token is.
int32_t token_type(PieceType type) {
  switch (type) {
    case PieceType::kNormal:
      return 1;
    case PieceType::kUnknown:
      return 2;
    case PieceType::kControl:
      return 3;
    case PieceType::kUserDefined:
      return 4;
    case PieceType::kUnused:
      return 5;
    case PieceType::kByte:
      return 6;
  }
  throw std::logic_error("no such piece");
}

nlohmann::json read_if_there(const fs::path& path) {
  return fs::exists(path) ? nlohmann::json::parse(read_file(path), nullptr, false)
                          : nlohmann::json();
}

/// How llama.cpp is to read a tokenizer.
struct Reading {
  std::string model = "llama", pre = "default";
  bool add_space_prefix = false;
  std::vector<std::string> merges = {};                // gpt2 only
  std::unordered_map<std::string, float> scores = {};  // in place of the tokenizer's own
};

Reading read_sentencepiece(const Tokenizer& tokenizer) {
  const SentencePieceModel& pieces = tokenizer.model();
  if (!pieces.is_bpe) throw std::invalid_argument("its SentencePiece model is not BPE");
  if (pieces.has_character_map)
    throw std::invalid_argument(
        "its SentencePiece model rewrites characters (NFKC or the like), which llama.cpp does not");
  if (pieces.remove_extra_whitespaces)
    throw std::invalid_argument(
        "its SentencePiece model drops extra spaces, which llama.cpp does not");
  return {.add_space_prefix = pieces.add_dummy_prefix};
}

Reading read_byte_level(const nlohmann::json& document, const fs::path& directory) {
  const nlohmann::json normalizer = document.value("normalizer", nlohmann::json());
  if (normalizer.is_object() && normalizer.value("type", "") == "NFC")
    log_warn(
        "{}: its tokenizer composes characters (NFC), which llama.cpp does not: texts in another "
        "form get other tokens there",
        directory.string());
  else if (!normalizer.is_null())
    throw std::invalid_argument("it rewrites text in a way that llama.cpp has not");
  Reading reading{.model = "gpt2", .pre = llama_cpp_pre_tokenizer(document)};
  for (const auto& [left, right] : merges_of(document))
    reading.merges.push_back(left + " " + right);
  return reading;
}

Reading read_tokenizer_json(const Tokenizer& tokenizer, const fs::path& directory) {
  const nlohmann::json document = nlohmann::json::parse(tokenizer.model_bytes());
  for (const auto& token : document.value("added_tokens", nlohmann::json::array()))
    for (const char* key : {"lstrip", "rstrip", "single_word"})
      if (token.value(key, false) && !token.value("special", false))
        throw std::invalid_argument(
            fmt::format("its added token \"{}\" has {}, which llama.cpp does not follow",
                        token.value("content", ""),
                        key));
  if (!is_sentencepiece_like(document)) return read_byte_level(document, directory);
  return {.add_space_prefix = prepends_space(document), .scores = scores_of_merges(document)};
}

/// Whether a post_processor of a tokenizer.json puts a special token in front of a text.
bool prepends(const nlohmann::json& processor) {
  if (!processor.is_object()) return false;
  for (const auto& part : processor.value("processors", nlohmann::json::array()))
    if (prepends(part)) return true;
  const auto single = processor.value("single", nlohmann::json::array());
  return single.is_array() && !single.empty() && single[0].is_object() &&
         single[0].contains("SpecialToken");
}

/// By tokenizer.json where there is one, as in transformers 5, else by tokenizer_config.json.
bool begins_with_bos(const LoadedModel& model) {
  if (model.model->config().sink.tokens() > 0) return true;
  const nlohmann::json described = read_if_there(model.directory / "tokenizer.json");
  if (described.is_object()) return prepends(described.value("post_processor", nlohmann::json()));
  const nlohmann::json config = read_if_there(model.directory / "tokenizer_config.json");
  if (!config.is_object() || !config.contains("add_bos_token")) return false;
  return config["add_bos_token"] == true;
}

std::optional<std::string> chat_template(const fs::path& directory) {
  const fs::path own = directory / "chat_template.jinja";
  if (fs::exists(own)) return read_file(own);
  const nlohmann::json config = read_if_there(directory / "tokenizer_config.json");
  if (!config.is_object() || !config.contains("chat_template")) return std::nullopt;
  const auto& text = config["chat_template"];
  return text.is_string() ? std::optional(text.get<std::string>()) : std::nullopt;
}

/// What llama.cpp puts in front of a text where it puts anything.
int64_t bos_of(const Tokenizer& tokenizer, const SinkConfig& sink) {
  if (sink.tokens() > 0) return sink.ids().front();
  return tokenizer.prepended_ids().empty() ? tokenizer.bos_id() : tokenizer.prepended_ids()[0];
}

int64_t first_of_type(const Tokenizer& tokenizer, PieceType type) {
  for (int64_t id = 0; id < tokenizer.vocab_size(); ++id)
    if (tokenizer.type(id) == type) return id;
  return -1;
}

/// The tokenizer's pieces, what software adds to them, and unused ones for other rows.
std::vector<SentencePieceModel::Piece> list_pieces(const Tokenizer& tokenizer,
                                                   const Reading& reading,
                                                   const LoadedModel& model) {
  const auto rows = static_cast<size_t>(model.model->config().vocab_size);
  std::vector<SentencePieceModel::Piece> pieces = tokenizer.model().pieces;
  pieces.resize(rows, {"", kUnusedScore, PieceType::kUnused});
  for (auto& piece : pieces) {
    const auto found = reading.scores.find(piece.text);
    if (!reading.scores.empty())
      piece.score = found == reading.scores.end() ? kUnusedScore : found->second;
  }
  for (const auto& [id, added] : read_added_pieces(model.directory)) {
    if (static_cast<size_t>(id) >= rows) continue;
    SentencePieceModel::Piece& piece = pieces[static_cast<size_t>(id)];
    if (!piece.text.empty() && piece.text != added.text)
      throw std::invalid_argument(
          fmt::format("token {} is \"{}\" and, added, \"{}\"", id, piece.text, added.text));
    piece.text = added.text;
    if (!added.special)
      piece.type = PieceType::kUserDefined;
    else if (piece.type != PieceType::kUnknown)
      piece.type = PieceType::kControl;
  }
  for (size_t id = 0; id < rows; ++id)
    if (pieces[id].text.empty()) pieces[id].text = fmt::format("[PAD{}]", id);
  return pieces;
}

void add_reading(const Reading& reading,
                 const std::vector<SentencePieceModel::Piece>& pieces,
                 GgufFile& file) {
  std::vector<std::string> tokens;
  std::vector<float> scores;
  std::vector<int32_t> types;
  for (const SentencePieceModel::Piece& piece : pieces) {
    tokens.push_back(piece.text);
    scores.push_back(piece.score);
    types.push_back(token_type(piece.type));
  }
  const auto add = [&](const char* key, GgufValue value) {
    file.keys.emplace_back(std::string("tokenizer.ggml.") + key, std::move(value));
  };
  add("model", reading.model);
  add("pre", reading.pre);
  add("tokens", std::move(tokens));
  if (reading.merges.empty())
    add("scores", std::move(scores));
  else
    add("merges", reading.merges);
  add("token_type", std::move(types));
  add("add_space_prefix", reading.add_space_prefix);
}

}  // namespace

void add_tokenizer_keys(const LoadedModel& model, GgufFile& file) {
  const fs::path& directory = model.directory;
  const bool is_sentencepiece = fs::exists(directory / "tokenizer.model");
  const fs::path source = directory / (is_sentencepiece ? "tokenizer.model" : "tokenizer.json");
  if (!fs::exists(source))
    throw std::invalid_argument(
        fmt::format("{}: a GGUF file carries its tokenizer, and there is none: put the "
                    "tokenizer.model or tokenizer.json that it was trained with there",
                    directory.string()));
  const Tokenizer tokenizer = Tokenizer::load(source);
  const SinkConfig& sink = model.model->config().sink;
  try {
    const Reading reading = is_sentencepiece ? read_sentencepiece(tokenizer)
                                             : read_tokenizer_json(tokenizer, directory);
    add_reading(reading, list_pieces(tokenizer, reading, model), file);
  } catch (const std::invalid_argument& error) {
    throw std::invalid_argument(
        fmt::format("{}: {}; export --format hf and let llama.cpp's convert_hf_to_gguf.py write "
                    "the GGUF file",
                    source.string(),
                    error.what()));
  }
  const auto add = [&](const char* key, GgufValue value) {
    file.keys.emplace_back(std::string("tokenizer.") + key, std::move(value));
  };
  const auto add_id = [&](const char* key, int64_t id) {
    if (id >= 0) add(key, static_cast<uint32_t>(id));
  };
  add_id("ggml.bos_token_id", bos_of(tokenizer, sink));
  add_id("ggml.eos_token_id", model.eos_ids.empty() ? tokenizer.eos_id() : model.eos_ids.front());
  add_id("ggml.unknown_token_id", first_of_type(tokenizer, PieceType::kUnknown));
  add("ggml.add_bos_token", begins_with_bos(model));
  add("ggml.add_eos_token", false);
  if (const auto text = chat_template(directory)) add("chat_template", *text);
}

}  // namespace basin
