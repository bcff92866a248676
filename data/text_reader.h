// Documents from text files, one at a time: .txt (one document a file) and .jsonl (one a line,
// under a key), each plain, .gz or .zst. Reading is in two steps, so that many threads can share
// the second: `TextReader` cuts files into raw documents in a fixed order, `decode_document` checks
// one and turns it into valid UTF-8.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace basin {

class CompressedFile;

struct TextFile {
  std::filesystem::path path;
  uint64_t bytes = 0;  // of the file as it lies
  bool json_lines = false;
};

/// Files, folders (recursively, sorted, hidden ones left out) and globs, in the order given; each
/// file once. Throws std::runtime_error naming the input that does not exist, matches nothing,
/// holds no text file or is of another kind.
std::vector<TextFile> find_text_files(const std::vector<std::string>& inputs);

struct RawDocument {
  size_t file = 0;   // index into the list of files
  int64_t line = 0;  // from 1 in .jsonl, 0 in .txt
  std::string bytes;
};

class TextReader {
 public:
  /// `largest_document`, in bytes: what is longer is refused, before memory is.
  explicit TextReader(std::vector<TextFile> files, size_t largest_document = 2'000'000'000);
  ~TextReader();

  /// The next document; nothing at the end. Blank lines of .jsonl are no documents.
  std::optional<RawDocument> next();
  const std::vector<TextFile>& files() const { return files_; }
  /// Bytes of the files read so far, as they lie: the measure of progress.
  uint64_t bytes_read() const { return bytes_of_finished_ + bytes_of_current(); }
  /// XXH3-64 of every file read to its end, in order.
  const std::vector<std::string>& file_hashes() const { return hashes_; }

 private:
  uint64_t bytes_of_current() const;
  bool fill();
  void take(size_t count, std::string& bytes);
  std::optional<std::string> next_line();
  void finish_file();

  std::vector<TextFile> files_;
  size_t largest_document_;
  std::vector<std::string> hashes_;
  std::unique_ptr<CompressedFile> current_;
  size_t index_ = 0;  // of the current or next file
  int64_t line_ = 0;
  uint64_t bytes_of_finished_ = 0;
  std::string buffer_;  // uncompressed bytes not yet handed out: [begin_, end_)
  size_t begin_ = 0, end_ = 0;
};

struct TextDocument {
  std::string text;                // valid UTF-8
  int64_t replaced_sequences = 0;  // invalid ones and halves of characters, now U+FFFD
  int64_t literal_u2581 = 0;       // come back as spaces from a SentencePiece tokenizer
};

/// "FILE" or "FILE:LINE".
std::string document_name(const TextFile& file, int64_t line);

/// Throws std::runtime_error naming file and line for binary data, a line that is no JSON object,
/// and a missing or non-string `text_key`.
TextDocument decode_document(RawDocument raw, const TextFile& file, const std::string& text_key);

/// Both steps on one thread, for programs that just want the texts: calls visit(name, text) for
/// each document that is not empty. Warns of replaced sequences. Throws as above, and
/// std::runtime_error when there is no text at all.
void for_each_document(const std::vector<std::string>& inputs,
                       const std::string& text_key,
                       const std::function<void(const std::string& name, std::string text)>& visit);

}  // namespace basin
