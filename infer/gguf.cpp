#include "infer/gguf.h"

#include <ATen/ATen.h>
#include <fmt/core.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <stdexcept>

#include "configs/files.h"

namespace basin {
namespace {

static_assert(std::endian::native == std::endian::little, "GGUF files are little-endian");

constexpr uint64_t kAlignment = 32;
constexpr uint32_t kVersion = 3;
constexpr double kLargestQ8 = 127.0 * 65504;  // by fp16's largest scale

/// Type numbers of values, and of the elements of arrays.
enum ValueType : uint32_t {
  kUint32 = 4,
  kInt32 = 5,
  kFloat32 = 6,
  kBool = 7,
  kString = 8,
  kArray = 9
};

template <class T>
constexpr ValueType type_of() {
  if constexpr (std::is_same_v<T, uint32_t>) return kUint32;
  if constexpr (std::is_same_v<T, int32_t>) return kInt32;
  if constexpr (std::is_same_v<T, float>) return kFloat32;
  if constexpr (std::is_same_v<T, bool>) return kBool;
  if constexpr (std::is_same_v<T, std::string>) return kString;
}

/// What comes before the tensors' data.
class Header {
 public:
  template <class T>
  void number(T value) {
    bytes_.append(reinterpret_cast<const char*>(&value), sizeof value);
  }
  void text(const std::string& value) {
    number<uint64_t>(value.size());
    bytes_ += value;
  }
  void value(const GgufValue& any) {
    std::visit([this](const auto& value) { put(value); }, any);
  }
  const std::string& bytes() const { return bytes_; }

 private:
  template <class T>
  void put_element(const T& value) {
    if constexpr (std::is_same_v<T, std::string>)
      text(value);
    else if constexpr (std::is_same_v<T, bool>)
      number<uint8_t>(value ? 1 : 0);
    else
      number(value);
  }
  template <class T>
  void put(const T& value) {
    number<uint32_t>(type_of<T>());
    put_element(value);
  }
  template <class T>
  void put(const std::vector<T>& values) {
    number<uint32_t>(kArray);
    number<uint32_t>(type_of<T>());
    number<uint64_t>(values.size());
    for (const T& value : values) put_element(value);
  }

  std::string bytes_;
};

uint64_t padded(uint64_t bytes) {
  return (bytes + kAlignment - 1) / kAlignment * kAlignment;
}

uint64_t bytes_of(const GgufTensor& tensor) {
  const auto elements = static_cast<uint64_t>(c10::multiply_integers(tensor.shape));
  switch (tensor.type) {
    case GgufType::kF32:
      return elements * 4;
    case GgufType::kQ8_0:
      return elements / kQ8Block * (2 + kQ8Block);
    default:
      return elements * 2;
  }
}

std::string header_of(const GgufFile& file) {
  Header header;
  header.number<char>('G'), header.number<char>('G'), header.number<char>('U');
  header.number<char>('F');
  header.number(kVersion);
  header.number<uint64_t>(file.tensors.size());
  header.number<uint64_t>(file.keys.size());
  for (const auto& [key, value] : file.keys) {
    header.text(key);
    header.value(value);
  }
  uint64_t offset = 0;
  for (const GgufTensor& tensor : file.tensors) {
    header.text(tensor.name);
    header.number(static_cast<uint32_t>(tensor.shape.size()));
    for (size_t i = tensor.shape.size(); i-- > 0;)
      header.number(static_cast<uint64_t>(tensor.shape[i]));
    header.number(static_cast<uint32_t>(tensor.type));
    header.number(offset);
    offset += padded(bytes_of(tensor));
  }
  return header.bytes();
}

std::string raw_bytes(const at::Tensor& tensor) {
  const at::Tensor packed = tensor.contiguous();
  return {static_cast<const char*>(packed.const_data_ptr()), packed.nbytes()};
}

std::string encode(const GgufTensor& tensor, const at::Tensor& values) {
  const auto as = [&](at::ScalarType dtype) {
    const at::Tensor cast = values.to(dtype);
    if (!at::isfinite(cast).all().item<bool>())
      throw std::runtime_error(
          fmt::format("tensor {} holds values that are not finite as {}: if the model is not damaged, "
                      "export it as bf16 or f32",
                      tensor.name,
                      c10::toString(dtype)));
    return raw_bytes(cast);
  };
  switch (tensor.type) {
    case GgufType::kF32:
      return as(at::kFloat);
    case GgufType::kF16:
      return as(at::kHalf);
    case GgufType::kBF16:
      return as(at::kBFloat16);
    case GgufType::kQ8_0:
      if (const double largest = values.abs().max().item<double>(); !(largest <= kLargestQ8))
        throw std::runtime_error(
            fmt::format("tensor {} holds a value of {}, which 8 bits cannot express ({:.3g} at most): "
                        "if the model is not damaged, export it as bf16 or f32",
                        tensor.name,
                        largest,
                        kLargestQ8));
      return to_q8_0(values);
  }
  throw std::logic_error("no such type");
}

}  // namespace

uint64_t GgufFile::data_bytes() const {
  uint64_t total = 0;
  for (const GgufTensor& tensor : tensors) total += bytes_of(tensor);
  return total;
}

void write_gguf(const std::filesystem::path& path,
                const GgufFile& file,
                const std::function<void(uint64_t)>& on_tensor) {
  const std::string zeros(kAlignment, '\0');
  AtomicFile out(path);
  const auto pad = [&] {
    out.write(std::string_view(zeros).substr(0, padded(out.size_bytes()) - out.size_bytes()));
  };
  out.write(header_of(file));
  pad();
  for (const GgufTensor& tensor : file.tensors) {
    if (on_tensor) on_tensor(bytes_of(tensor));
    const at::Tensor values = tensor.make();
    TORCH_CHECK(
        values.sizes() == at::IntArrayRef(tensor.shape), tensor.name, " is not as announced");
    out.write(encode(tensor, values));
    pad();
  }
  out.commit();
}

std::string to_q8_0(const at::Tensor& values) {
  const at::Tensor packed = values.to(at::kFloat).contiguous();
  TORCH_CHECK(packed.numel() % kQ8Block == 0, "no whole blocks");
  const float* x = packed.const_data_ptr<float>();
  std::string bytes;
  bytes.reserve(static_cast<size_t>(packed.numel() / kQ8Block * (2 + kQ8Block)));
  for (int64_t block = 0; block < packed.numel() / kQ8Block; ++block, x += kQ8Block) {
    float largest = 0;
    for (int64_t i = 0; i < kQ8Block; ++i) largest = std::max(largest, std::abs(x[i]));
    const float scale = largest / 127, inverse = scale != 0 ? 1 / scale : 0;
    const at::Half stored(scale);
    bytes.append(reinterpret_cast<const char*>(&stored.x), sizeof stored.x);
    for (int64_t i = 0; i < kQ8Block; ++i)
      bytes += static_cast<char>(static_cast<int8_t>(std::round(x[i] * inverse)));
  }
  return bytes;
}

}  // namespace basin
