// Which text is held out: documents by a glob on their file, or a keyed fraction of all documents.
// A fraction of .txt files alone, whose number is known beforehand, is exact to a document and
// holds out at least one; a lone .txt file is split, its last part held out.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "data/text_reader.h"

namespace basin {

class Holdout {
 public:
  /// `rules`: globs, or a single number in (0, 1). Throws std::invalid_argument for a number
  /// outside of it, a glob that matches no file, and globs that leave no file for training.
  Holdout(const std::vector<std::string>& rules, const std::vector<TextFile>& files, uint64_t seed);

  bool empty() const { return !any_; }
  struct Part {
    std::string_view text;
    bool held_out;
  };
  /// `text`, document number `document` of the input, in one part or, for a lone .txt file, two.
  std::vector<Part> parts(size_t file, int64_t document, std::string_view text) const;

 private:
  void choose_files(double fraction);

  bool any_ = false;
  std::vector<bool> files_;    // held out as a whole
  double fraction_ = 0;        // of the documents of .jsonl
  double split_fraction_ = 0;  // of the only document
  uint64_t seed_;
};

}  // namespace basin
