// PREFIX.idx of a token dataset; the first four bytes are the size of its PREFIX.bin.
#include <cstring>

#include "data/dataset_index.h"
#include "tests/fuzz/fuzz.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace basin;
  uint32_t bin_bytes = 0;
  if (size < sizeof(bin_bytes)) return 0;
  std::memcpy(&bin_bytes, data, sizeof(bin_bytes));
  const std::string prefix = "x";
  expect_clean(prefix, [&] {
    const DatasetIndex index =
        read_dataset_index(prefix, as_bytes(data, size).subspan(sizeof(bin_bytes)), bin_bytes);
    const auto tokens = [&](size_t sequence) {
      return index.offsets.at(sequence + 1) - index.offsets[sequence];
    };
    for (size_t i = 0; i < index.pointers.size(); ++i)
      require(index.pointers[i] >= 0 &&
              index.pointers[i] + tokens(i) * index.item_bytes <= int64_t{bin_bytes});
    for (const int64_t offset : index.document_offsets)
      require(offset >= 0 && offset <= index.offsets.back());
  });
  return 0;
}
