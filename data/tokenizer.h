// SentencePiece BPE behind plain types. Its one non-obvious rule: encoding text never yields a reserved id (0..5), whatever the text spells.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace sentencepiece {
class SentencePieceProcessor;
}

namespace basin {

/// Reserved pieces of the tokenizers that `prepare` trains: 0 <unk>, 1 <sink>, 2 </s>, 3..5 <sink1>..<sink3>.
inline constexpr int64_t kEosId = 2;
inline constexpr int64_t kReservedIds = 6;

/// Immutable and safe to share between threads.
class Tokenizer {
 public:
  /// Throws std::runtime_error naming `path` when it is missing or no SentencePiece model.
  static Tokenizer load(const std::filesystem::path& path);
  static Tokenizer from_bytes(std::string model_bytes, const std::string& name);
  Tokenizer(Tokenizer&&) noexcept;
  ~Tokenizer();

  /// Valid UTF-8 in (see `sanitize_utf8`), piece ids out.
  std::vector<int32_t> encode(std::string_view text) const;
  /// Reserved ids decode to nothing. Bytes may be an incomplete UTF-8 sequence when the ids end inside one.
  std::string decode(std::span<const int32_t> ids) const;

  int64_t vocab_size() const;
  std::string piece(int64_t id) const;
  float score(int64_t id) const;
  enum class PieceType { kNormal, kUnknown, kControl, kByte, kUnused, kUserDefined };
  PieceType type(int64_t id) const;
  /// UTF-8 bytes of text that the piece stands for; 0 for reserved ids.
  int64_t piece_bytes(int64_t id) const;

  const std::string& model_bytes() const { return model_bytes_; }   // what `tokenizer.model` holds
  const std::string& hash() const { return hash_; }                 // XXH3-64 of model_bytes, hexadecimal

 private:
  Tokenizer();
  std::unique_ptr<sentencepiece::SentencePieceProcessor> processor_;
  std::string model_bytes_, hash_;
};

/// Replaces each invalid UTF-8 sequence by U+FFFD; returns how many there were.
int64_t sanitize_utf8(std::string& text);

/// Trains the tokenizer on `lines` (cut and sampled by the caller) and returns the bytes of its model; the same lines give the same bytes.
/// Throws std::invalid_argument in one clear line when there is too little text for `vocab_size`.
std::string train_tokenizer(const std::vector<std::string>& lines, int64_t vocab_size, int threads);

/// Writes tokenizer.model, tokenizer.json, tokenizer_config.json and special_tokens_map.json into `directory`, so that other software
/// prepends `prepended_ids` (a sink model's sinks, in order; empty for a vanilla model, which says the opposite everywhere).
void write_tokenizer_files(const Tokenizer& tokenizer, std::span<const int64_t> prepended_ids, int64_t model_max_length, const std::filesystem::path& directory);

}  // namespace basin
