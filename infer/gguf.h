// The GGUF file format, version 3, as far as a writer needs it: typed keys, then tensors
// (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md). It knows no model.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

namespace basin {

/// How a tensor is stored; the numbers are ggml's.
enum class GgufType : uint32_t { kF32 = 0, kF16 = 1, kQ8_0 = 8, kBF16 = 30 };

inline constexpr int64_t kQ8Block = 32;  // values that share a scale

/// A tensor to write, made when its turn comes.
struct GgufTensor {
  std::string name;
  std::vector<int64_t> shape;        // row-major, as in PyTorch; on disk the order is reversed
  GgufType type = GgufType::kF32;    // kQ8_0 needs rows of whole blocks
  std::function<at::Tensor()> make;  // of that shape; any floating dtype, on the CPU
};

using GgufValue = std::variant<uint32_t,
                               float,
                               bool,
                               std::string,
                               std::vector<std::string>,
                               std::vector<float>,
                               std::vector<int32_t>>;

struct GgufFile {
  std::vector<std::pair<std::string, GgufValue>> keys;  // in the order of the file
  std::vector<GgufTensor> tensors;

  /// Bytes of tensor data, without padding.
  uint64_t data_bytes() const;
};

/// Writes `path`, whole or not at all. `on_tensor` is called before each tensor with its size.
/// Throws std::runtime_error naming the tensor for values that its type cannot hold.
void write_gguf(const std::filesystem::path& path,
                const GgufFile& file,
                const std::function<void(uint64_t bytes)>& on_tensor = {});

/// Values (any shape, rows of whole blocks) as Q8_0: blocks of an fp16 scale, largest magnitude /
/// 127, and 32 int8; bit for bit what ggml's reference quantisation gives.
std::string to_q8_0(const at::Tensor& values);

}  // namespace basin
