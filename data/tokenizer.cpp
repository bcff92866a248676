// BPE merges happen only where a piece of the vocabulary spans both sides. Where no piece can span
// a cut, both sides encode on their own to the same ids as together; so a text falls into stretches
// (mostly words), which SentencePiece encodes once and a cache remembers.
#include "data/tokenizer.h"

#include <fmt/format.h>
#include <sentencepiece_processor.h>

#include <algorithm>
#include <iterator>
#include <stdexcept>
#include <utility>

#include "configs/files.h"
#include "configs/signals.h"
#include "data/sentencepiece_model.h"

namespace basin {
namespace {

constexpr std::string_view kSpaceMark =
    "\xE2\x96\x81";                    // U+2581, SentencePiece's spelling of a space
constexpr size_t kLongText = 1 << 16;  // bytes from which a cache pays for one text

/// Text of a piece as it appears in a document.
std::string plain_text(const SentencePieceModel::Piece& piece) {
  if (piece.type == PieceType::kByte) {  // "<0x41>"
    return {static_cast<char>(std::stoi(piece.text.substr(3, 2), nullptr, 16))};
  }
  if (piece.type == PieceType::kControl || piece.type == PieceType::kUnknown) {
    return {};
  }
  std::string text;
  for (size_t i = 0; i < piece.text.size();) {
    const bool mark = piece.text.compare(i, kSpaceMark.size(), kSpaceMark) == 0;
    text += mark ? ' ' : piece.text[i];
    i += mark ? kSpaceMark.size() : 1;
  }
  return text;
}

size_t byte_pair(char a, char b) {
  return static_cast<unsigned char>(a) * size_t{256} + static_cast<unsigned char>(b);
}
bool is_continuation(char byte) {
  return (byte & 0xC0) == 0x80;
}

}  // namespace

std::span<const int32_t> EncodeCache::find(std::string_view stretch) const {
  const Slot& slot = slots_[slot_of(stretch)];
  return stretch == std::string_view(slot.key, slot.key_bytes) ? std::span(slot.ids, slot.num_ids)
                                                               : std::span<const int32_t>();
}

void EncodeCache::insert(std::string_view stretch, std::span<const int32_t> ids) {
  Slot& slot = slots_[slot_of(stretch)];
  if (stretch.size() <= sizeof(slot.key) && ids.size() <= std::size(slot.ids)) {
    slot.key_bytes = static_cast<uint8_t>(stretch.size());
    slot.num_ids = static_cast<uint8_t>(ids.size());
    std::copy(stretch.begin(), stretch.end(), slot.key);
    std::copy(ids.begin(), ids.end(), slot.ids);
  }
}

Tokenizer::Tokenizer() : processor_(std::make_unique<sentencepiece::SentencePieceProcessor>()) {}
Tokenizer::Tokenizer(Tokenizer&&) noexcept = default;
Tokenizer::~Tokenizer() = default;

Tokenizer Tokenizer::load(const std::filesystem::path& path) {
  return from_bytes(read_file(path), path.string());
}

Tokenizer Tokenizer::from_bytes(std::string model_bytes, const std::string& name) {
  Tokenizer tokenizer;
  const auto status = tokenizer.processor_->LoadFromSerializedProto(model_bytes);
  if (model_bytes.empty() || !status.ok()) {
    throw std::runtime_error(
        fmt::format("{}: no SentencePiece model ({} bytes): expected a tokenizer.model",
                    name,
                    model_bytes.size()));
  }
  tokenizer.model_ = parse_sentencepiece_model(model_bytes);
  tokenizer.hash_ = xxh3_hex(model_bytes);
  tokenizer.model_bytes_ = std::move(model_bytes);
  tokenizer.bos_id_ = tokenizer.processor_->bos_id();
  tokenizer.eos_id_ = tokenizer.processor_->eos_id();
  tokenizer.find_cuts();
  return tokenizer;
}

void Tokenizer::find_cuts() {
  // Without all byte pieces, neighbouring unknown characters become one <unk> together, so even a
  // cut that no piece spans would show.
  const auto bytes =
      std::count_if(model_.pieces.begin(), model_.pieces.end(), [](const auto& piece) {
        return piece.type == PieceType::kByte;
      });
  separable_ = model_.is_bpe && model_.is_identity() && bytes == 256;
  for (const SentencePieceModel::Piece& piece : model_.pieces) {
    const std::string text = plain_text(piece);
    for (size_t i = 1; i < text.size(); ++i) {
      spanned_.set(byte_pair(text[i - 1], text[i]));
    }
  }
}

std::vector<int32_t> Tokenizer::encode(std::string_view text) const {
  std::vector<int32_t> ids;
  if (text.size() >= kLongText) {
    EncodeCache cache;
    encode(text, cache, ids);
  } else {
    encode_whole(text, ids);
  }
  return ids;
}

void Tokenizer::encode_whole(std::string_view text, std::vector<int32_t>& ids) const {
  if (const auto status = processor_->Encode(text, &ids); !status.ok()) {
    throw std::runtime_error("SentencePiece could not encode a text: " + status.ToString());
  }
}

void Tokenizer::encode(std::string_view text, EncodeCache& cache, std::vector<int32_t>& ids) const {
  std::vector<int32_t> fresh;
  const auto encode_stretch = [&](std::string_view stretch) {
    std::span<const int32_t> found = cache.find(stretch);
    if (found.empty()) {
      encode_whole(stretch, fresh);
      cache.insert(stretch, fresh);
      found = fresh;
    }
    ids.insert(ids.end(), found.begin(), found.end());
  };
  // A literal U+2581 is a space to SentencePiece, which the pairs of bytes do not know.
  const bool separable = separable_ && text.find(kSpaceMark) == std::string_view::npos;
  size_t begin = 0;
  for (size_t i = 1; i < text.size() && separable; ++i) {
    if (!spanned_.test(byte_pair(text[i - 1], text[i])) && !is_continuation(text[i])) {
      check_interrupt();  // documents may be long
      encode_stretch(text.substr(begin, i - begin));
      begin = i;
    }
  }
  if (begin < text.size()) {
    encode_stretch(text.substr(begin));
  }
}

std::string Tokenizer::decode(std::span<const int32_t> ids) const {
  std::string text;
  for (const int32_t id : ids) {
    if (id < 0 || id >= vocab_size()) {
      throw std::invalid_argument(
          fmt::format("token {} is outside of the tokenizer's {} pieces", id, vocab_size()));
    }
    text += plain_text(model_.pieces[id]);
  }
  return text;
}

int64_t Tokenizer::piece_bytes(int64_t id) const {
  return static_cast<int64_t>(plain_text(model_.pieces.at(id)).size());
}

}  // namespace basin
