// A tokenizer.json that was converted from a SentencePiece model (Llama 2's, TinyLlama's), in
// llama.cpp's terms, which are SentencePiece's: scores instead of merges.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

namespace basin {

/// The merges of a tokenizer.json (one that JsonTokenizer has accepted), of either spelling: what
/// is joined to what, first to last.
std::vector<std::pair<std::string, std::string>> merges_of(const nlohmann::json& document);

/// Whether spaces are marks and bytes are pieces, and nothing else happens to a text than, perhaps,
/// a mark put in front.
bool is_sentencepiece_like(const nlohmann::json& document);
/// Whether that mark is put in front.
bool prepends_space(const nlohmann::json& document);

/// Scores under which joining the best pair of neighbours first, as SentencePiece does, joins what
/// the merges join, for every piece that they make. Throws std::invalid_argument where there are
/// none.
std::unordered_map<std::string, float> scores_of_merges(const nlohmann::json& document);

}  // namespace basin
