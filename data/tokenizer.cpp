// BPE merges happen only where a piece of the vocabulary spans both sides. Where no piece can span
// a cut, both sides encode on their own to the same ids as together; so a text falls into stretches
// (mostly words), which SentencePiece encodes once and a cache remembers. A dummy prefix is put in
// front of the text before it falls apart.
#include "data/tokenizer.h"

#include <fmt/format.h>
#include <sentencepiece_processor.h>

#include <algorithm>
#include <stdexcept>
#include <utility>

#include "configs/files.h"
#include "configs/signals.h"
#include "data/json_tokenizer.h"
#include "data/sentencepiece_model.h"

namespace basin {
namespace {

constexpr std::string_view kSpaceMark =
    "\xE2\x96\x81";                    // U+2581, SentencePiece's spelling of a space
constexpr size_t kLongText = 1 << 16;  // bytes from which a cache pays for one text

/// `text` as SentencePiece means it.
std::string with_spaces(std::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size();) {
    const bool mark = text.compare(i, kSpaceMark.size(), kSpaceMark) == 0;
    out += mark ? ' ' : text[i];
    i += mark ? kSpaceMark.size() : 1;
  }
  return out;
}

/// Text of a piece as it appears in a document.
std::string plain_text(const SentencePieceModel::Piece& piece) {
  if (piece.type == PieceType::kByte) {  // "<0x41>"
    return {static_cast<char>(std::stoi(piece.text.substr(3, 2), nullptr, 16))};
  }
  if (piece.type == PieceType::kControl || piece.type == PieceType::kUnknown) {
    return {};
  }
  return with_spaces(piece.text);
}

bool is_json(std::string_view bytes) {
  const size_t first = bytes.find_first_not_of(" \t\r\n");
  return first != std::string_view::npos && bytes[first] == '{';
}

PieceType piece_type(JsonTokenizer::Kind kind) {
  switch (kind) {
    case JsonTokenizer::Kind::kNormal:
      return PieceType::kNormal;
    case JsonTokenizer::Kind::kUnknown:
      return PieceType::kUnknown;
    case JsonTokenizer::Kind::kSpecial:
      return PieceType::kControl;
    case JsonTokenizer::Kind::kAdded:
      return PieceType::kUserDefined;
    case JsonTokenizer::Kind::kByte:
      return PieceType::kByte;
    case JsonTokenizer::Kind::kNone:
      break;
  }
  return PieceType::kUnused;
}

// What ends a text, where no tokenizer_config.json says it.
constexpr const char* kEndSpellings[] = {"<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>"};

size_t byte_pair(char a, char b) {
  return static_cast<unsigned char>(a) * size_t{256} + static_cast<unsigned char>(b);
}
bool is_continuation(char byte) {
  return (byte & 0xC0) == 0x80;
}

}  // namespace

Tokenizer::Tokenizer() = default;
Tokenizer::Tokenizer(Tokenizer&&) noexcept = default;
Tokenizer& Tokenizer::operator=(Tokenizer&&) noexcept = default;
Tokenizer::~Tokenizer() = default;

Tokenizer Tokenizer::load(const std::filesystem::path& path) {
  Tokenizer tokenizer = from_bytes(read_file(path), path.string());
  tokenizer.read_settings(path.parent_path());
  return tokenizer;
}

Tokenizer Tokenizer::from_bytes(std::string model_bytes, const std::string& name) {
  Tokenizer tokenizer;
  tokenizer.model_bytes_ = std::move(model_bytes);
  if (is_json(tokenizer.model_bytes_)) {
    tokenizer.read_json(name);
  } else {
    tokenizer.read_sentencepiece(name);
  }
  return tokenizer;
}

void Tokenizer::read_sentencepiece(const std::string& name) {
  processor_ = std::make_unique<sentencepiece::SentencePieceProcessor>();
  if (model_bytes_.empty() || !processor_->LoadFromSerializedProto(model_bytes_).ok()) {
    throw std::runtime_error(
        fmt::format("{}: no SentencePiece model ({} bytes): expected a tokenizer.model",
                    name,
                    model_bytes_.size()));
  }
  model_ = parse_sentencepiece_model(model_bytes_);
  for (const SentencePieceModel::Piece& piece : model_.pieces) {
    texts_.push_back(plain_text(piece));
  }
  hash_ = xxh3_hex(model_bytes_);
  bos_id_ = processor_->bos_id();
  eos_id_ = processor_->eos_id();
  if (model_.add_dummy_prefix && model_.is_identity()) {
    take_over_prefix();
  }
  find_cuts();
}

void Tokenizer::take_over_prefix() {
  // normalizer_spec {add_dummy_prefix: false}, which a protobuf reader merges into the one before
  constexpr std::string_view kNone("\x1A\x02\x18\x00", 4);
  auto plain = std::make_unique<sentencepiece::SentencePieceProcessor>();
  if (plain->LoadFromSerializedProto(model_bytes_ + std::string(kNone)).ok()) {
    processor_ = std::move(plain);
    puts_prefix_ = true;
  }
}

void Tokenizer::read_json(const std::string& name) {
  json_ = JsonTokenizer::parse(model_bytes_, name);
  for (const JsonTokenizer::Token& token : json_->tokens()) {
    model_.pieces.push_back({token.text, 0, piece_type(token.kind)});
    texts_.push_back(token.decoded.bytes);
  }
  model_.is_bpe = true;
  hash_ = json_->hash();
  prepended_ = json_->prepended_ids();
  appended_ = json_->appended_ids();
  for (const char* const spelling : kEndSpellings) {
    const int64_t id = eos_id_ < 0 ? json_->id_of(spelling) : -1;
    eos_id_ = id >= 0 && type(id) == PieceType::kControl ? id : eos_id_;
  }
}

bool Tokenizer::has_reserved_ids() const {
  return is_sentencepiece() && vocab_size() > kReservedIds && piece(1) == "<sink>" &&
         piece(3) == "<sink1>";
}

void Tokenizer::find_cuts() {
  // Without all byte pieces, neighbouring unknown characters become one <unk> together, so even a
  // cut that no piece spans would show.
  const auto bytes =
      std::count_if(model_.pieces.begin(), model_.pieces.end(), [](const auto& piece) {
        return piece.type == PieceType::kByte;
      });
  separable_ = model_.is_bpe && model_.is_identity() && bytes == 256 &&
               model_.add_dummy_prefix == puts_prefix_;
  for (const std::string& text : texts_) {
    for (size_t i = 1; i < text.size(); ++i) {
      spanned_.set(byte_pair(text[i - 1], text[i]));
    }
  }
}

std::string_view Tokenizer::with_prefix(std::string_view text, std::string& storage) const {
  if (!puts_prefix_ || text.empty()) {
    return text;
  }
  storage.reserve(text.size() + 1);
  storage = ' ';
  return storage += text;
}

std::vector<int32_t> Tokenizer::encode(std::string_view text) const {
  std::vector<int32_t> ids;
  if (text.size() >= kLongText) {
    EncodeCache cache;
    encode(text, cache, ids);
  } else if (json_) {
    json_->encode(text, nullptr, ids);
  } else {
    std::string storage;
    encode_stretch(with_prefix(text, storage), ids);
  }
  return ids;
}

void Tokenizer::encode_stretch(std::string_view stretch, std::vector<int32_t>& ids) const {
  if (const auto status = processor_->Encode(stretch, &ids); !status.ok()) {
    throw std::runtime_error("SentencePiece could not encode a text: " + status.ToString());
  }
}

void Tokenizer::encode(std::string_view text, EncodeCache& cache, std::vector<int32_t>& ids) const {
  if (json_) {
    json_->encode(text, &cache, ids);
    return;
  }
  std::string storage;
  text = with_prefix(text, storage);
  std::vector<int32_t> fresh;
  const auto append = [&](std::string_view stretch) {
    std::span<const int32_t> found = cache.find(stretch);
    if (found.empty()) {
      encode_stretch(stretch, fresh);
      cache.insert(stretch, fresh);
      found = fresh;
    }
    ids.insert(ids.end(), found.begin(), found.end());
  };
  // A literal U+2581 is a space to SentencePiece, which the pairs of bytes do not know.
  if (separable_ && text.find(kSpaceMark) != std::string_view::npos) {
    storage = with_spaces(text);
    text = storage;
  }
  size_t begin = 0;
  for (size_t i = 1; i < text.size() && separable_; ++i) {
    if (!spanned_.test(byte_pair(text[i - 1], text[i])) && !is_continuation(text[i])) {
      check_interrupt();  // documents may be long
      append(text.substr(begin, i - begin));
      begin = i;
    }
  }
  if (begin < text.size()) {
    append(text.substr(begin));
  }
}

std::string Tokenizer::decode(std::span<const int32_t> ids) const {
  std::string text;
  for (const int32_t id : ids) {
    if (id < 0 || id >= vocab_size()) {
      throw std::invalid_argument(
          fmt::format("token {} is outside of the tokenizer's {} pieces", id, vocab_size()));
    }
    text += texts_[id];
  }
  return text;
}

std::string Tokenizer::decode_text(std::span<const int32_t> ids) const {
  std::string text = decode(ids);  // checks the ids
  if (json_) {
    return json_->decode_text(ids);
  }
  if (model_.add_dummy_prefix && text.starts_with(' ')) {
    text.erase(0, 1);
  }
  sanitize_utf8(text);
  return text;
}

int64_t Tokenizer::piece_bytes(int64_t id) const {
  return static_cast<int64_t>(texts_.at(id).size());
}

}  // namespace basin
