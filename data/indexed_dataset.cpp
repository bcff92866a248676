#include "data/indexed_dataset.h"

#include <ATen/Parallel.h>
#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <mutex>
#include <stdexcept>
#include <string_view>

#include "configs/mapped_pages.h"

namespace basin {
namespace {

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
  index_ = read_dataset_index(name_, {file.data(), file.size_bytes()}, bin_.size_bytes());
}

void IndexedDataset::begin_to_fetch(int64_t begin, int64_t end) const {
  if (index_.contiguous) {
    basin::begin_to_fetch({bin_.data() + begin * index_.item_bytes,
                           static_cast<size_t>((end - begin) * index_.item_bytes)});
  }
}

void IndexedDataset::read(int64_t begin, std::span<int64_t> out) const {
  if (begin < 0 || begin + static_cast<int64_t>(out.size()) > num_tokens()) {
    throw std::out_of_range(
        fmt::format("{}: tokens [{}, {}) of {}", name_, begin, begin + out.size(), num_tokens()));
  }
  int64_t* to = out.data();
  const auto copy = [&](int64_t byte, int64_t count) {
    for_each_token(
        bin_.data() + byte, count, index_.item_bytes, index_.is_unsigned, [&to](int64_t token) {
          *to++ = token;
        });
  };
  if (index_.contiguous) {
    return copy(begin * index_.item_bytes, static_cast<int64_t>(out.size()));
  }
  auto left = static_cast<int64_t>(out.size());
  const std::vector<int64_t>& offsets = index_.offsets;
  size_t sequence = std::upper_bound(offsets.begin(), offsets.end(), begin) - offsets.begin() - 1;
  for (int64_t at = begin; left > 0; ++sequence) {
    const int64_t count = std::min(left, offsets[sequence + 1] - at);
    copy(index_.pointers[sequence] + (at - offsets[sequence]) * index_.item_bytes, count);
    at += count;
    left -= count;
  }
}

std::string IndexedDataset::contents() const {
  const std::string_view bin(reinterpret_cast<const char*>(bin_.data()), bin_.size_bytes()),
      ends(reinterpret_cast<const char*>(index_.document_offsets.data()),
           index_.document_offsets.size() * sizeof(int64_t));
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
      narrow_(dataset_item_bytes(vocab_size) == 2) {}

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
  idx_.write(kDatasetMagic);
  put(uint64_t{1});
  put(narrow_ ? kDatasetUint16 : kDatasetInt32);
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
