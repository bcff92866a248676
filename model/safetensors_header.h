// What a safetensors file says about itself: 8 bytes of header length, a JSON header, raw tensors
// (https://github.com/huggingface/safetensors). Nothing in it is trusted: lengths, offsets, shapes
// and names are checked before any tensor is touched. Knows no LibTorch.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace basin {

constexpr uint64_t kSafetensorsLengthBytes = 8, kSafetensorsMaxHeaderBytes = 100'000'000;

struct SafetensorsDtype {
  std::string_view name;  // as the format spells it: "F32", "BF16", ...
  uint64_t bits;          // of one element
};
/// All that the format knows, in the reference's order, by which a writer sorts from last to first.
std::span<const SafetensorsDtype> safetensors_dtypes();

/// One tensor of a file. `begin` and `end` are bytes from the start of the file.
struct SafetensorsEntry {
  std::string dtype;
  std::vector<int64_t> shape;
  uint64_t begin = 0, end = 0;
};

struct SafetensorsHeader {
  std::map<std::string, SafetensorsEntry> entries;
};

/// The header of a file that holds `file`, whole. Throws std::runtime_error, one line that begins
/// with `name`, for whatever the format forbids, naming tensor and byte.
SafetensorsHeader read_safetensors_header(const std::string& name, std::span<const std::byte> file);

}  // namespace basin
