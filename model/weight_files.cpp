// Tensors are views of the mapped file. A second thread fetches what lies behind the bytes in use,
// and what was used is dropped: loading takes the model's own memory and a few MiB.
#include "model/weight_files.h"

#include <ATen/ATen.h>
#include <fmt/core.h>

#include <algorithm>
#include <cstring>
#include <set>
#include <stdexcept>
#include <string_view>
#include <tuple>

#include "configs/json_text.h"
#include "configs/mapped_pages.h"
#include "model/safetensors.h"
#include "model/torch_file.h"
#include "model/weight_index.h"

namespace basin {
namespace {

namespace fs = std::filesystem;

constexpr uint64_t kPartBytes = 4 << 20;  // handed out at once, and fetched ahead
constexpr std::string_view kSafetensors = ".safetensors", kTorch = ".bin";

struct Layout {
  const char* file;
  bool is_index;
  std::string_view suffix;  // of the files that hold tensors
};
constexpr Layout kLayouts[] = {
    {"model.safetensors", false, kSafetensors},
    {"model.safetensors.index.json", true, kSafetensors},
    {"pytorch_model.bin", false, kTorch},
    {"pytorch_model.bin.index.json", true, kTorch},
};

[[noreturn]] void refuse(const std::string& file, const std::string& what) {
  throw std::runtime_error(fmt::format("{}: {}", file, what));
}

[[noreturn]] void refuse_tensor(const std::string& file,
                                const std::string& tensor,
                                const std::string& what) {
  refuse(file, fmt::format("tensor \"{}\": {}", printable(tensor), what));
}

/// What a clone without Git LFS leaves in a file's place.
void check_no_pointer(const fs::path& path, std::span<const std::byte> bytes) {
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  if (text.starts_with("version https://git-lfs"))
    refuse(path.string(), "only a pointer to the file, left by Git LFS: run 'git lfs pull' there");
}

std::vector<int64_t> contiguous_strides(const std::vector<int64_t>& shape) {
  std::vector<int64_t> strides(shape.size(), 1);
  for (size_t i = shape.size(); i-- > 1;)
    strides[i - 1] = strides[i] * std::max<int64_t>(shape[i], 1);
  return strides;
}

}  // namespace

WeightFiles::WeightFiles(const fs::path& directory)
    : directory_(directory), manifest_(read_manifest(directory)) {
  for (const Layout& layout : kLayouts) {
    const fs::path path = directory / layout.file;
    if (!fs::exists(path)) continue;
    label_ = path.string();
    if (layout.is_index)
      open_index(path, std::string(layout.suffix));
    else
      open(path);
    return;
  }
  refuse(directory.string(),
         fmt::format("no weights here: looked for {}, {}, {} and {} (other formats are not read)",
                     kLayouts[0].file,
                     kLayouts[1].file,
                     kLayouts[2].file,
                     kLayouts[3].file));
}

/// The checksums of the tensors in `path`, empty where the manifest has none: then the file itself
/// is held against it now.
std::map<std::string, std::string> WeightFiles::listed_sums(const fs::path& path) const {
  const auto listed = manifest_.find(path.lexically_relative(directory_).generic_string());
  if (listed == manifest_.end()) return {};
  const auto& [name, expected] = *listed;
  if (expected.tensors.empty() || fs::file_size(path) != expected.file.bytes)
    if (const auto problem = file_problem(directory_, name, expected))
      refuse_damaged(directory_, *problem);
  return expected.tensors;
}

void WeightFiles::open(const fs::path& path) {
  if (!fs::exists(path)) refuse(label_, fmt::format("names {}, which is not there", path.string()));
  if (!fs::is_regular_file(path)) refuse(path.string(), "is no file");
  files_.push_back(std::make_unique<File>(File{path, MappedFile(path), listed_sums(path)}));
  const MappedFile& mapped = files_.back()->mapped;
  const std::span<const std::byte> bytes(mapped.data(), mapped.size_bytes());
  check_no_pointer(path, bytes);
  const auto add = [&](const std::string& name, Weight weight) {
    weight.file = files_.size() - 1;
    if (const auto [other, added] = weights_.emplace(name, std::move(weight)); !added)
      refuse_tensor(path.string(),
                    name,
                    fmt::format("is in {} too", files_[other->second.file]->path.string()));
  };
  if (path.extension() == kTorch) {
    for (auto& [name, t] : read_torch_file(path.string(), bytes))
      add(name, {0, t.dtype, t.begin, t.end, t.offset, t.shape, t.strides});
  } else {
    for (auto& [name, e] : read_safetensors_header(path.string(), bytes).entries)
      add(name, {0, e.dtype, e.begin, e.end, 0, e.shape, contiguous_strides(e.shape)});
  }
}

void WeightFiles::open_index(const fs::path& index, const std::string& suffix) {
  const std::map<std::string, std::string> file_of =
      read_weight_index(label_, read_file(index), suffix);
  std::set<std::string> names;
  for (const auto& [tensor, file] : file_of) names.insert(file);
  for (const std::string& name : names) open(index.parent_path() / name);
  for (const auto& [tensor, file] : file_of)
    if (const auto found = weights_.find(tensor); found == weights_.end())
      refuse_tensor(label_, tensor, fmt::format("is not in {}, nor in another file", file));
    else if (const fs::path& path = files_[found->second.file]->path; path.filename() != file)
      refuse_tensor(label_, tensor, fmt::format("is not in {} but in {}", file, path.string()));
  for (const auto& [tensor, weight] : weights_)
    if (!file_of.contains(tensor))
      refuse_tensor(
          files_[weight.file]->path.string(), tensor, fmt::format("is not named by {}", label_));
}

const WeightFiles::Weight& WeightFiles::at(const std::string& name) const {
  const auto found = weights_.find(name);
  if (found == weights_.end()) refuse(label_, fmt::format("no tensor \"{}\"", printable(name)));
  return found->second;
}

std::vector<std::string> WeightFiles::names() const {
  std::vector<std::string> names;
  for (const auto& [name, weight] : weights_) names.push_back(name);
  return names;
}

std::vector<fs::path> WeightFiles::paths() const {
  std::vector<fs::path> paths;
  for (const auto& file : files_) paths.push_back(file->path);
  return paths;
}

bool WeightFiles::lies_before(const std::string& a, const std::string& b) const {
  const Weight &left = at(a), &right = at(b);
  return std::pair(left.file, left.begin) < std::pair(right.file, right.begin);
}

/// Bytes of a row when it is stored in one piece, as most are.
int64_t WeightFiles::row_bytes(const Weight& weight) {
  const auto size = static_cast<int64_t>(c10::elementSize(scalar_type_of(weight.dtype)));
  return c10::multiply_integers(weight.shape) / std::max<int64_t>(1, height_of(weight)) * size;
}

bool WeightFiles::lies_in_order(const Weight& weight) {
  return weight.strides == contiguous_strides(weight.shape);
}

/// The bytes that rows [first_row, first_row + rows) take, at least.
std::span<const std::byte> WeightFiles::bytes_of(const Weight& weight,
                                                 int64_t first_row,
                                                 int64_t rows) const {
  const std::byte* data = files_[weight.file]->mapped.data() + weight.begin;
  if (!lies_in_order(weight)) return {data, weight.end - weight.begin};
  const auto size = static_cast<int64_t>(c10::elementSize(scalar_type_of(weight.dtype)));
  return {data + weight.offset * size + first_row * row_bytes(weight),
          static_cast<size_t>(rows * row_bytes(weight))};
}

/// Rows [first_row, first_row + rows) are done with. Where rows lie all over the storage, its pages
/// stay until the last of them.
void WeightFiles::drop(const Weight& weight, int64_t first_row, int64_t rows) const {
  if (lies_in_order(weight) || first_row + rows == height_of(weight))
    drop_pages(bytes_of(weight, first_row, rows));
}

/// These bytes are used now, what lies behind them next.
void WeightFiles::fetch(const File& file, std::span<const std::byte> bytes) const {
  const auto end = static_cast<uint64_t>(bytes.data() + bytes.size() - file.mapped.data());
  const uint64_t wanted = std::min(end + kPartBytes, uint64_t{file.mapped.size_bytes()});
  const bool follows = file.fetched >= end && file.fetched <= wanted;
  if (follows && wanted - file.fetched < kPartBytes / 2 && wanted < file.mapped.size_bytes())
    return;
  if (fetching_.valid()) fetching_.wait();  // these bytes are among them
  const uint64_t from = follows ? file.fetched : end;
  if (from < wanted)
    fetching_ = std::async(
        std::launch::async, fetch_pages, std::span(file.mapped.data() + from, wanted - from));
  file.fetched = wanted;
}

/// All of a tensor as it lies in the file.
at::Tensor WeightFiles::view(const std::string& name) const {
  const Weight& weight = at(name);
  const File& file = *files_[weight.file];
  at::ScalarType type{};
  try {
    type = scalar_type_of(weight.dtype);
  } catch (const std::runtime_error& e) {
    refuse(file.path.string(), fmt::format("tensor \"{}\" {}", printable(name), e.what()));
  }
  const std::byte* data = file.mapped.data() + weight.begin;
  const auto size = static_cast<int64_t>(c10::elementSize(type));
  at::Tensor aligned;  // a copy, where the file has the storage at an odd byte
  if (reinterpret_cast<uintptr_t>(data) % c10::elementSize(type) != 0) {
    const uint64_t bytes = weight.end - weight.begin;
    aligned = at::empty({static_cast<int64_t>(bytes)}, at::kByte);
    if (bytes > 0) std::memcpy(aligned.data_ptr(), data, bytes);
    data = static_cast<const std::byte*>(aligned.data_ptr());
  }
  // LibTorch knows no tensors that are for reading only.
  auto* first = const_cast<std::byte*>(data) + weight.offset * size;
  return at::from_blob(
      first, weight.shape, weight.strides, [aligned](void*) {}, type);
}

void WeightFiles::hand_out(const std::string& name,
                           int64_t bytes_at_once,
                           const UseRows& use) const {
  const Weight& weight = at(name);
  const at::Tensor whole = view(name);
  const int64_t height = height_of(weight),
                most =
                    std::max<int64_t>(1, bytes_at_once / std::max<int64_t>(1, row_bytes(weight)));
  const File& file = *files_[weight.file];
  const auto expected = file.sums.find(name);
  Xxh3 sum;
  int64_t rows = 0;
  for (int64_t row = 0; row < height; row += rows) {
    rows = std::min(most, height - row);
    const std::span<const std::byte> bytes = bytes_of(weight, row, rows);
    fetch(file, bytes);
    if (expected != file.sums.end()) sum.update(bytes.data(), bytes.size());
    use(whole.dim() == 0 ? whole : whole.narrow(0, row, rows), row);
    drop(weight, row, rows);
  }
  if (expected != file.sums.end() && sum.hex() != expected->second)
    refuse_damaged(directory_,
                   fmt::format("{}: the checksum of tensor {} is {}, its manifest says {}",
                               file.path.filename().string(),
                               printable(name),
                               sum.hex(),
                               expected->second));
}

void WeightFiles::for_rows(const std::string& name, const UseRows& use) const {
  hand_out(name, int64_t{kPartBytes}, use);
}

void WeightFiles::for_all_rows(const std::string& name, const UseRows& use) const {
  hand_out(name, INT64_MAX, use);
}

at::Tensor WeightFiles::read(const std::string& name) const {
  const at::Tensor whole = view(name);
  const at::Tensor copy = at::empty(whole.sizes(), whole.options());
  for_all_rows(name, [&](const at::Tensor& rows, int64_t) { copy.copy_(rows); });
  return copy;
}

bool WeightFiles::equal(const std::string& a, const std::string& b) const {
  const Weight &left = at(a), &right = at(b);
  const auto place = [](const Weight& w) {
    return std::tie(w.file, w.dtype, w.begin, w.end, w.offset, w.shape, w.strides);
  };
  if (place(left) == place(right)) return true;  // one tensor under two names
  if (left.shape != right.shape || left.dtype != right.dtype) return false;
  const at::Tensor other = view(b);
  bool same = true;
  for_rows(a, [&](const at::Tensor& rows, int64_t first_row) {
    if (!same) return;
    same = at::equal(rows, rows.dim() == 0 ? other : other.narrow(0, first_row, rows.size(0)));
    drop(right, first_row, rows.dim() == 0 ? 1 : rows.size(0));
  });
  return same;
}

}  // namespace basin
