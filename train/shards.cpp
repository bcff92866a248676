#include "train/shards.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <map>
#include <optional>
#include <stdexcept>

#include "model/safetensors.h"
#include "train/partition.h"

namespace basin {
namespace {

namespace fs = std::filesystem;

struct Buffer {
  const char* prefix;
  at::Tensor Optimizer::Part::*tensor;
};
constexpr Buffer kBuffers[] = {{"master.", &Optimizer::Part::master},
                               {"m.", &Optimizer::Part::m},
                               {"v.", &Optimizer::Part::v}};

Range overlap(const Range& a, const Range& b) {
  return {std::max(a.begin, b.begin), std::min(a.end, b.end)};
}

Range range_of(const Parameter& p) {
  return {p.offset, p.offset + p.tensor.numel()};
}
Range range_of(const Optimizer::Part& part) {
  return {part.begin, part.begin + part.master.numel()};
}

/// One tensor of a shard file: elements [begin, end) of the model's flat buffer.
struct Piece {
  const SafetensorsFile* file;
  std::string name;
  Range range;
};

/// "weight@4096" -> ("weight", 4096); a name without a number begins at 0.
std::pair<std::string, int64_t> split_name(const std::string& name) {
  const size_t at = name.rfind('@');
  int64_t begin = 0;
  if (at == std::string::npos) return {name, begin};
  const char* end = name.data() + name.size();
  const auto [stop, error] = std::from_chars(name.data() + at + 1, end, begin);
  if (error != std::errc() || stop != end) return {name, 0};
  return {name.substr(0, at), begin};
}

int64_t elements(const SafetensorsEntry& entry) {
  int64_t n = 1;
  for (const int64_t size : entry.shape) n *= size;
  return n;
}

/// The pieces of one buffer in all files, each checked against the parameter it belongs to.
std::vector<Piece> find_pieces(const std::vector<SafetensorsFile>& files,
                               const std::vector<Parameter>& parameters,
                               const std::string& prefix) {
  std::map<std::string, const Parameter*> by_name;
  for (const Parameter& p : parameters) by_name[prefix + p.name] = &p;
  std::vector<Piece> pieces;
  for (const SafetensorsFile& file : files) {
    for (const auto& [name, entry] : file.entries()) {
      if (!name.starts_with(prefix)) continue;
      const auto [parameter, begin] = split_name(name);
      const auto found = by_name.find(parameter);
      const int64_t n = elements(entry);
      if (found == by_name.end() || begin < 0 || begin + n > found->second->tensor.numel() ||
          entry.dtype != "F32") {
        throw std::runtime_error(
            fmt::format("{}: tensor {} ({} of {} elements) has no place in this model",
                        file.path().string(),
                        name,
                        entry.dtype,
                        n));
      }
      const int64_t offset = found->second->offset + begin;
      pieces.push_back({&file, name, {offset, offset + n}});
    }
  }
  return pieces;
}

void fill(const at::Tensor& to, const Range& place, const std::vector<Piece>& pieces) {
  for (const Piece& piece : pieces) {
    const Range both = overlap(place, piece.range);
    if (both.size() <= 0) continue;
    const at::Tensor saved = piece.file->read(piece.name).view({-1});
    to.narrow(0, both.begin - place.begin, both.size())
        .copy_(saved.narrow(0, both.begin - piece.range.begin, both.size()));
  }
}

/// Throws unless each element of a parameter that a part holds is in one piece.
void check_cover(const std::vector<Parameter>& parameters,
                 const std::vector<Optimizer::Part>& parts,
                 const std::vector<Piece>& pieces,
                 const std::string& prefix,
                 const fs::path& directory) {
  for (const Parameter& p : parameters) {
    for (const Optimizer::Part& part : parts) {
      const Range wanted = overlap(range_of(p), range_of(part));
      int64_t found = 0;
      for (const Piece& piece : pieces)
        found += std::max<int64_t>(0, overlap(wanted, piece.range).size());
      if (wanted.size() > 0 && found != wanted.size())
        throw std::runtime_error(fmt::format("{}: its shards hold {} of {} elements of {}{}",
                                             (directory / "trainer").string(),
                                             found,
                                             wanted.size(),
                                             prefix,
                                             p.name));
    }
  }
}

std::vector<SafetensorsFile> open_shards(const fs::path& directory) {
  std::vector<fs::path> paths;
  for (const fs::directory_entry& entry : fs::directory_iterator(directory / "trainer")) {
    const std::string name = entry.path().filename().string();
    if (name.starts_with("shard-") && name.ends_with(".safetensors")) paths.push_back(entry.path());
  }
  std::sort(paths.begin(), paths.end());
  std::vector<SafetensorsFile> files;
  for (const fs::path& path : paths) files.emplace_back(path);
  return files;
}

}  // namespace

std::string shard_name(int64_t shard, int64_t shards) {
  return fmt::format("trainer/shard-{:05}-of-{:05}.safetensors", shard, shards);
}

ManifestEntry write_shard(const fs::path& path,
                          const std::vector<Parameter>& parameters,
                          const std::vector<Optimizer::Part>& parts) {
  std::vector<std::pair<std::string, at::Tensor>> tensors;
  for (const Buffer& buffer : kBuffers) {
    for (const Optimizer::Part& part : parts) {
      for (const Parameter& p : parameters) {
        const Range piece = overlap(range_of(p), range_of(part));
        if (piece.size() <= 0) continue;
        const at::Tensor data =
            (part.*buffer.tensor).narrow(0, piece.begin - part.begin, piece.size());
        if (piece == range_of(p))
          tensors.emplace_back(buffer.prefix + p.name, data.view(p.tensor.sizes()));
        else
          tensors.emplace_back(
              fmt::format("{}{}@{}", buffer.prefix, p.name, piece.begin - p.offset), data);
      }
    }
  }
  return write_safetensors(path, tensors);
}

void read_shards(const fs::path& directory,
                 const std::vector<Parameter>& parameters,
                 const std::vector<Optimizer::Part>& parts) {
  at::NoGradGuard no_grad;
  const std::vector<SafetensorsFile> files = open_shards(directory);
  for (const Buffer& buffer : kBuffers) {
    const std::vector<Piece> pieces = find_pieces(files, parameters, buffer.prefix);
    check_cover(parameters, parts, pieces, buffer.prefix, directory);
    for (const Optimizer::Part& part : parts) fill(part.*buffer.tensor, range_of(part), pieces);
  }
}

}  // namespace basin
