// PREFIX.idx of a Megatron-LM indexed dataset: 34 bytes of header, int32 sizes, int64 byte offsets
// into PREFIX.bin, int64 document boundaries. Nothing in it is naturally aligned: it is copied,
// never cast; and nothing is trusted. Knows no LibTorch.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace basin {

inline constexpr std::string_view kDatasetMagic("MMIDIDX\0\0", 9);
/// Dtype codes of token ids that are written; 1 uint8, 3 int16 and 5 int64 are read, too.
inline constexpr uint8_t kDatasetInt32 = 4, kDatasetUint16 = 8;

/// Of a token id as it is written: uint16 below 65500 pieces, else int32 (Megatron-LM's rule).
constexpr int dataset_item_bytes(int64_t vocab_size) {
  return vocab_size < 65500 ? 2 : 4;
}
/// Of PREFIX.idx: header, a size and a pointer for each sequence, `boundaries` of documents.
constexpr uint64_t dataset_index_bytes(uint64_t sequences, uint64_t boundaries) {
  return 34 + 12 * sequences + 8 * boundaries;
}

struct DatasetIndex {
  int item_bytes = 2;
  bool is_unsigned = true;
  bool contiguous = true;  // sequences lie in order without gaps: the usual case, which needs no
                           // table per sequence
  std::vector<int64_t>
      offsets;  // first token position of each sequence, and the total; {0, total} when contiguous
  std::vector<int64_t> pointers;          // byte of each sequence in .bin; empty when contiguous
  std::vector<int64_t> document_offsets;  // first token position of each document, and the total
};

/// What `idx`, the whole of PREFIX.idx, says about a PREFIX.bin of `bin_bytes`: everything in it
/// lies in that file. Throws std::runtime_error, one line that begins with `prefix`, saying what is
/// wrong and where.
DatasetIndex read_dataset_index(const std::string& prefix,
                                std::span<const std::byte> idx,
                                uint64_t bin_bytes);

}  // namespace basin
