// The tokenizers of all models behind plain types: SentencePiece's tokenizer.model, which `prepare`
// trains, and Hugging Face's tokenizer.json. Non-obvious: with SentencePiece, encoding text never
// yields a reserved id, whatever the text spells; a tokenizer.json may say otherwise, and is
// followed.
#pragma once

#include <bitset>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "data/encode_cache.h"

namespace sentencepiece {
class SentencePieceProcessor;
}

namespace basin {

class JsonTokenizer;

/// Reserved pieces of the tokenizers that `prepare` trains: 0 <unk>, 1 <sink>, 2 </s>, 3..5
/// <sink1>..<sink3>.
inline constexpr int64_t kEosId = 2;
inline constexpr int64_t kReservedIds = 6;

/// What a piece of a SentencePiece model is.
enum class PieceType { kNormal, kUnknown, kControl, kByte, kUnused, kUserDefined };

/// What a SentencePiece model file says about itself: its pieces and how it prepares text.
struct SentencePieceModel {
  struct Piece {
    std::string text;
    float score = 0;
    PieceType type = PieceType::kNormal;
  };
  std::vector<Piece> pieces;
  bool is_bpe = false;
  bool has_character_map =
      false;  // rewrites characters (NFKC and the like) before it looks for pieces
  bool add_dummy_prefix = true;  // puts a space in front of every text ...
  bool whitespace_as_suffix = false;  // ... or behind it
  bool remove_extra_whitespaces = true;
  bool escape_whitespaces = true;  // a space and U+2581 are the same

  /// Text goes into pieces as it is, or with a space in front, so that parts of a text can be encoded
  /// one by one.
  bool is_identity() const {
    return !has_character_map && !remove_extra_whitespaces && escape_whitespaces &&
           !(add_dummy_prefix && whitespace_as_suffix);
  }
};

/// Immutable and safe to share between threads.
class Tokenizer {
 public:
  using PieceType = basin::PieceType;

  /// Reads a SentencePiece model or a tokenizer.json, told apart by what they hold; what
  /// tokenizer_config.json and special_tokens_map.json beside it say of bos, eos and add_bos_token
  /// counts. Throws std::runtime_error naming the file when it is missing, damaged or not
  /// supported.
  static Tokenizer load(const std::filesystem::path& path);
  static Tokenizer from_bytes(std::string model_bytes, const std::string& name);
  Tokenizer(Tokenizer&&) noexcept;
  Tokenizer& operator=(Tokenizer&&) noexcept;
  ~Tokenizer();

  /// Valid UTF-8 in (see `sanitize_utf8`), piece ids out.
  std::vector<int32_t> encode(std::string_view text) const;
  /// The same ids, appended to `ids`, through a cache that the caller keeps from text to text, for
  /// this tokenizer alone.
  void encode(std::string_view text, EncodeCache& cache, std::vector<int32_t>& ids) const;
  /// Reserved ids decode to nothing. Bytes may be an incomplete UTF-8 sequence when the ids end
  /// inside one. A dummy prefix (foreign tokenizers only) stays in front as a space, so that ids
  /// can be decoded piece by piece.
  std::string decode(std::span<const int32_t> ids) const;
  /// A whole text, as the `tokenizers` package decodes it: without the dummy prefix, and with
  /// U+FFFD for bytes that are no UTF-8.
  std::string decode_text(std::span<const int32_t> ids) const;

  /// What ends documents where the tokenizer itself leaves it open.
  void end_texts_with(int64_t eos_id) { eos_id_ = eos_id; }

  /// Ids lie below; for a tokenizer.json there may be some that no piece has (type kUnused).
  int64_t vocab_size() const { return static_cast<int64_t>(model_.pieces.size()); }
  const std::string& piece(int64_t id) const { return model_.pieces.at(id).text; }
  float score(int64_t id) const { return model_.pieces.at(id).score; }
  PieceType type(int64_t id) const { return model_.pieces.at(id).type; }
  /// UTF-8 bytes of text that the piece stands for; 0 for reserved ids.
  int64_t piece_bytes(int64_t id) const;
  /// Id of the piece that ends a document; -1 when the model has none.
  int64_t eos_id() const { return eos_id_; }
  /// Id of the piece that begins a text, `<sink>` in ours; -1 when the model has none.
  int64_t bos_id() const { return bos_id_; }
  /// What other software puts in front of a text (a BOS, mostly) and behind it; `encode` does not.
  std::span<const int32_t> prepended_ids() const { return prepended_; }
  std::span<const int32_t> appended_ids() const { return appended_; }

  bool is_sentencepiece() const { return json_ == nullptr; }
  /// Ids below kReservedIds are those that `prepare` reserves, which no text yields.
  bool has_reserved_ids() const;
  /// Of a tokenizer.json: pieces as it spells them, scores 0; special added tokens are kControl,
  /// other ones kUserDefined.
  const SentencePieceModel& model() const { return model_; }
  const std::string& model_bytes() const { return model_bytes_; }  // what the file holds
  const std::string& hash() const { return hash_; }                // see tokenizer_hash

 private:
  Tokenizer();
  void read_sentencepiece(const std::string& name);
  void read_json(const std::string& name);
  void read_settings(const std::filesystem::path& directory);
  int64_t id_of(const std::string& piece) const;
  void take_over_prefix();
  void find_cuts();
  std::string_view with_prefix(std::string_view text, std::string& storage) const;
  void encode_stretch(std::string_view stretch, std::vector<int32_t>& ids) const;

  std::unique_ptr<sentencepiece::SentencePieceProcessor> processor_;
  std::unique_ptr<JsonTokenizer> json_;  // one of the two
  SentencePieceModel model_;
  std::vector<std::string> texts_;  // of the pieces, as bytes of a document
  std::string model_bytes_, hash_;
  int64_t bos_id_ = -1, eos_id_ = -1;
  std::vector<int32_t> prepended_, appended_;
  bool puts_prefix_ = false;      // the dummy prefix, of which processor_ then knows nothing
  bool separable_ = false;        // a text may be encoded in stretches ...
  std::bitset<1 << 16> spanned_;  // ... cut between any two bytes (a, b), a * 256 + b, that no
                                  // piece holds side by side
};

/// The tokenizer of a model directory, nothing when it has none: tokenizer.json where there is one,
/// as in other software, except for models of ours, whose tokenizer.model it only describes. Warns, if
/// it should, of what is not read: added tokens that lie beside a tokenizer.model alone, a
/// tokenizer.json that is not supported.
std::optional<Tokenizer> open_tokenizer(const std::filesystem::path& directory, bool warns = true);

/// A token that other software cuts out of a text before the model's pieces are looked for.
struct AddedPiece {
  std::string text;
  bool special = false;  // decodes to nothing
};
/// By id, what tokenizer.json, else tokenizer_config.json, else added_tokens.json adds. Throws
/// std::runtime_error naming file and place for what is none of these.
std::map<int64_t, AddedPiece> read_added_pieces(const std::filesystem::path& directory);

/// XXH3-64 in hexadecimal: of a SentencePiece model's bytes; of a tokenizer.json without what does
/// not change the ids of a text (post_processor, truncation, padding, sinks added to it, white space).
std::string tokenizer_hash(const std::string& model_bytes);

/// Replaces each invalid UTF-8 sequence by U+FFFD; returns how many there were.
int64_t sanitize_utf8(std::string& text);

/// Longest line in bytes that `train_tokenizer` takes; SentencePiece would skip a longer one
/// without a word.
inline constexpr size_t kMaxTrainingLineBytes = 4000;

/// Throws std::invalid_argument with the nearest good sizes when `vocab_size` is no multiple of 128
/// or too small for reserved and byte pieces.
void check_vocab_size(int64_t vocab_size);

/// Trains the tokenizer on `lines` (cut and sampled by the caller) and returns the bytes of its
/// model; the same lines give the same bytes. Throws std::invalid_argument in one clear line, also
/// when the text is too little for `vocab_size`.
std::string train_tokenizer(const std::vector<std::string>& lines, int64_t vocab_size);

/// Writes tokenizer.model, tokenizer.json, tokenizer_config.json and special_tokens_map.json into
/// `directory`, so that other software prepends `prepended_ids` (a sink model's sinks, in order;
/// empty for a vanilla model, which says the opposite everywhere). tokenizer.json is left out, with
/// a warning, for foreign tokenizers that it could not describe exactly (Unigram, character maps);
/// tokenizer.model is, for those that came as a tokenizer.json.
void write_tokenizer_files(const Tokenizer& tokenizer,
                           std::span<const int64_t> prepended_ids,
                           int64_t model_max_length,
                           const std::filesystem::path& directory);

}  // namespace basin
