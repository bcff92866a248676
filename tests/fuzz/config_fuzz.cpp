// config.json of a model, of every family.
#include "model/families/config_file.h"
#include "model/families/families.h"
#include "tests/fuzz/fuzz.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace basin;
  const std::string name = "config.json";
  expect_clean(name, [&] {
    const ModelConfig config = config_from_json(ConfigJson::parse(as_text(data, size), name));
    require(config.problems().empty());
    if (config.num_hidden_layers > 4) return;
    for (const DiskTensor& tensor : disk_tensors(config))
      for (const int64_t size_of : tensor.shape) require(size_of > 0);
  });
  return 0;
}
