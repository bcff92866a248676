// TensorBoard's event file, written by hand: records of protocol buffers `Event`, framed as
// TFRecords. No protobuf library: LibTorch embeds its own.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>

#include "train/append_log.h"

namespace basin {

/// CRC-32C (Castagnoli, RFC 3720 appendix B.4).
uint32_t crc32c(std::string_view bytes);

/// One TFRecord: length, masked checksum of the length, data, masked checksum of the data.
std::string frame_record(std::string_view data);

/// The encoded Event that opens a file.
std::string encode_version_event(double wall_time_s);
/// The encoded Event after which TensorBoard drops what an earlier file says from `step` on.
std::string encode_session_start_event(double wall_time_s, int64_t step);
/// The encoded Event of one scalar.
std::string encode_scalar_event(double wall_time_s,
                                int64_t step,
                                std::string_view tag,
                                float value);

/// An events.out.tfevents file that only grows.
class EventFile {
 public:
  /// Makes a new file in `directory`. `first_step`: the step that its session starts with.
  EventFile(const std::filesystem::path& directory, int64_t first_step);

  /// What follows begins at `first_step`: TensorBoard drops what came before from there on.
  void start_session(int64_t first_step);
  void add_scalar(int64_t step, std::string_view tag, double value);
  AppendLog& log() { return *log_; }

 private:
  void add(const std::string& event);

  std::unique_ptr<AppendLog> log_;
};

}  // namespace basin
