#include "infer/gguf_scores.h"

#include <nlohmann/json.hpp>
#include <set>
#include <stdexcept>
#include <string_view>
#include <utility>

namespace basin {
namespace {

using nlohmann::json;

const json kMark = {{"type", "Replace"}, {"pattern", {{"String", " "}}}, {"content", "▁"}};
const json kPrepend = {{"type", "Prepend"}, {"prepend", "▁"}};
const json kPrependAndMark = {{"type", "Sequence"}, {"normalizers", {kPrepend, kMark}}};

[[noreturn]] void refuse() {
  throw std::invalid_argument("its merges are not those of a SentencePiece model");
}

}  // namespace

std::vector<std::pair<std::string, std::string>> merges_of(const json& document) {
  std::vector<std::pair<std::string, std::string>> merges;
  for (const json& merge : document.at("model").at("merges")) {
    if (merge.is_array()) {
      merges.emplace_back(merge.at(0), merge.at(1));
      continue;
    }
    const auto& both = merge.get_ref<const std::string&>();
    const size_t space = both.find(' ');
    merges.emplace_back(both.substr(0, space), both.substr(space + 1));
  }
  return merges;
}

bool is_sentencepiece_like(const json& document) {
  const json normalizer = document.value("normalizer", json());
  return document.value("pre_tokenizer", json()).is_null() &&
         document.at("model").value("byte_fallback", false) &&
         (normalizer == kMark || normalizer == kPrependAndMark);
}

bool prepends_space(const json& document) {
  return document.at("normalizer") == kPrependAndMark;
}

std::unordered_map<std::string, float> scores_of_merges(const json& document) {
  std::unordered_map<std::string, float> scores;
  std::set<std::pair<std::string, std::string>> known;
  std::string last;
  for (const auto& [left, right] : merges_of(document)) {
    const std::string piece = left + right;
    // A piece that others come between has no single rank.
    if (piece != last && !scores.emplace(piece, -static_cast<float>(scores.size())).second)
      refuse();
    known.emplace(left, right);
    last = piece;
  }
  // SentencePiece joins any two pieces that make a third.
  const json& vocabulary = document.at("model").at("vocab");
  for (const auto& [piece, id] : vocabulary.items())
    for (size_t cut = 1; cut < piece.size(); ++cut) {
      const std::pair halves(piece.substr(0, cut), piece.substr(cut));
      if (vocabulary.contains(halves.first) && vocabulary.contains(halves.second) &&
          !known.contains(halves))
        refuse();
    }
  return scores;
}

}  // namespace basin
