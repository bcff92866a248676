// Which ids come out, odd cases included, is what tokenizers' models/bpe computes: a candidate
// whose pair has changed still counts when the new pair joins to the same piece.
#include "data/bpe_model.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <limits>
#include <optional>
#include <span>
#include <stdexcept>
#include <unordered_set>

#include "configs/signals.h"
#include "data/byte_alphabet.h"
#include "data/encode_cache.h"
#include "data/unicode.h"

namespace basin {
namespace {

constexpr size_t kLongWord = 24;  // bytes from which cutting pays (and the cache takes less)
constexpr int64_t kLargestGap = 1 << 16;  // of ids that no token has

std::string byte_token(unsigned byte) {
  return fmt::format("<0x{:02X}>", byte);
}

size_t byte_pair(char a, char b) {
  return static_cast<unsigned char>(a) * size_t{256} + static_cast<unsigned char>(b);
}

struct Later {  // for a heap whose front comes first
  template <class Candidate>
  bool operator()(const Candidate& a, const Candidate& b) const {
    return a.rank != b.rank ? a.rank > b.rank : a.position > b.position;
  }
};

}  // namespace

void MergeTable::reserve(size_t merges) {
  slots_.assign(std::bit_ceil(2 * merges + 2), Slot{});
  mask_ = slots_.size() - 1;
}

void MergeTable::set(int32_t left, int32_t right, Merge merge) {
  size_t i = slot_of(key_of(left, right));
  while (slots_[i].key != kFree && slots_[i].key != key_of(left, right)) {
    i = (i + 1) & mask_;
  }
  slots_[i] = {key_of(left, right), merge};
}

BpeModel BpeModel::parse(const JsonPlace& place, bool word_bytes) {
  const JsonPlace type = place.find("type");
  if (!type.is_null() && type.string() != "BPE") {
    type.fail(fmt::format("models of type {} are not supported, only BPE", type.string()));
  }
  for (const char* const key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    const JsonPlace affix = place.find(key);
    if (!affix.is_null() && !affix.string().empty()) {
      affix.fail("is not supported");
    }
  }
  const JsonPlace dropout = place.find("dropout");
  if (!dropout.is_null() && dropout.value() != 0) {
    dropout.fail("encoding at random is not supported");
  }
  BpeModel model;
  model.word_bytes_ = word_bytes;
  model.byte_fallback_ = place.find("byte_fallback").boolean_or(false);
  model.fuse_unknown_ = place.find("fuse_unk").boolean_or(false);
  model.ignore_merges_ = place.find("ignore_merges").boolean_or(false);
  model.read_vocabulary(place.at("vocab"));
  if (const JsonPlace unknown = place.find("unk_token"); !unknown.is_null()) {
    model.unknown_token_ = unknown.string();
    model.unknown_id_ = model.id_of(model.unknown_token_);
    if (model.unknown_id_ < 0) {
      unknown.fail(fmt::format("\"{}\" is not in the vocabulary", model.unknown_token_));
    }
  }
  for (unsigned byte = 0; byte < 256; ++byte) {
    model.byte_ids_[byte] = model.byte_fallback_ ? model.id_of(byte_token(byte)) : -1;
  }
  model.read_merges(place.at("merges"));
  model.prepare_words();
  model.find_cuts();
  return model;
}

void BpeModel::read_vocabulary(const JsonPlace& place) {
  const auto& members = place.object();
  const int64_t largest = static_cast<int64_t>(members.size()) + kLargestGap;
  std::unordered_map<int32_t, std::string_view> tokens;
  vocabulary_.reserve(members.size());
  tokens.reserve(members.size());
  for (const auto& [token, value] : members) {
    if (!value.is_number_integer() || value < 0 || value > largest) {
      place.find(token).integer(largest);  // says what is wrong
    }
    const auto id = value.get<int32_t>();
    if (const auto [other, is_new] = tokens.emplace(id, token); !is_new) {
      place.fail(fmt::format("\"{}\" and \"{}\" have the same id {}", other->second, token, id));
    }
    vocabulary_.emplace(token, id);
  }
}

/// Both halves of merge `i`, in either spelling: "a b" or ["a", "b"].
std::pair<std::string, std::string> BpeModel::halves(const JsonPlace& place, size_t i) {
  const nlohmann::json& merge = place.value()[i];
  if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string()) {
    return {merge[0].get<std::string>(), merge[1].get<std::string>()};
  }
  if (merge.is_string()) {
    const auto& line = merge.get_ref<const std::string&>();
    const size_t space = line.find(' ');
    if (space != std::string::npos && line.find(' ', space + 1) == std::string::npos) {
      return {line.substr(0, space), line.substr(space + 1)};
    }
  }
  place[i].fail(fmt::format("expected two pieces as \"a b\" or [\"a\", \"b\"], found {}",
                            merge.dump().substr(0, 100)));
}

void BpeModel::read_merges(const JsonPlace& place) {
  const size_t count = place.size();
  if (count > std::numeric_limits<uint32_t>::max() / 4) {
    place.fail("has too many entries");
  }
  std::unordered_set<int32_t> no_text(byte_ids_.begin(), byte_ids_.end());
  no_text.insert(unknown_id_);
  merges_.reserve(count);
  uint32_t rank = 0;
  for (size_t i = 0; i < count; ++i) {
    if (const auto& line = place.value()[i];
        line.is_string() && line.get_ref<const std::string&>().starts_with("#version")) {
      continue;
    }
    const auto [left, right] = halves(place, i);
    const std::string* const tokens[] = {&left, &right};
    int32_t ids[2];
    for (size_t half = 0; half < 2; ++half) {
      ids[half] = id_of(*tokens[half]);
      if (ids[half] < 0) {
        place[i].fail(fmt::format("\"{}\" is not in the vocabulary", *tokens[half]));
      }
      merges_bytes_ |= no_text.contains(ids[half]);
    }
    const int32_t joined = id_of(left + right);
    if (joined < 0) {
      place[i].fail(fmt::format("\"{}\" is not in the vocabulary", left + right));
    }
    merges_.set(ids[0], ids[1], {rank++, joined});
  }
}

int32_t BpeModel::id_of(const std::string& token) const {
  const auto found = vocabulary_.find(token);
  return found == vocabulary_.end() ? -1 : found->second;
}

void BpeModel::prepare_words() {
  character_ids_.fill(-1);
  for (const auto& [token, id] : vocabulary_) {
    if (!word_bytes_) {
      words_.emplace(token, id);
    } else if (std::optional<std::string> bytes = from_byte_characters(token)) {
      words_.emplace(std::move(*bytes), id);
    }
  }
  for (const auto& [word, id] : words_) {
    if (word.size() == 1) {
      character_ids_[static_cast<unsigned char>(word[0])] = id;
    }
  }
}

void BpeModel::find_cuts() {
  // Neighbouring unknown characters become one piece, and under ignore_merges whole words count.
  const std::array<int32_t, 256>& ids = word_bytes_ ? character_ids_ : byte_ids_;
  const bool complete = std::find(ids.begin(), ids.end(), -1) == ids.end();
  separable_ = complete && !ignore_merges_ && !merges_bytes_;
  for (const auto& [word, id] : words_) {
    for (size_t i = 1; i < word.size(); ++i) {
      spanned_.set(byte_pair(word[i - 1], word[i]));
    }
  }
}

bool BpeModel::may_cut(char left, char right) const {
  return !spanned_.test(byte_pair(left, right)) && (word_bytes_ || (right & 0xC0) != 0x80);
}

void BpeModel::encode(std::string_view word,
                      Work& work,
                      EncodeCache* cache,
                      std::vector<int32_t>& ids) const {
  if (ignore_merges_) {
    if (const auto whole = words_.find(word); whole != words_.end()) {
      ids.push_back(whole->second);
      return;
    }
  }
  if (word.size() < kLongWord || !separable_) {
    encode_cached(word, work, cache, ids);
    return;
  }
  size_t begin = 0;
  for (size_t i = 1; i <= word.size(); ++i) {
    if (i == word.size() || may_cut(word[i - 1], word[i])) {
      check_interrupt();  // a word may be a whole document
      encode_cached(word.substr(begin, i - begin), work, cache, ids);
      begin = i;
    }
  }
}

void BpeModel::encode_cached(std::string_view stretch,
                             Work& work,
                             EncodeCache* cache,
                             std::vector<int32_t>& ids) const {
  if (cache == nullptr) {
    encode_stretch(stretch, work, ids);
    return;
  }
  std::span<const int32_t> found = cache->find(stretch);
  if (found.empty()) {
    work.fresh_.clear();
    encode_stretch(stretch, work, work.fresh_);
    cache->insert(stretch, work.fresh_);
    found = work.fresh_;
  }
  ids.insert(ids.end(), found.begin(), found.end());
}

void BpeModel::encode_stretch(std::string_view stretch,
                              Work& work,
                              std::vector<int32_t>& ids) const {
  if (stretch.size() > std::numeric_limits<int32_t>::max()) {
    throw std::runtime_error(
        fmt::format("a word of {} bytes is too long to encode", stretch.size()));
  }
  work.symbols_.clear();
  add_characters(stretch, work);
  work.merge_all(merges_);
  for (const Work::Symbol& symbol : work.symbols_) {
    if (symbol.id >= 0) {
      ids.push_back(symbol.id);
    }
  }
}

void BpeModel::add_characters(std::string_view stretch, Work& work) const {
  for (size_t i = 0; i < stretch.size();) {
    const size_t begin = i;
    int32_t id = character_ids_[static_cast<unsigned char>(stretch[i])];
    if (word_bytes_ || (stretch[i] & 0x80) == 0) {
      ++i;
    } else {
      next_character(stretch, i);
      const auto found = words_.find(stretch.substr(begin, i - begin));
      id = found == words_.end() ? -1 : found->second;
    }
    if (id >= 0) {
      work.take_unknown();
      work.add(id);
    } else if (word_bytes_) {
      add_unknown(byte_characters()[static_cast<unsigned char>(stretch[begin])], work);
    } else {
      add_unknown(stretch.substr(begin, i - begin), work);
    }
  }
  work.take_unknown();
}

/// A character that the vocabulary lacks: its bytes, the unknown piece, or nothing.
void BpeModel::add_unknown(std::string_view character, Work& work) const {
  const auto id_of_byte = [&](char byte) { return byte_ids_[static_cast<unsigned char>(byte)]; };
  if (std::all_of(character.begin(), character.end(), [&](char b) { return id_of_byte(b) >= 0; })) {
    for (const char byte : character) {
      work.add(id_of_byte(byte));
    }
  } else if (unknown_id_ >= 0) {
    if (!fuse_unknown_) {
      work.take_unknown();
    }
    work.waiting_unknown_ = unknown_id_;
  }
}

void BpeModel::Work::add(int32_t id) {
  const auto n = static_cast<int32_t>(symbols_.size());
  symbols_.push_back({id, n - 1, n + 1});
}

void BpeModel::Work::take_unknown() {
  if (waiting_unknown_ >= 0) {
    add(std::exchange(waiting_unknown_, -1));
  }
}

/// The pair that begins at `position`, when it merges.
void BpeModel::Work::push(const MergeTable& merges, int32_t position) {
  const Symbol& left = symbols_[position];
  if (const auto* merge = merges.find(left.id, symbols_[left.next].id)) {
    heap_.push_back({merge->rank, position, merge->id});
  }
}

void BpeModel::Work::merge_all(const MergeTable& merges) {
  const auto end = static_cast<int32_t>(symbols_.size());
  heap_.clear();
  for (int32_t i = 0; i + 1 < end; ++i) {
    push(merges, i);
  }
  std::make_heap(heap_.begin(), heap_.end(), Later());
  const auto add_pair = [&](int32_t position) {
    const size_t before = heap_.size();
    push(merges, position);
    if (heap_.size() > before) {
      std::push_heap(heap_.begin(), heap_.end(), Later());
    }
  };
  while (!heap_.empty()) {
    std::pop_heap(heap_.begin(), heap_.end(), Later());
    const Candidate top = heap_.back();
    heap_.pop_back();
    Symbol& left = symbols_[top.position];
    if (left.id < 0 || left.next == end) {
      continue;
    }
    Symbol& right = symbols_[left.next];
    if (const auto* merge = merges.find(left.id, right.id); !merge || merge->id != top.id) {
      continue;
    }
    left.id = top.id;
    left.next = right.next;
    right.id = -1;
    if (left.next < end) {
      symbols_[left.next].previous = top.position;
      add_pair(top.position);
    }
    if (left.previous >= 0) {
      add_pair(left.previous);
    }
  }
}

}  // namespace basin
