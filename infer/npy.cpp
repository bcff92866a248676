#include "infer/npy.h"

#include <fmt/core.h>

#include <bit>
#include <stdexcept>
#include <string>

#include "configs/files.h"

namespace basin {

static_assert(std::endian::native == std::endian::little, "the header below says little-endian");

void write_npy(const std::filesystem::path& path, std::span<const float> values, int64_t rows) {
  const auto size = static_cast<int64_t>(values.size());
  if (rows < 0 || (rows == 0 ? size != 0 : size % rows != 0))
    throw std::invalid_argument(
        fmt::format("{}: {} values do not make {} rows", path.string(), size, rows));
  std::string header =
      fmt::format("{{'descr': '<f4', 'fortran_order': False, 'shape': ({}, {}), }}",
                  rows,
                  rows == 0 ? 0 : size / rows);
  constexpr size_t kPreamble = 10,
                   kAlignment = 64;  // magic, version, length of the header; the data begin aligned
  header.append(kAlignment - (kPreamble + header.size() + 1) % kAlignment, ' ');
  header += '\n';
  AtomicFile file(path);
  file.write(std::string_view("\x93NUMPY\x01\x00", 8));
  const char length[2] = {static_cast<char>(header.size() & 0xff),
                          static_cast<char>(header.size() >> 8)};
  file.write(length, sizeof length);
  file.write(header);
  file.write(values.data(), values.size_bytes());
  file.commit();
}

}  // namespace basin
