// The weights of a Hugging Face directory by name, whatever holds them. Files are mapped, not read:
// a tensor's bytes come into memory while it is handed out, and leave it again.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <functional>
#include <future>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "configs/files.h"
#include "model/manifest.h"

namespace basin {

class WeightFiles {
 public:
  /// The first of these that `directory` holds, as transformers looks for them: model.safetensors;
  /// model.safetensors.index.json and what it names; pytorch_model.bin;
  /// pytorch_model.bin.index.json and what it names. Throws std::runtime_error, one line naming
  /// file and tensor, for damaged files and for an index and files that disagree. Where the
  /// directory has a manifest.json, each tensor is held against it while it is handed out, and a
  /// file without checksums of its tensors at once.
  explicit WeightFiles(const std::filesystem::path& directory);

  bool has(const std::string& name) const { return weights_.contains(name); }
  /// Sorted.
  std::vector<std::string> names() const;
  const std::vector<int64_t>& shape(const std::string& name) const { return at(name).shape; }
  /// As safetensors spells it, "BF16", and the bytes that hold the tensor in its file.
  const std::string& dtype(const std::string& name) const { return at(name).dtype; }
  uint64_t stored_bytes(const std::string& name) const { return at(name).end - at(name).begin; }
  /// Orders tensors as they lie on the disk: reading them in this order reads from front to back.
  bool lies_before(const std::string& a, const std::string& b) const;

  /// Calls `use` with rows [first_row, first_row + rows.size(0)) of `name` after each other, some
  /// MiB at a time, in the stored dtype; a scalar comes whole. `rows` is for reading only, and gone
  /// when `use` returns. Throws std::runtime_error for dtypes that Basin does not compute with.
  using UseRows = std::function<void(const at::Tensor& rows, int64_t first_row)>;
  void for_rows(const std::string& name, const UseRows& use) const;
  /// The same with the whole tensor at once.
  void for_all_rows(const std::string& name, const UseRows& use) const;
  /// A contiguous copy of `name` on the CPU, in its stored dtype.
  at::Tensor read(const std::string& name) const;
  /// Whether two tensors have one shape and the same values.
  bool equal(const std::string& a, const std::string& b) const;

  /// Where messages point: the one file, or the index.
  const std::string& label() const { return label_; }
  /// The files that hold tensors.
  std::vector<std::filesystem::path> paths() const;

 private:
  struct File {
    std::filesystem::path path;
    MappedFile mapped;
    std::map<std::string, std::string> sums = {};  // XXH3 of each tensor, as the manifest says
    mutable uint64_t fetched = 0;  // bytes in front of this one were fetched, or are now
  };
  /// A strided view of bytes [begin, end) of a file; offset and strides in elements.
  struct Weight {
    size_t file = 0;
    std::string dtype;  // as safetensors spells it
    uint64_t begin = 0, end = 0;
    int64_t offset = 0;
    std::vector<int64_t> shape, strides;
  };

  void open(const std::filesystem::path& path);
  std::map<std::string, std::string> listed_sums(const std::filesystem::path& path) const;
  void open_index(const std::filesystem::path& index, const std::string& suffix);
  const Weight& at(const std::string& name) const;
  static int64_t height_of(const Weight& weight) {
    return weight.shape.empty() ? 1 : weight.shape[0];
  }
  static int64_t row_bytes(const Weight& weight);
  static bool lies_in_order(const Weight& weight);
  at::Tensor view(const std::string& name) const;
  void hand_out(const std::string& name, int64_t bytes_at_once, const UseRows& use) const;
  std::span<const std::byte> bytes_of(const Weight& weight, int64_t first_row, int64_t rows) const;
  void drop(const Weight& weight, int64_t first_row, int64_t rows) const;
  void fetch(const File& file, std::span<const std::byte> bytes) const;

  std::filesystem::path directory_;
  std::map<std::string, ManifestEntry> manifest_;  // of directory_; empty where it has none
  std::string label_;
  std::vector<std::unique_ptr<File>> files_;
  std::map<std::string, Weight> weights_;
  mutable std::future<void> fetching_;  // of pages of files_, which it must not outlive
};

}  // namespace basin
