#include "infer/gguf_tokenizer.h"

#include <fmt/core.h>

#include <nlohmann/json.hpp>
#include <optional>
#include <stdexcept>

#include "configs/files.h"

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

/// The directory's tokenizer.model, whatever other description of its tokenizer lies beside it.
/// Refuses what llama.cpp's reading of it does not do.
Tokenizer sentencepiece_of(const fs::path& directory) {
  const auto refuse = [&](const std::string& what) {
    throw std::invalid_argument(
        fmt::format("{}: {}; export --format hf and let llama.cpp's convert_hf_to_gguf.py write "
                    "the GGUF file",
                    directory.string(),
                    what));
  };
  if (!fs::exists(directory / "tokenizer.model"))
    refuse("only SentencePiece tokenizers (tokenizer.model) go into a GGUF file here, and a run that train.init_from began with a tokenizer.json has kept that alone");
  Tokenizer tokenizer = Tokenizer::load(directory / "tokenizer.model");
  const SentencePieceModel& pieces = tokenizer.model();
  if (!pieces.is_bpe) refuse("its SentencePiece model is not BPE");
  if (pieces.has_character_map)
    refuse(
        "its SentencePiece model rewrites characters (NFKC or the like), which llama.cpp "
        "does not");
  if (pieces.remove_extra_whitespaces)
    refuse("its SentencePiece model drops extra spaces, which llama.cpp does not");
  return tokenizer;
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

int64_t first_of_type(const Tokenizer& tokenizer, PieceType type) {
  for (int64_t id = 0; id < tokenizer.vocab_size(); ++id)
    if (tokenizer.type(id) == type) return id;
  return -1;
}

}  // namespace

void add_tokenizer_keys(const LoadedModel& model, GgufFile& file) {
  const Tokenizer tokenizer = sentencepiece_of(model.directory);
  const ModelConfig& config = model.model->config();
  std::vector<std::string> tokens;
  std::vector<float> scores;
  std::vector<int32_t> types;
  for (int64_t id = 0; id < config.vocab_size; ++id) {
    const bool is_piece = id < tokenizer.vocab_size();
    tokens.push_back(is_piece ? tokenizer.piece(id) : fmt::format("[PAD{}]", id));
    scores.push_back(is_piece ? tokenizer.score(id) : kUnusedScore);
    types.push_back(token_type(is_piece ? tokenizer.type(id) : PieceType::kUnused));
  }
  const auto add = [&](const char* key, GgufValue value) {
    file.keys.emplace_back(std::string("tokenizer.") + key, std::move(value));
  };
  const auto add_id = [&](const char* key, int64_t id) {
    if (id >= 0) add(key, static_cast<uint32_t>(id));
  };
  add("ggml.model", "llama");
  add("ggml.pre", "default");
  add("ggml.tokens", std::move(tokens));
  add("ggml.scores", std::move(scores));
  add("ggml.token_type", std::move(types));
  add_id("ggml.bos_token_id",
         config.sink.tokens() > 0 ? config.sink.ids().front() : tokenizer.bos_id());
  add_id("ggml.eos_token_id", model.eos_ids.empty() ? tokenizer.eos_id() : model.eos_ids.front());
  add_id("ggml.unknown_token_id", first_of_type(tokenizer, PieceType::kUnknown));
  add("ggml.add_bos_token", begins_with_bos(model));
  add("ggml.add_eos_token", false);
  add("ggml.add_space_prefix", tokenizer.model().add_dummy_prefix);
  if (const auto text = chat_template(model.directory)) add("chat_template", *text);
}

}  // namespace basin
