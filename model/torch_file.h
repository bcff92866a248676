// Files of torch.save since PyTorch 1.6: a zip archive with data.pkl, which says what tensors there
// are, and their storages in data/*, stored as they are. Only state dicts (names and tensors) are
// read. Knows no LibTorch.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

namespace basin {

/// A strided view of bytes [begin, end) of the file; offset and strides in elements. Whatever it
/// addresses lies in them, but they may be aligned to nothing.
struct TorchTensor {
  std::string dtype;  // as safetensors spells it: "F32", "BF16", ...
  uint64_t begin = 0, end = 0;
  int64_t offset = 0;
  std::vector<int64_t> shape, strides;
};

/// The tensors of a file that holds `file`, whole. Several may share bytes. Throws
/// std::runtime_error, one line that begins with `name`, for anything but such a file.
std::map<std::string, TorchTensor> read_torch_file(const std::string& name,
                                                   std::span<const std::byte> file);

}  // namespace basin
