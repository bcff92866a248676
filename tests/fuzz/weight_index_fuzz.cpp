// *.index.json of a model in several weight files.
#include "model/weight_index.h"
#include "tests/fuzz/fuzz.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace basin;
  const std::string name = "x.index.json";
  expect_clean(name, [&] {
    for (const auto& [tensor, file] : read_weight_index(name, as_text(data, size), ".safetensors"))
      require(file.find('/') == std::string::npos && file.ends_with(".safetensors"));
  });
  return 0;
}
