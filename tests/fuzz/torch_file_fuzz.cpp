// A whole file of torch.save: zip archive, pickle, storages. The last element that each tensor
// addresses is looked at.
#include "model/safetensors_header.h"
#include "model/torch_file.h"
#include "tests/fuzz/fuzz.h"

namespace basin {
namespace {

int64_t element_bytes(const std::string& dtype) {
  for (const SafetensorsDtype& known : safetensors_dtypes())
    if (known.name == dtype) return static_cast<int64_t>(known.bits / 8);
  std::abort();
}

void check(const TorchTensor& tensor, size_t file_bytes) {
  require(tensor.begin <= tensor.end && tensor.end <= file_bytes);
  int64_t last = tensor.offset;
  for (size_t i = 0; i < tensor.shape.size(); ++i) {
    if (tensor.shape[i] == 0) return;
    last += (tensor.shape[i] - 1) * tensor.strides.at(i);
  }
  const auto bytes = static_cast<int64_t>(tensor.end - tensor.begin);
  require(last >= 0 && (last + 1) * element_bytes(tensor.dtype) <= bytes);
}

}  // namespace
}  // namespace basin

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace basin;
  const std::string name = "x.bin";
  expect_clean(name, [&] {
    for (const auto& [key, tensor] : read_torch_file(name, as_bytes(data, size)))
      check(tensor, size);
  });
  return 0;
}
