// Attention maps as one picture: a sheet of small heat maps, layers down, heads across. The pixels are one PNG inside
// the SVG (rectangles would be megabytes); they are one hue whose opacity is the attention, so the sheet works on light
// and on dark paper.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "train/report_data.h"

namespace basin {

/// 8-bit greyscale-as-opacity image, `opacity` row by row, as the bytes of a .png file.
std::string encode_png(const std::vector<uint8_t>& opacity, int64_t width, int64_t height);
std::string base64(const std::string& bytes);

/// An inline SVG of all maps of a run; heads whose mean attention on the first position exceeds epsilon are framed in
/// `colour`. The PNG inside stays below `limit_bytes`: maps are averaged down until it fits. Without maps only the
/// numbers are shown.
std::string draw_attention(const SavedAttention& attention, const std::string& colour, size_t limit_bytes);

}  // namespace basin
