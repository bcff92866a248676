// data.pkl of a file of torch.save.
#include "model/torch_pickle.h"
#include "tests/fuzz/fuzz.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace basin;
  const std::string name = "x.bin: data.pkl";
  expect_clean(name, [&] {
    for (const auto& [key, tensor] : read_state_dict(name, as_bytes(data, size)))
      require(tensor.shape.size() == tensor.strides.size() && tensor.offset >= 0 &&
              tensor.offset <= tensor.storage_elements);
  });
  return 0;
}
