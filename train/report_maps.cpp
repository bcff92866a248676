// Encodes and lays out the attention sheet. PNG: an 8-bit palette image (RFC 2083) whose 256 entries are one colour
// with opacities 0..255.
#include "train/report_maps.h"

#include <fmt/format.h>
#include <zlib.h>

#include <algorithm>
#include <cmath>
#include <stdexcept>

#include "train/report_svg.h"

namespace basin {
namespace {

constexpr int64_t kTile = 48, kGap = 6, kMarginLeft = 30, kMarginTop = 20;  // SVG units

std::string big_endian(uint32_t value) {
  std::string bytes;
  for (int shift = 24; shift >= 0; shift -= 8) bytes += static_cast<char>(value >> shift & 0xff);
  return bytes;
}

std::string chunk(const std::string& type, const std::string& data) {
  const std::string body = type + data;
  const auto checksum =
      static_cast<uint32_t>(crc32(0, reinterpret_cast<const Bytef*>(body.data()), static_cast<uInt>(body.size())));
  return big_endian(static_cast<uint32_t>(data.size())) + body + big_endian(checksum);
}

std::string deflated(const std::string& bytes) {
  uLongf size = compressBound(bytes.size());
  std::string out(size, '\0');
  if (compress2(reinterpret_cast<Bytef*>(out.data()), &size, reinterpret_cast<const Bytef*>(bytes.data()), bytes.size(),
                9) != Z_OK) {
    throw std::runtime_error("zlib could not compress the attention maps");
  }
  out.resize(size);
  return out;
}

/// (size, size) averaged down to (size / 2, size / 2); an odd last row and column are dropped.
std::vector<float> halved(const std::vector<float>& map, int64_t size) {
  const int64_t half = size / 2;
  std::vector<float> out;
  for (int64_t y = 0; y < half; ++y) {
    for (int64_t x = 0; x < half; ++x) {
      const auto at = [&](int64_t dy, int64_t dx) {
        return map[static_cast<size_t>((2 * y + dy) * size + 2 * x + dx)];
      };
      out.push_back((at(0, 0) + at(0, 1) + at(1, 0) + at(1, 1)) / 4);
    }
  }
  return out;
}

// Square root, so that a tenth of the attention is visible; 64 levels, which compress well and which nobody can count.
uint8_t opacity_of(float attention) {
  const double root = std::sqrt(std::clamp(static_cast<double>(attention), 0.0, 1.0));
  return static_cast<uint8_t>(std::lround(std::round(root * 63) / 63 * 255));
}

struct Sheet {
  int64_t layers = 0, heads = 0, size = 0, gap = 0;  // pixels
  std::string png;
};

Sheet paint(const std::vector<std::vector<std::vector<float>>>& maps, int64_t size) {
  Sheet sheet{.layers = std::ssize(maps),
              .heads = std::ssize(maps.front()),
              .size = size,
              .gap = std::max<int64_t>(1, size * kGap / kTile),
              .png = {}};
  const int64_t pitch = size + sheet.gap, width = sheet.heads * pitch, height = sheet.layers * pitch;
  std::vector<uint8_t> opacity(static_cast<size_t>(width * height));
  for (int64_t layer = 0; layer < sheet.layers; ++layer) {
    for (int64_t head = 0; head < sheet.heads; ++head) {
      const auto& map = maps[static_cast<size_t>(layer)][static_cast<size_t>(head)];
      for (int64_t i = 0; i < size * size; ++i) {
        opacity[static_cast<size_t>((layer * pitch + i / size) * width + head * pitch + i % size)] =
            opacity_of(map[static_cast<size_t>(i)]);
      }
    }
  }
  sheet.png = encode_png(opacity, width, height);
  return sheet;
}

Sheet fitting_sheet(const SavedAttention& attention, size_t limit_bytes) {
  auto maps = attention.maps;
  int64_t size = attention.map_size;
  Sheet sheet = paint(maps, size);
  while (sheet.png.size() > limit_bytes && size >= 16) {
    for (auto& layer : maps) {
      for (auto& map : layer) map = halved(map, size);
    }
    size /= 2;
    sheet = paint(maps, size);
  }
  return sheet;
}

std::string image(const Sheet& sheet) {
  // Units per pixel is kTile / size; the gap in pixels was rounded, so the tiles are placed by a pitch of their own.
  const double scale = static_cast<double>(kTile) / static_cast<double>(sheet.size),
               pitch = static_cast<double>(sheet.size + sheet.gap) * scale;
  return fmt::format(
      "<image x=\"{}\" y=\"{}\" width=\"{:.2f}\" height=\"{:.2f}\" preserveAspectRatio=\"none\" "
      "href=\"data:image/png;base64,{}\"/>",
      kMarginLeft, kMarginTop, pitch * static_cast<double>(sheet.heads), pitch * static_cast<double>(sheet.layers),
      base64(sheet.png));
}

}  // namespace

std::string encode_png(const std::vector<uint8_t>& opacity, int64_t width, int64_t height) {
  std::string rows, palette, alphas;
  for (int64_t y = 0; y < height; ++y) {
    rows += '\0';  // filter type 0: none
    rows.append(reinterpret_cast<const char*>(opacity.data()) + y * width, static_cast<size_t>(width));
  }
  for (int level = 0; level < 256; ++level) {
    palette += "\x0e\x86\x92";  // a teal that stands out from white and from near-black
    alphas += static_cast<char>(level);
  }
  const std::string header = big_endian(static_cast<uint32_t>(width)) + big_endian(static_cast<uint32_t>(height)) +
                             std::string("\x08\x03\x00\x00\x00", 5);
  return "\x89PNG\r\n\x1a\n" + chunk("IHDR", header) + chunk("PLTE", palette) + chunk("tRNS", alphas) +
         chunk("IDAT", deflated(rows)) + chunk("IEND", "");
}

std::string base64(const std::string& bytes) {
  static constexpr char kLetters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string out;
  for (size_t i = 0; i < bytes.size(); i += 3) {
    const size_t have = std::min<size_t>(3, bytes.size() - i);
    uint32_t group = 0;
    for (size_t k = 0; k < 3; ++k) group = group << 8 | (k < have ? static_cast<unsigned char>(bytes[i + k]) : 0u);
    for (size_t k = 0; k < 4; ++k) out += k <= have ? kLetters[group >> (18 - 6 * k) & 63] : '=';
  }
  return out;
}

std::string draw_attention(const SavedAttention& attention, const std::string& colour, size_t limit_bytes) {
  const int64_t layers = std::ssize(attention.alpha), heads = std::ssize(attention.alpha.front());
  double pitch = kTile + kGap;
  std::string svg;
  if (!attention.maps.empty() && attention.map_size > 0) {
    const Sheet sheet = fitting_sheet(attention, limit_bytes);
    pitch = static_cast<double>(sheet.size + sheet.gap) * static_cast<double>(kTile) / static_cast<double>(sheet.size);
    svg += image(sheet);
  }
  const double width = kMarginLeft + pitch * static_cast<double>(heads),
               height = kMarginTop + pitch * static_cast<double>(layers);
  for (int64_t head = 0; head < heads; ++head) {
    svg += fmt::format("<text x=\"{:.1f}\" y=\"14\" text-anchor=\"middle\">h{}</text>",
                       kMarginLeft + pitch * static_cast<double>(head) + kTile / 2, head);
  }
  for (int64_t layer = 0; layer < layers; ++layer) {
    const double y = kMarginTop + pitch * static_cast<double>(layer);
    svg += fmt::format("<text x=\"{}\" y=\"{:.1f}\" text-anchor=\"end\">L{}</text>", kMarginLeft - 6, y + kTile / 2 + 4,
                       layer);
    for (int64_t head = 0; head < heads; ++head) {
      const double alpha = attention.alpha[static_cast<size_t>(layer)][static_cast<size_t>(head)],
                   x = kMarginLeft + pitch * static_cast<double>(head);
      svg += fmt::format(
          "<g class=\"{} tile{}\"><title>layer {}, head {}: {:.3f} of the attention on the first position</title>",
          colour, alpha > attention.epsilon ? " over" : "", layer, head, alpha);
      svg += fmt::format("<rect x=\"{:.1f}\" y=\"{:.1f}\" width=\"{}\" height=\"{}\"/>", x, y, kTile, kTile);
      // The upper right half of a causal map is empty: the number goes there.
      svg += fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"end\">{:.2f}</text></g>", x + kTile - 3, y + 12,
                         alpha);
    }
  }
  return fmt::format(
      "<svg class=\"plot maps\" viewBox=\"0 0 {0:.0f} {1:.0f}\" style=\"max-width:{2:.0f}px\" role=\"img\">"
      "<title>attention by layer and head</title>{3}</svg>",
      width, height, 1.25 * width, svg);
}

}  // namespace basin
