#include "configs/units.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <utility>

namespace basin {
namespace {

using Unit = std::pair<std::string_view, double>;
constexpr std::array<Unit, 11> kByteUnits{{{"", 1},
                                           {"B", 1},
                                           {"KB", 1e3},
                                           {"kB", 1e3},
                                           {"MB", 1e6},
                                           {"GB", 1e9},
                                           {"TB", 1e12},
                                           {"KiB", 0x1p10},
                                           {"MiB", 0x1p20},
                                           {"GiB", 0x1p30},
                                           {"TiB", 0x1p40}}};

}  // namespace

std::optional<uint64_t> parse_bytes(std::string_view text) {
  double number = 0;
  const char* end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, number);
  if (error != std::errc()) return std::nullopt;
  const auto* unit = std::ranges::find(kByteUnits, std::string_view(stop, end), &Unit::first);
  if (unit == kByteUnits.end()) return std::nullopt;
  const double bytes = number * unit->second;
  return bytes >= 1 && bytes < 0x1p63 ? std::optional(static_cast<uint64_t>(bytes)) : std::nullopt;
}

std::optional<double> parse_duration_s(std::string_view text) {
  double total = 0;
  const char* at = text.data();
  const char* end = at + text.size();
  while (at != end) {
    double number = 0;
    const auto [stop, error] = std::from_chars(at, end, number);
    constexpr std::string_view kUnits = "smhd";
    const size_t unit = stop == end ? kUnits.npos : kUnits.find(*stop);
    if (error != std::errc() || unit == kUnits.npos || !(number >= 0 && std::isfinite(number)))
      return std::nullopt;
    total += number * std::array{1.0, 60.0, 3600.0, 86400.0}[unit];
    at = stop + 1;
  }
  return total;
}

}  // namespace basin
