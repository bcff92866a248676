// A Hugging Face tokenizer.json with a BPE model: byte-level (GPT-NeoX, MPT, Falcon, Llama 3,
// Qwen2) or SentencePiece's way (Llama 2, Mistral). Gives the ids of the `tokenizers` package,
// whose behaviour in odd cases is the specification. `truncation` and `padding` are for batches and
// not followed here.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "data/added_tokens.h"
#include "data/bpe_model.h"
#include "data/piece_decoder.h"
#include "data/pre_tokenizer.h"
#include "data/text_normalizer.h"

namespace basin {

class EncodeCache;

/// Immutable and safe to share between threads.
class JsonTokenizer {
 public:
  /// Throws std::runtime_error: one line with `name`, the place in the file and what is wrong with
  /// it or not supported.
  static std::unique_ptr<JsonTokenizer> parse(std::string_view bytes, const std::string& name);

  /// Appends the ids of `text`, without what the post-processor puts around it. Added tokens that
  /// the text spells become their ids. `cache` may be null.
  void encode(std::string_view text, EncodeCache* cache, std::vector<int32_t>& ids) const;

  enum class Kind { kNormal, kUnknown, kSpecial, kAdded, kByte, kNone };
  struct Token {
    std::string text;  // as the file spells it
    Kind kind = Kind::kNone;
    PieceDecoder::Decoded decoded;  // nothing for special tokens
  };
  /// By id; ids that no token has are kNone.
  const std::vector<Token>& tokens() const { return tokens_; }
  /// -1 when there is none.
  int64_t id_of(const std::string& token) const;
  std::string decode_text(std::span<const int32_t> ids) const;

  /// See tokenizer_hash.
  const std::string& hash() const { return hash_; }
  /// What the post-processor puts in front of a text, and behind.
  const std::vector<int32_t>& prepended_ids() const { return prepended_; }
  const std::vector<int32_t>& appended_ids() const { return appended_; }

 private:
  explicit JsonTokenizer(const JsonPlace& root, std::string hash);
  void read_added_tokens(const JsonPlace& place);
  AddedToken parse_added_token(const JsonPlace& place) const;
  void read_post_processor(const JsonPlace& place);
  void read_template(const JsonPlace& place);
  void list_tokens(const JsonPlace& root);

  TextNormalizer normalizer_;
  PreTokenizer pre_tokenizer_;
  BpeModel model_;
  std::vector<AddedToken> added_;
  TokenFinder raw_finder_, normalized_finder_;  // of tokens in the text as it is, and normalised
  PieceDecoder decoder_;
  std::vector<Token> tokens_;
  std::unordered_map<std::string, int32_t> added_ids_;
  std::vector<int32_t> prepended_, appended_;
  std::string hash_;
};

}  // namespace basin
