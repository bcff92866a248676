// The Megatron-LM indexed dataset: PREFIX.bin (tokens back to back) and PREFIX.idx (sizes, byte
// offsets, document boundaries). Nothing in the index is naturally aligned: it is copied, never
// cast. Memory-mapped.
#pragma once

#include <atomic>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "configs/files.h"
#include "data/dataset_index.h"

namespace basin {

class Tokenizer;

/// A dataset for reading. Tokens of all documents are addressed end to end: position 0 ..
/// num_tokens()-1.
class IndexedDataset {
 public:
  /// `prefix` is the path without .bin/.idx. Throws std::runtime_error saying what is wrong and
  /// where.
  explicit IndexedDataset(const std::filesystem::path& prefix);
  IndexedDataset(IndexedDataset&&) noexcept = default;

  int64_t num_tokens() const { return index_.offsets.empty() ? 0 : index_.offsets.back(); }
  int64_t num_documents() const { return std::ssize(index_.document_offsets) - 1; }
  /// Token positions [begin, end) of document i.
  std::pair<int64_t, int64_t> document(int64_t i) const {
    return {index_.document_offsets[i], index_.document_offsets[i + 1]};
  }
  /// Begins to read tokens [begin, end) from disk, as far as it is known where they lie.
  void begin_to_fetch(int64_t begin, int64_t end) const;
  /// Copies tokens [begin, begin + out.size()).
  void read(int64_t begin, std::span<int64_t> out) const;
  const std::string& name() const { return name_; }
  /// "7160464 tokens in 295 documents, XXH3 0123456789abcdef": by it a run knows that its data is
  /// what it was. The checksum covers where documents end and the first and last MiB of .bin, so it
  /// costs no more for a large dataset.
  std::string contents() const;
  /// Largest token id, -1 without tokens; reads the whole file once, in parallel chunks, and
  /// remembers it. Throws std::runtime_error on a negative id.
  int64_t max_token() const;
  /// Whether any token equals one of `ids`; returns the first such token id.
  std::optional<int64_t> find_any(std::span<const int64_t> ids) const;

 private:
  std::string name_;
  MappedFile bin_;
  DatasetIndex index_;
  std::unique_ptr<std::atomic<int64_t>> max_token_ =
      std::make_unique<std::atomic<int64_t>>(kUnknownToken);

  static constexpr int64_t kUnknownToken = -2;
};

/// Writes the same format, aside until `commit`.
class IndexedDatasetWriter {
 public:
  /// uint16 when `vocab_size` < 65500, else int32 (Megatron-LM's rule).
  IndexedDatasetWriter(const std::filesystem::path& prefix, int64_t vocab_size);
  /// One document; may be empty.
  void add_document(std::span<const int32_t> tokens);
  int64_t num_tokens() const { return num_tokens_; }
  int64_t num_documents() const { return static_cast<int64_t>(sizes_.size()); }
  /// Publishes .bin, then .idx. Without it nothing of the dataset stays behind.
  void commit();

 private:
  AtomicFile bin_, idx_;
  bool narrow_;
  int64_t num_tokens_ = 0;
  std::vector<int32_t> sizes_;
};

/// What PREFIX.json says about a dataset that `prepare` wrote.
struct DatasetInfo {
  std::filesystem::path tokenizer_path;  // PREFIX.model
  std::string tokenizer_hash;
  int64_t vocab_size = 0;
  int64_t eos_id = -1;  // ends each document; -1: not recorded

  /// Throws std::runtime_error when the file is missing or damaged.
  Tokenizer open_tokenizer() const;
};
/// The sidecar of `prefix`, PREFIX ending in _train or _heldout; nothing for foreign data.
std::optional<DatasetInfo> find_dataset_info(const std::filesystem::path& prefix);

}  // namespace basin
