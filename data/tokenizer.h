// SentencePiece BPE behind plain types. Its one non-obvious rule: encoding text never yields a
// reserved id (0..5), whatever the text spells.
#pragma once

#include <bitset>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace sentencepiece {
class SentencePieceProcessor;
}

namespace basin {

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
  bool add_dummy_prefix = true;  // puts a space in front of every text
  bool remove_extra_whitespaces = true;

  /// Text goes into pieces as it is, so that parts of a text can be encoded one by one.
  bool is_identity() const {
    return !has_character_map && !add_dummy_prefix && !remove_extra_whitespaces;
  }
};

/// Remembers the ids of short stretches of text (words, mostly): encoding runs several times faster
/// through one. 8 MB; one per thread. It changes no id.
class EncodeCache {
 public:
  EncodeCache() : slots_(kSlots) {}

  /// The ids of `stretch` when they are here, else an empty span.
  std::span<const int32_t> find(std::string_view stretch) const;
  /// Takes the place of whatever else fell to the same slot; too long ones are not kept.
  void insert(std::string_view stretch, std::span<const int32_t> ids);

 private:
  struct alignas(64) Slot {  // one cache line
    uint8_t key_bytes = 0, num_ids = 0;
    char key[26];
    int32_t ids[9];
  };
  static constexpr size_t kSlots = size_t{1} << 17;
  static size_t slot_of(std::string_view stretch) {
    return std::hash<std::string_view>{}(stretch) % kSlots;
  }

  std::vector<Slot> slots_;
};

/// Immutable and safe to share between threads.
class Tokenizer {
 public:
  using PieceType = basin::PieceType;

  /// Throws std::runtime_error naming `path` when it is missing or no SentencePiece model.
  static Tokenizer load(const std::filesystem::path& path);
  static Tokenizer from_bytes(std::string model_bytes, const std::string& name);
  Tokenizer(Tokenizer&&) noexcept;
  ~Tokenizer();

  /// Valid UTF-8 in (see `sanitize_utf8`), piece ids out.
  std::vector<int32_t> encode(std::string_view text) const;
  /// The same ids, appended to `ids`, through a cache that the caller keeps from text to text.
  void encode(std::string_view text, EncodeCache& cache, std::vector<int32_t>& ids) const;
  /// Reserved ids decode to nothing. Bytes may be an incomplete UTF-8 sequence when the ids end
  /// inside one. A dummy prefix (foreign tokenizers only) stays in front as a space, so that ids
  /// can be decoded piece by piece.
  std::string decode(std::span<const int32_t> ids) const;

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

  const SentencePieceModel& model() const { return model_; }
  const std::string& model_bytes() const { return model_bytes_; }  // what `tokenizer.model` holds
  const std::string& hash() const { return hash_; }  // XXH3-64 of model_bytes, hexadecimal

 private:
  Tokenizer();
  void find_cuts();
  void encode_whole(std::string_view text, std::vector<int32_t>& ids) const;

  std::unique_ptr<sentencepiece::SentencePieceProcessor> processor_;
  SentencePieceModel model_;
  std::string model_bytes_, hash_;
  int64_t bos_id_ = -1, eos_id_ = -1;
  bool separable_ = false;        // a text may be encoded in stretches ...
  std::bitset<1 << 16> spanned_;  // ... cut between any two bytes (a, b), a * 256 + b, that no
                                  // piece holds side by side
};

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
/// a warning, for foreign tokenizers that it could not describe exactly (Unigram, character maps).
void write_tokenizer_files(const Tokenizer& tokenizer,
                           std::span<const int64_t> prepended_ids,
                           int64_t model_max_length,
                           const std::filesystem::path& directory);

}  // namespace basin
