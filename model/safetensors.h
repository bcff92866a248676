// safetensors files as tensors (the format: model/safetensors_header.h). Since it promises no
// alignment, bytes are copied out and never cast in place.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "configs/files.h"
#include "model/manifest.h"
#include "model/safetensors_header.h"

namespace basin {

/// What LibTorch calls a dtype of the format. Throws std::runtime_error, without a file's name, for
/// those that LibTorch code here does not compute with (F8, F6, F4, unsigned beyond 8 bits,
/// complex).
at::ScalarType scalar_type_of(const std::string& dtype);

/// A file opened for reading. Throws std::runtime_error naming file, tensor and byte for whatever
/// the format forbids.
class SafetensorsFile {
 public:
  explicit SafetensorsFile(std::filesystem::path path);

  const std::map<std::string, SafetensorsEntry>& entries() const { return header_.entries; }
  const std::filesystem::path& path() const { return path_; }

  /// A copy of tensor `name` on the CPU in its stored dtype. Throws std::runtime_error when it is
  /// absent, or of a dtype that scalar_type_of does not know.
  at::Tensor read(const std::string& name) const;

 private:
  std::filesystem::path path_;
  MappedFile file_;
  SafetensorsHeader header_;
};

/// A tensor to write, made when its turn comes, so that a file larger than memory can be written
/// tensor by tensor.
struct SafetensorsSource {
  std::string name;
  at::ScalarType dtype;
  std::vector<int64_t> shape;
  std::function<at::Tensor()> make;  // of that dtype and shape, any device, any strides
};

/// Writes `path` atomically in the reference order (dtype by descending size, then name), the data
/// starting at a multiple of 64 bytes. The metadata say "format": "pt": transformers 4 refuses files
/// without it. Returns what a manifest says of the file, its checksums made while
/// writing. Throws std::invalid_argument for duplicate names.
ManifestEntry write_safetensors(const std::filesystem::path& path,
                                std::vector<SafetensorsSource> sources);
/// The same for tensors that are there already.
ManifestEntry write_safetensors(const std::filesystem::path& path,
                                const std::vector<std::pair<std::string, at::Tensor>>& tensors);

}  // namespace basin
