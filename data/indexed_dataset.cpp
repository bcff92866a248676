#include "data/indexed_dataset.h"

#include <ATen/Parallel.h>
#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>
#include <mutex>
#include <stdexcept>
#include <string_view>

namespace basin {
namespace {

static_assert(std::endian::native == std::endian::little,
              "the format is little-endian and is read as it lies");

constexpr std::string_view kMagic("MMIDIDX\0\0", 9);
constexpr std::string_view kOldMagic("TNTIDX\0\0", 8);
constexpr size_t kHeaderBytes = 34;
constexpr uint8_t kInt32 = 4, kUint16 = 8;
constexpr std::string_view kDtypeNames[] = {
    "none", "uint8", "int8", "int16", "int32", "int64", "float64", "float32", "uint16"};

std::filesystem::path with_suffix(const std::filesystem::path& prefix, const char* suffix) {
  std::filesystem::path path = prefix;
  path += suffix;
  return path;
}

/// Opens PREFIX.bin or PREFIX.idx; a missing one is answered with the prefix that was probably
/// meant.
MappedFile open_part(const std::filesystem::path& prefix, const char* suffix) {
  const std::filesystem::path path = with_suffix(prefix, suffix);
  if (std::filesystem::exists(path)) {
    return MappedFile(path);
  }
  std::string hint = "run `basin prepare` first, or correct the path";
  const std::filesystem::path stem = prefix.parent_path() / prefix.stem();
  if (const auto extension = prefix.extension();
      extension == ".bin" || extension == ".idx" || extension == ".json") {
    hint = fmt::format("give the path without {}: {}", extension.string(), stem.string());
  } else if (std::filesystem::exists(with_suffix(prefix, "_train.idx"))) {
    hint = fmt::format("did you mean {}_train?", prefix.string());
  }
  throw std::runtime_error(fmt::format("{}: no such file ({})", path.string(), hint));
}

/// Copies values out of the index, where nothing is aligned, and knows the file's name for errors.
class Index {
 public:
  Index(const MappedFile& file, std::string name) : file_(file), name_(std::move(name)) {}

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
    return {reinterpret_cast<const char*>(file_.data()), file_.size_bytes()};
  }
  [[noreturn]] void fail(const std::string& what) const {
    throw std::runtime_error(name_ + ": " + what);
  }

 private:
  const MappedFile& file_;
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
  if (!bytes.starts_with(kMagic)) {
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
      plausible ? kHeaderBytes + 12 * header.sequences + 8 * header.boundaries : 0;
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
    if (i > 0 &&
        boundaries[i] < boundaries[i - 1]) {  // equal ones are legal: a document without tokens
      idx.fail(fmt::format(
          "document boundary {} goes back from {} to {}", i, boundaries[i - 1], boundaries[i]));
    }
    result[i] = offsets[boundaries[i]];
  }
  return result;
}

/// Calls f(value) for `count` items of type T that lie unaligned at `data`.
template <class T, class F>
void for_each_item(const std::byte* data, size_t count, F&& f) {
  for (size_t i = 0; i < count; ++i) {
    T value;
    std::memcpy(&value, data + i * sizeof(T), sizeof(T));
    f(static_cast<int64_t>(value));
  }
}

template <class F>
void for_each_token(const std::byte* data, size_t count, int item_bytes, bool is_unsigned, F&& f) {
  switch (item_bytes) {
    case 1:
      return for_each_item<uint8_t>(data, count, f);
    case 2:
      return is_unsigned ? for_each_item<uint16_t>(data, count, f)
                         : for_each_item<int16_t>(data, count, f);
    case 4:
      return for_each_item<int32_t>(data, count, f);
    default:
      return for_each_item<int64_t>(data, count, f);
  }
}

constexpr int64_t kScanTokens = 1 << 16;  // tokens a thread looks at in one piece

}  // namespace

IndexedDataset::IndexedDataset(const std::filesystem::path& prefix)
    : name_(prefix.string()), bin_(open_part(prefix, ".bin")) {
  const MappedFile file = open_part(prefix, ".idx");
  const Index idx(file, name_ + ".idx");
  const Header header = read_header(idx);
  item_bytes_ = header.dtype == 1 ? 1 : header.dtype == 4 ? 4 : header.dtype == 5 ? 8 : 2;
  is_unsigned_ = header.dtype == 1 || header.dtype == kUint16;
  offsets_ = read_offsets(idx, header.sequences);
  document_offsets_ = read_document_offsets(idx, header, offsets_);
  pointers_ = idx.array<int64_t>(kHeaderBytes + 4 * header.sequences, header.sequences);
  const auto bin_bytes = static_cast<int64_t>(bin_.size_bytes());
  for (size_t i = 0; i < pointers_.size(); ++i) {
    const int64_t tokens = offsets_[i + 1] - offsets_[i];
    if (pointers_[i] < 0 || pointers_[i] > bin_bytes ||
        tokens > (bin_bytes - pointers_[i]) / item_bytes_) {
      throw std::runtime_error(
          fmt::format("{}.bin: truncated: {} bytes, but sequence {} has {} tokens at byte {}",
                      name_,
                      bin_bytes,
                      i,
                      tokens,
                      pointers_[i]));
    }
    contiguous_ = contiguous_ && pointers_[i] == offsets_[i] * item_bytes_;
  }
  if (contiguous_ && offsets_.back() * item_bytes_ != bin_bytes) {
    throw std::runtime_error(
        fmt::format("{}.bin: {} bytes, but {}.idx accounts for {}: they do not belong together",
                    name_,
                    bin_bytes,
                    name_,
                    offsets_.back() * item_bytes_));
  }
  if (contiguous_) {
    offsets_ = {0, offsets_.back()};
    std::vector<int64_t>().swap(pointers_);
  }
}

void IndexedDataset::read(int64_t begin, std::span<int64_t> out) const {
  if (begin < 0 || begin + static_cast<int64_t>(out.size()) > num_tokens()) {
    throw std::out_of_range(
        fmt::format("{}: tokens [{}, {}) of {}", name_, begin, begin + out.size(), num_tokens()));
  }
  int64_t* to = out.data();
  const auto copy = [&](int64_t byte, int64_t count) {
    for_each_token(bin_.data() + byte, count, item_bytes_, is_unsigned_, [&to](int64_t token) {
      *to++ = token;
    });
  };
  if (contiguous_) {
    return copy(begin * item_bytes_, static_cast<int64_t>(out.size()));
  }
  auto left = static_cast<int64_t>(out.size());
  size_t sequence =
      std::upper_bound(offsets_.begin(), offsets_.end(), begin) - offsets_.begin() - 1;
  for (int64_t at = begin; left > 0; ++sequence) {
    const int64_t count = std::min(left, offsets_[sequence + 1] - at);
    copy(pointers_[sequence] + (at - offsets_[sequence]) * item_bytes_, count);
    at += count;
    left -= count;
  }
}

std::string IndexedDataset::contents() const {
  const std::string_view bin(reinterpret_cast<const char*>(bin_.data()), bin_.size_bytes()),
      ends(reinterpret_cast<const char*>(document_offsets_.data()),
           document_offsets_.size() * sizeof(int64_t));
  const size_t part = std::min<size_t>(bin.size(), 1 << 20);
  const std::string sums =
      xxh3_hex(ends) + xxh3_hex(bin.substr(0, part)) + xxh3_hex(bin.substr(bin.size() - part));
  return fmt::format(
      "{} tokens in {} documents, XXH3 {}", num_tokens(), num_documents(), xxh3_hex(sums));
}

int64_t IndexedDataset::max_token() const {
  if (max_token_->load() != kUnknownToken) {
    return max_token_->load();
  }
  std::mutex mutex;
  int64_t largest = -1, smallest = 0;
  at::parallel_for(0, num_tokens(), kScanTokens, [&](int64_t begin, int64_t end) {
    std::vector<int64_t> tokens(kScanTokens);
    for (int64_t i = begin; i < end; i += kScanTokens) {
      const std::span<int64_t> part(tokens.data(), std::min(kScanTokens, end - i));
      read(i, part);
      const auto [low, high] = std::minmax_element(part.begin(), part.end());
      const std::lock_guard lock(mutex);
      smallest = std::min(smallest, *low);
      largest = std::max(largest, *high);
    }
  });
  if (smallest < 0) {
    throw std::runtime_error(fmt::format(
        "{}.bin: holds the negative token {}: damaged, or not token ids", name_, smallest));
  }
  max_token_->store(largest);
  return largest;
}

std::optional<int64_t> IndexedDataset::find_any(std::span<const int64_t> ids) const {
  if (ids.empty()) {
    return std::nullopt;
  }
  std::atomic<int64_t> first =
      std::numeric_limits<int64_t>::max();  // position of the first match, so that the answer is
                                            // always the same
  at::parallel_for(0, num_tokens(), kScanTokens, [&](int64_t begin, int64_t end) {
    std::vector<int64_t> tokens(kScanTokens);
    for (int64_t i = begin; i < end && i < first.load(); i += kScanTokens) {
      const std::span<int64_t> part(tokens.data(), std::min(kScanTokens, end - i));
      read(i, part);
      const auto hit = std::find_first_of(part.begin(), part.end(), ids.begin(), ids.end());
      if (hit != part.end()) {
        const int64_t position = i + (hit - part.begin());
        int64_t known = first.load();
        while (position < known && !first.compare_exchange_weak(known, position)) {
        }
        return;
      }
    }
  });
  if (first.load() == std::numeric_limits<int64_t>::max()) {
    return std::nullopt;
  }
  int64_t token = 0;
  read(first.load(), {&token, 1});
  return token;
}

IndexedDatasetWriter::IndexedDatasetWriter(const std::filesystem::path& prefix, int64_t vocab_size)
    : bin_(with_suffix(prefix, ".bin")),
      idx_(with_suffix(prefix, ".idx")),
      narrow_(vocab_size < 65500) {}

void IndexedDatasetWriter::add_document(std::span<const int32_t> tokens) {
  if (tokens.size() > static_cast<size_t>(std::numeric_limits<int32_t>::max())) {
    throw std::runtime_error(
        fmt::format("a document of {} tokens; the format holds at most 2147483647 in one: split it",
                    tokens.size()));
  }
  if (narrow_) {
    std::vector<uint16_t> narrowed(tokens.begin(), tokens.end());
    bin_.write(narrowed.data(), narrowed.size() * sizeof(uint16_t));
  } else {
    bin_.write(tokens.data(), tokens.size_bytes());
  }
  sizes_.push_back(static_cast<int32_t>(tokens.size()));
  num_tokens_ += static_cast<int64_t>(tokens.size());
}

void IndexedDatasetWriter::commit() {
  const auto put = [this](auto value) { idx_.write(&value, sizeof(value)); };
  idx_.write(kMagic);
  put(uint64_t{1});
  put(narrow_ ? kUint16 : kInt32);
  put(static_cast<uint64_t>(sizes_.size()));
  put(static_cast<uint64_t>(sizes_.size() + 1));
  idx_.write(sizes_.data(), sizes_.size() * sizeof(int32_t));
  int64_t pointer = 0;
  for (const int32_t size : sizes_) {
    put(pointer);
    pointer += int64_t{size} * (narrow_ ? 2 : 4);
  }
  for (size_t i = 0; i <= sizes_.size(); ++i) {
    put(static_cast<int64_t>(i));
  }
  bin_.commit();
  idx_.commit();
}

}  // namespace basin
