// The `model` of a tokenizer.json: byte-pair encoding of one word. Merges wait in a heap, so a word
// of n characters takes O(n log n).
#pragma once

#include <array>
#include <bitset>
#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "data/json_place.h"

namespace basin {

class EncodeCache;

/// What may be joined: (left, right) -> (rank, joined). A flat hash table: merging is lookups here.
class MergeTable {
 public:
  struct Merge {
    uint32_t rank;
    int32_t id;
  };
  void reserve(size_t merges);
  /// The later of two merges of the same pair counts.
  void set(int32_t left, int32_t right, Merge merge);
  /// Null when the pair does not merge.
  const Merge* find(int32_t left, int32_t right) const {
    for (size_t i = slot_of(key_of(left, right));; i = (i + 1) & mask_) {
      if (slots_[i].key == key_of(left, right)) {
        return &slots_[i].merge;
      }
      if (slots_[i].key == kFree) {
        return nullptr;
      }
    }
  }

 private:
  static constexpr uint64_t kFree = ~uint64_t{0};
  struct Slot {
    uint64_t key = kFree;
    Merge merge{};
  };
  static uint64_t key_of(int32_t left, int32_t right) {
    return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
  }
  size_t slot_of(uint64_t key) const { return (key * 0x9E3779B97F4A7C15u) >> 20 & mask_; }

  std::vector<Slot> slots_ = std::vector<Slot>(2);
  size_t mask_ = 1;
};

class BpeModel {
 public:
  /// `word_bytes`: words come as bytes that the vocabulary spells in GPT-2's alphabet. Throws
  /// std::runtime_error naming what is wrong or not supported.
  static BpeModel parse(const JsonPlace& place, bool word_bytes);

  /// Buffers of `encode`; one per thread, kept from word to word.
  class Work;

  /// Appends the ids of `word`, which is not empty. `cache` may be null.
  void encode(std::string_view word,
              Work& work,
              EncodeCache* cache,
              std::vector<int32_t>& ids) const;

  const std::unordered_map<std::string, int32_t>& vocabulary() const { return vocabulary_; }
  int32_t id_of(const std::string& token) const;  // -1: none
  /// "<0x41>" stands for a byte.
  bool byte_fallback() const { return byte_fallback_; }
  const std::string& unknown_token() const { return unknown_token_; }

 private:
  struct View : std::hash<std::string_view> {
    using is_transparent = void;
  };
  using Words = std::unordered_map<std::string, int32_t, View, std::equal_to<>>;

  void read_vocabulary(const JsonPlace& place);
  void read_merges(const JsonPlace& place);
  static std::pair<std::string, std::string> halves(const JsonPlace& place, size_t i);
  void prepare_words();
  void find_cuts();
  void add_characters(std::string_view stretch, Work& work) const;
  void add_unknown(std::string_view character, Work& work) const;
  void encode_stretch(std::string_view stretch, Work& work, std::vector<int32_t>& ids) const;
  void encode_cached(std::string_view stretch,
                     Work& work,
                     EncodeCache* cache,
                     std::vector<int32_t>& ids) const;
  bool may_cut(char left, char right) const;

  std::unordered_map<std::string, int32_t> vocabulary_;
  MergeTable merges_;
  std::string unknown_token_;
  int32_t unknown_id_ = -1;
  bool byte_fallback_ = false, fuse_unknown_ = false, ignore_merges_ = false;
  bool word_bytes_ = false;
  bool merges_bytes_ = false;  // a byte or unknown piece is part of a merge

  Words words_;                             // the vocabulary as words come
  std::array<int32_t, 256> byte_ids_;       // of "<0x00>"..; -1: none
  std::array<int32_t, 256> character_ids_;  // of single bytes of words; -1: none
  bool separable_ = false;                  // long words may be encoded in stretches ...
  std::bitset<1 << 16> spanned_;  // ... cut between any two bytes that no piece holds side by side
};

class BpeModel::Work {
 private:
  friend class BpeModel;
  struct Symbol {
    int32_t id;  // -1: joined to the one before
    int32_t previous, next;
  };
  struct Candidate {
    uint32_t rank;
    int32_t position, id;
  };
  void add(int32_t id);
  void take_unknown();
  void merge_all(const MergeTable& merges);
  void push(const MergeTable& merges, int32_t position);

  std::vector<Symbol> symbols_;
  std::vector<Candidate> heap_;
  std::vector<int32_t> fresh_;
  int32_t waiting_unknown_ = -1;
};

}  // namespace basin
