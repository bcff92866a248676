#include "data/dataset_index.h"

#include <fmt/format.h>

#include <bit>
#include <cstring>
#include <stdexcept>
#include <utility>

namespace basin {
namespace {

static_assert(std::endian::native == std::endian::little,
              "the format is little-endian and is read as it lies");

constexpr std::string_view kOldMagic("TNTIDX\0\0", 8);
constexpr size_t kHeaderBytes = dataset_index_bytes(0, 0);
constexpr std::string_view kDtypeNames[] = {
    "none", "uint8", "int8", "int16", "int32", "int64", "float64", "float32", "uint16"};

/// Copies values out of the index, where nothing is aligned, and knows the file's name for errors.
class Index {
 public:
  Index(std::span<const std::byte> file, std::string name) : file_(file), name_(std::move(name)) {}

  template <class T>
  T at(size_t offset) const {
    T value;
    std::memcpy(&value, file_.data() + offset, sizeof(T));
    return value;
  }
  template <class T>
  std::vector<T> array(size_t offset, size_t count) const {
    std::vector<T> values(count);
    if (count > 0) {
      std::memcpy(values.data(), file_.data() + offset, count * sizeof(T));
    }
    return values;
  }
  std::string_view bytes() const {
    return {reinterpret_cast<const char*>(file_.data()), file_.size()};
  }
  [[noreturn]] void fail(const std::string& what) const {
    throw std::runtime_error(name_ + ": " + what);
  }

 private:
  std::span<const std::byte> file_;
  std::string name_;
};

struct Header {
  uint8_t dtype;
  uint64_t sequences, boundaries;  // boundaries: documents + 1
};

Header read_header(const Index& idx) {
  const std::string_view bytes = idx.bytes();
  if (bytes.starts_with(kOldMagic)) {
    idx.fail(
        "is the old non-mmap Megatron format (TNTIDX); prepare the data again with Megatron-LM's "
        "mmap format or `basin prepare`");
  }
  if (bytes.size() < kHeaderBytes) {
    idx.fail(
        fmt::format("truncated: {} bytes, the header alone has {}", bytes.size(), kHeaderBytes));
  }
  if (!bytes.starts_with(kDatasetMagic)) {
    idx.fail("no indexed dataset: it does not begin with MMIDIDX");
  }
  if (const auto version = idx.at<uint64_t>(9); version != 1) {
    idx.fail(fmt::format("version {} of the indexed dataset; only version 1 is known", version));
  }
  const Header header{idx.at<uint8_t>(17), idx.at<uint64_t>(18), idx.at<uint64_t>(26)};
  const bool known = header.dtype >= 1 && header.dtype <= 8;
  if (!known || header.dtype == 2 || header.dtype == 6 || header.dtype == 7) {
    idx.fail(
        fmt::format("tokens stored as {} (dtype code {}); expected uint16 (8), int32 (4), uint8 "
                    "(1), int16 (3) or int64 (5)",
                    known ? kDtypeNames[header.dtype] : "an unknown type",
                    header.dtype));
  }
  // Bounds first: the products below must not wrap around.
  const bool plausible =
      header.sequences <= bytes.size() / 12 && header.boundaries <= bytes.size() / 8;
  const uint64_t expected =
      plausible ? dataset_index_bytes(header.sequences, header.boundaries) : 0;
  const bool has_modes =
      bytes.size() == expected + header.sequences;  // multimodal datasets append int8 modes[S]
  if (!plausible || (bytes.size() != expected && !has_modes)) {
    idx.fail(
        fmt::format("truncated or damaged: {} bytes, but its header promises {} sequences and {} "
                    "document boundaries{}",
                    bytes.size(),
                    header.sequences,
                    header.boundaries,
                    plausible ? fmt::format(" ({} bytes)", expected) : ""));
  }
  return header;
}

/// Token position of each sequence and the total.
std::vector<int64_t> read_offsets(const Index& idx, uint64_t sequences) {
  std::vector<int64_t> offsets(sequences + 1, 0);
  for (uint64_t i = 0; i < sequences; ++i) {
    const auto size = idx.at<int32_t>(kHeaderBytes + 4 * i);
    if (size < 0) {
      idx.fail(fmt::format("sequence {} has the negative size {}", i, size));
    }
    offsets[i + 1] = offsets[i] + size;
  }
  return offsets;
}

std::vector<int64_t> read_document_offsets(const Index& idx,
                                           const Header& header,
                                           const std::vector<int64_t>& offsets) {
  const std::vector<int64_t> boundaries =
      idx.array<int64_t>(kHeaderBytes + 12 * header.sequences, header.boundaries);
  const auto sequences = static_cast<int64_t>(header.sequences);
  if (boundaries.empty() || boundaries.front() != 0 || boundaries.back() != sequences) {
    idx.fail(fmt::format("its document boundaries must run from 0 to {} sequences, found {}",
                         sequences,
                         boundaries.empty()
                             ? "none"
                             : fmt::format("{} to {}", boundaries.front(), boundaries.back())));
  }
  std::vector<int64_t> result(boundaries.size());
  for (size_t i = 0; i < boundaries.size(); ++i) {
    if (i > 0 && boundaries[i] < boundaries[i - 1]) {  // equal: a document without tokens
      idx.fail(fmt::format(
          "document boundary {} goes back from {} to {}", i, boundaries[i - 1], boundaries[i]));
    }
    if (boundaries[i] > sequences) {
      idx.fail(fmt::format(
          "document boundary {} is {}, past the {} sequences", i, boundaries[i], sequences));
    }
    result[i] = offsets[boundaries[i]];
  }
  return result;
}

}  // namespace

DatasetIndex read_dataset_index(const std::string& prefix,
                                std::span<const std::byte> file,
                                uint64_t bin_bytes) {
  const Index idx(file, prefix + ".idx");
  DatasetIndex index;
  const Header header = read_header(idx);
  index.item_bytes = header.dtype == 1 ? 1 : header.dtype == 4 ? 4 : header.dtype == 5 ? 8 : 2;
  index.is_unsigned = header.dtype == 1 || header.dtype == kDatasetUint16;
  index.offsets = read_offsets(idx, header.sequences);
  index.document_offsets = read_document_offsets(idx, header, index.offsets);
  index.pointers = idx.array<int64_t>(kHeaderBytes + 4 * header.sequences, header.sequences);
  const auto bin_size = static_cast<int64_t>(bin_bytes);
  for (size_t i = 0; i < index.pointers.size(); ++i) {
    const int64_t tokens = index.offsets[i + 1] - index.offsets[i];
    if (index.pointers[i] < 0 || index.pointers[i] > bin_size ||
        tokens > (bin_size - index.pointers[i]) / index.item_bytes) {
      throw std::runtime_error(
          fmt::format("{}.bin: truncated: {} bytes, but sequence {} has {} tokens at byte {}",
                      prefix,
                      bin_size,
                      i,
                      tokens,
                      index.pointers[i]));
    }
    index.contiguous = index.contiguous && index.pointers[i] == index.offsets[i] * index.item_bytes;
  }
  if (index.contiguous && index.offsets.back() * index.item_bytes != bin_size) {
    throw std::runtime_error(
        fmt::format("{}.bin: {} bytes, but {}.idx accounts for {}: they do not belong together",
                    prefix,
                    bin_size,
                    prefix,
                    index.offsets.back() * index.item_bytes));
  }
  if (index.contiguous) {
    index.offsets = {0, index.offsets.back()};
    std::vector<int64_t>().swap(index.pointers);
  }
  return index;
}

}  // namespace basin
