// What all fuzz targets share: a reader refuses with std::runtime_error, in one line that begins
// with the file's name, or accepts. Anything else is a finding.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>

namespace basin {

inline std::span<const std::byte> as_bytes(const uint8_t* data, size_t size) {
  return {reinterpret_cast<const std::byte*>(data), size};
}
inline std::string_view as_text(const uint8_t* data, size_t size) {
  return {reinterpret_cast<const char*>(data), size};
}

inline void require(bool holds) {
  if (!holds) std::abort();
}

/// Runs `read`, which may refuse.
template <class Read>
void expect_clean(const std::string& name, Read read) {
  constexpr size_t kLongestMessage = 2000;
  try {
    read();
  } catch (const std::runtime_error& e) {
    const std::string_view what = e.what();
    require(what.starts_with(name) && what.size() < kLongestMessage);
    require(what.find('\n') == std::string_view::npos);
  }
}

}  // namespace basin
