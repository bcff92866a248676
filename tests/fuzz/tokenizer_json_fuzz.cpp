// tokenizer.json: what is accepted encodes some text and decodes what came out.
#include <algorithm>
#include <vector>

#include "data/json_tokenizer.h"
#include "tests/fuzz/fuzz.h"

namespace basin {
namespace {

constexpr std::string_view kTexts[] = {
    "",
    "hello world  12345\n\n\t don't \xc3\xa9\xcc\x81 \xe4\xb8\xad\xf0\x9f\x98\x80<s>",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa!",
};

void use(const JsonTokenizer& tokenizer) {
  for (const std::string_view text : kTexts) {
    std::vector<int32_t> ids;
    tokenizer.encode(text, nullptr, ids);
    for (const int32_t id : ids)
      require(id >= 0 && static_cast<size_t>(id) < tokenizer.tokens().size());
    tokenizer.decode_text(ids);
  }
  for (const std::vector<int32_t>& around : {tokenizer.prepended_ids(), tokenizer.appended_ids()})
    for (const int32_t id : around)
      require(id >= 0 && static_cast<size_t>(id) < tokenizer.tokens().size());
}

}  // namespace
}  // namespace basin

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace basin;
  const std::string name = "tokenizer.json";
  expect_clean(name, [&] { use(*JsonTokenizer::parse(as_text(data, size), name)); });
  return 0;
}
