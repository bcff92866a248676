// Layouts: tensorflow/core/util/event.proto, framework/summary.proto, lib/io/record_writer.cc.
// Every field used here has a one-byte tag.
#include "train/event_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <array>
#include <bit>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <stdexcept>

namespace basin {
namespace {

constexpr std::array<uint32_t, 256> make_crc_table() {
  std::array<uint32_t, 256> table{};
  for (uint32_t i = 0; i < 256; ++i) {
    uint32_t crc = i;
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ ((crc & 1) != 0 ? 0x82F63B78u : 0u);
    table[i] = crc;
  }
  return table;
}
constexpr std::array<uint32_t, 256> kCrcTable = make_crc_table();

template <class T>
std::string little_endian(T value) {
  static_assert(std::endian::native == std::endian::little);
  std::string bytes(sizeof(T), '\0');
  std::memcpy(bytes.data(), &value, sizeof(T));
  return bytes;
}

/// TFRecord's mask, so that a checksum of data that holds checksums stays good.
std::string masked_crc(std::string_view bytes) {
  return little_endian<uint32_t>(std::rotr(crc32c(bytes), 15) + 0xA282EAD8u);
}

std::string varint(uint64_t value) {
  std::string out;
  for (; value >= 0x80; value >>= 7) out += static_cast<char>(value | 0x80);
  return out + static_cast<char>(value);
}

enum WireType { kVarint = 0, kFixed64 = 1, kBytes = 2, kFixed32 = 5 };
std::string tag_of(int field, WireType type) {
  return std::string(1, static_cast<char>(field << 3 | type));
}
std::string field_varint(int field, int64_t value) {
  return tag_of(field, kVarint) + varint(static_cast<uint64_t>(value));
}
std::string field_double(int field, double value) {
  return tag_of(field, kFixed64) + little_endian(value);
}
std::string field_float(int field, float value) {
  return tag_of(field, kFixed32) + little_endian(value);
}
std::string field_bytes(int field, std::string_view bytes) {
  return tag_of(field, kBytes) + varint(bytes.size()) + std::string(bytes);
}

double now_s() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

}  // namespace

uint32_t crc32c(std::string_view bytes) {
  uint32_t crc = ~0u;
  for (const char c : bytes)
    crc = kCrcTable[(crc ^ static_cast<unsigned char>(c)) & 0xFF] ^ (crc >> 8);
  return ~crc;
}

std::string frame_record(std::string_view data) {
  const std::string length = little_endian<uint64_t>(data.size());
  return length + masked_crc(length) + std::string(data) + masked_crc(data);
}

std::string encode_version_event(double wall_time_s) {
  return field_double(1, wall_time_s) + field_bytes(3, "brain.Event:2");
}

std::string encode_session_start_event(double wall_time_s, int64_t step) {
  return field_double(1, wall_time_s) + field_varint(2, step) +
         field_bytes(7, field_varint(1, 1));  // SessionLog{status: START}
}

std::string encode_scalar_event(double wall_time_s,
                                int64_t step,
                                std::string_view tag,
                                float value) {
  const std::string entry = field_bytes(1, tag) + field_float(2, value);
  return field_double(1, wall_time_s) + field_varint(2, step) +
         field_bytes(5, field_bytes(1, entry));
}

EventFile::EventFile(const std::filesystem::path& directory, int64_t first_step) {
  std::array<char, 256> host{"localhost"};
  gethostname(host.data(), host.size() - 1);
  const double now = now_s();
  int fd = -1;
  std::filesystem::path path;
  // Two sessions within one second must not share a file.
  for (int64_t n = 0; fd < 0 && n < 1000; ++n) {
    path =
        directory /
        fmt::format(
            "events.out.tfevents.{}.{}.{}.{}", static_cast<int64_t>(now), host.data(), getpid(), n);
    fd = open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (fd < 0 && errno != EEXIST) break;
  }
  if (fd < 0)
    throw std::runtime_error(
        fmt::format("{}: cannot create: {}", path.string(), std::strerror(errno)));
  close(fd);
  log_ = std::make_unique<AppendLog>(path);
  add(encode_version_event(now));
  start_session(first_step);
}

void EventFile::start_session(int64_t first_step) {
  add(encode_session_start_event(now_s(), first_step));
}

void EventFile::add_scalar(int64_t step, std::string_view tag, double value) {
  add(encode_scalar_event(now_s(), step, tag, static_cast<float>(value)));
}

void EventFile::add(const std::string& event) {
  log_->add(frame_record(event));
}

}  // namespace basin
