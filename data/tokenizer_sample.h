// The text a tokenizer is trained on: a keyed sample of lines within a budget of bytes. Which lines
// are in depends on the seed and on each line's place in the input alone, not on how it is read.
#pragma once

#include <atomic>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace basin {

/// Pieces of `text` of at most kMaxTrainingLineBytes without line ends, cut at line ends, else
/// before a space, else between characters.
std::vector<std::string_view> cut_lines(std::string_view text);

class LineSample {
 public:
  struct Line {
    uint64_t key;
    std::string text;
  };

  LineSample(uint64_t seed, size_t budget_bytes) : seed_(seed), budget_bytes_(budget_bytes) {}

  /// Those lines of a document that can still get in. Thread-safe.
  std::vector<Line> candidates(int64_t document, std::string_view text) const;
  /// Takes them, in the order of the documents.
  void add(std::vector<Line> lines);
  /// The sample, in the order of the input.
  std::vector<std::string> take();

 private:
  uint64_t seed_;
  size_t budget_bytes_, bytes_ = 0;
  std::atomic<uint64_t> threshold_ = ~uint64_t{0};  // lines with smaller keys are in; only falls
  std::vector<Line> lines_;
};

}  // namespace basin
