// tokenizer.model, a protobuf message.
#include "data/sentencepiece_model.h"
#include "tests/fuzz/fuzz.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace basin;
  expect_clean("", [&] { parse_sentencepiece_model(as_text(data, size)); });
  return 0;
}
