// What the tests of the data room share: a folder that disappears, invented text, and the message
// of an expected error.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "configs/files.h"
#include "configs/scratch_folder.h"
#include "data/indexed_dataset.h"
#include "data/sample_order.h"

namespace basin {

class TemporaryFolder : public ScratchFolder {
 public:
  std::filesystem::path operator/(const std::string& name) const { return path() / name; }
  /// Writes a file, with the folders above it.
  std::string write(const std::string& name, const std::string& bytes) const {
    std::filesystem::create_directories((path() / name).parent_path());
    write_file(path() / name, bytes);
    return (path() / name).string();
  }
  std::vector<std::string> names() const {
    std::vector<std::string> found;
    for (const auto& entry : std::filesystem::directory_iterator(path())) {
      found.push_back(entry.path().filename().string());
    }
    std::sort(found.begin(), found.end());
    return found;
  }
};

/// Text of invented words, commoner ones first, with punctuation, digits and line ends; the same
/// for the same seed.
inline std::string invented_text(uint64_t seed, size_t words) {
  static const char* const kSyllables[] = {"ba",
                                           "den",
                                           "ka",
                                           "lor",
                                           "mi",
                                           "na",
                                           "por",
                                           "qui",
                                           "ros",
                                           "sta",
                                           "ti",
                                           "un",
                                           "ver",
                                           "wa",
                                           "ye",
                                           "zo"};
  std::string text;
  for (uint64_t i = 0; i < words; ++i) {
    const uint64_t draw = keyed_hash(seed, i, 0) % 1000;
    uint64_t word = draw * draw / 2500;  // 0..399, small ones often
    std::string spelled;
    do {
      spelled += kSyllables[word % 16];
      word /= 16;
    } while (word > 0);
    const uint64_t end = keyed_hash(seed, i, 1) % 40;
    text += spelled + (end == 0   ? ".\n"
                       : end == 1 ? ", "
                       : end == 2 ? " 1" + std::to_string(draw) + " "
                                  : " ");
  }
  return text;
}

/// The message of the exception of type Error that `f` throws; a test failure when it throws
/// nothing or something else.
template <class Error, class F>
std::string message_of(F&& f) {
  try {
    f();
  } catch (const Error& error) {
    return error.what();
  } catch (const std::exception& error) {
    ADD_FAILURE() << "another kind of exception: " << error.what();
    return "";
  }
  ADD_FAILURE() << "nothing was thrown";
  return "";
}

inline void expect_contains(const std::string& message, const std::string& part) {
  EXPECT_NE(message.find(part), std::string::npos)
      << "message: " << message << "\nexpected in it: " << part;
}

inline std::vector<int64_t> all_tokens(const IndexedDataset& dataset) {
  std::vector<int64_t> tokens(dataset.num_tokens());
  dataset.read(0, tokens);
  return tokens;
}

/// A dataset of one document per list.
inline void write_dataset(const std::filesystem::path& prefix,
                          int64_t vocab_size,
                          const std::vector<std::vector<int32_t>>& documents) {
  IndexedDatasetWriter writer(prefix, vocab_size);
  for (const std::vector<int32_t>& document : documents) {
    writer.add_document(document);
  }
  writer.commit();
}

}  // namespace basin
