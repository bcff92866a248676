// The header of a safetensors file.
#include "model/safetensors_header.h"
#include "tests/fuzz/fuzz.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace basin;
  const std::string name = "x.safetensors";
  expect_clean(name, [&] {
    for (const auto& [tensor, entry] : read_safetensors_header(name, as_bytes(data, size)).entries)
      require(entry.begin <= entry.end && entry.end <= size);
  });
  return 0;
}
