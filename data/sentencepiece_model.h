// Reads what a SentencePiece model file says about itself. The library's own headers do not show
// the normaliser's settings or user-defined pieces, so the few fields needed are read from the
// protobuf wire format.
#pragma once

#include <string_view>

#include "data/tokenizer.h"

namespace basin {

/// `bytes` must be a model that SentencePiece itself has accepted. Throws std::runtime_error on
/// bytes that are no protobuf message.
SentencePieceModel parse_sentencepiece_model(std::string_view bytes);

}  // namespace basin
