// Field numbers from sentencepiece_model.proto: ModelProto{1 pieces, 2 trainer_spec, 3
// normalizer_spec}, SentencePiece{1 piece, 2 score, 3 type}, TrainerSpec{3 model_type, 24
// treat_whitespace_as_suffix}, NormalizerSpec{2 precompiled_charsmap, 3 add_dummy_prefix, 4
// remove_extra_whitespaces, 5 escape_whitespaces}.
#include "data/sentencepiece_model.h"

#include <cstring>
#include <stdexcept>

namespace basin {
namespace {

/// Walks over the fields of one message.
class Message {
 public:
  explicit Message(std::string_view message) : rest_(message) {}

  /// Moves to the next field; false at the end.
  bool next() {
    if (rest_.empty()) {
      return false;
    }
    const uint64_t tag = varint();
    number = static_cast<int>(tag >> 3);
    bytes = {};
    value = 0;
    switch (tag & 7) {
      case 0:
        value = varint();
        break;
      case 1:
        bytes = take(8);
        break;
      case 2:
        bytes = take(varint());
        break;
      case 5:
        bytes = take(4);
        break;
      default:
        throw std::runtime_error("damaged protobuf message");
    }
    return true;
  }

  int number = 0;
  uint64_t value = 0;      // of a varint field
  std::string_view bytes;  // of any other field

 private:
  std::string_view take(uint64_t count) {
    if (count > rest_.size()) {
      throw std::runtime_error("truncated protobuf message");
    }
    const std::string_view head = rest_.substr(0, count);
    rest_.remove_prefix(count);
    return head;
  }
  uint64_t varint() {
    uint64_t result = 0;
    for (int shift = 0; shift < 64; shift += 7) {
      const auto byte = static_cast<unsigned char>(take(1)[0]);
      result |= uint64_t{byte & 0x7Fu} << shift;
      if (byte < 0x80) {
        return result;
      }
    }
    throw std::runtime_error("damaged protobuf message");
  }

  std::string_view rest_;
};

PieceType to_piece_type(uint64_t value) {
  switch (value) {
    case 2:
      return PieceType::kUnknown;
    case 3:
      return PieceType::kControl;
    case 4:
      return PieceType::kUserDefined;
    case 5:
      return PieceType::kUnused;
    case 6:
      return PieceType::kByte;
    default:
      return PieceType::kNormal;
  }
}

SentencePieceModel::Piece parse_piece(std::string_view bytes) {
  SentencePieceModel::Piece piece;
  for (Message field(bytes); field.next();) {
    if (field.number == 1) {
      piece.text = field.bytes;
    } else if (field.number == 2 && field.bytes.size() == sizeof(float)) {
      std::memcpy(&piece.score, field.bytes.data(), sizeof(float));
    } else if (field.number == 3) {
      piece.type = to_piece_type(field.value);
    }
  }
  return piece;
}

}  // namespace

SentencePieceModel parse_sentencepiece_model(std::string_view bytes) {
  constexpr uint64_t kBpe = 2;
  SentencePieceModel model;
  for (Message part(bytes); part.next();) {
    if (part.number == 1) {
      model.pieces.push_back(parse_piece(part.bytes));
    } else if (part.number == 2) {
      for (Message field(part.bytes); field.next();) {
        model.is_bpe = field.number == 3 ? field.value == kBpe : model.is_bpe;
        model.whitespace_as_suffix =
            field.number == 24 ? field.value != 0 : model.whitespace_as_suffix;
      }
    } else if (part.number == 3) {
      for (Message field(part.bytes); field.next();) {
        switch (field.number) {
          case 2:
            model.has_character_map = !field.bytes.empty();
            break;
          case 3:
            model.add_dummy_prefix = field.value != 0;
            break;
          case 4:
            model.remove_extra_whitespaces = field.value != 0;
            break;
          case 5:
            model.escape_whitespaces = field.value != 0;
            break;
          default:
            break;
        }
      }
    }
  }
  return model;
}

}  // namespace basin
