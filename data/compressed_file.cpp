#include "data/compressed_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>
#include <zlib.h>
#include <zstd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <stdexcept>
#include <string_view>

namespace basin {
namespace {

constexpr size_t kBufferBytes = size_t{1} << 18;

}  // namespace

/// Turns bytes of the file into bytes of text; both ends move by what was used.
struct CompressedFile::Decoder {
  virtual ~Decoder() = default;
  struct Progress {
    size_t consumed, produced;
  };
  /// Throws std::runtime_error with the reason only; the caller knows the file.
  virtual Progress decode(std::string_view in, char* to, size_t bytes) = 0;
  /// Whether the file may end here.
  bool at_boundary = true;
};

struct CompressedFile::GzipDecoder : Decoder {
  GzipDecoder() {
    if (inflateInit2(&stream, 15 + 16) != Z_OK) {  // 15: largest window; 16: gzip, not zlib
      throw std::runtime_error("zlib could not start");
    }
  }
  ~GzipDecoder() override { inflateEnd(&stream); }
  GzipDecoder(const GzipDecoder&) = delete;
  GzipDecoder& operator=(const GzipDecoder&) = delete;

  Progress decode(std::string_view in, char* to, size_t bytes) override {
    if (at_boundary && !in.empty()) {
      inflateReset(&stream);
    }
    stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(in.data()));
    stream.avail_in = static_cast<uInt>(in.size());
    stream.next_out = reinterpret_cast<Bytef*>(to);
    stream.avail_out = static_cast<uInt>(std::min(bytes, kBufferBytes));
    const size_t room = stream.avail_out;
    const int status = inflate(&stream, Z_NO_FLUSH);
    if (status != Z_OK && status != Z_STREAM_END && status != Z_BUF_ERROR) {
      throw std::runtime_error(fmt::format("damaged or no gzip file ({})",
                                           stream.msg != nullptr ? stream.msg : "zlib error"));
    }
    const Progress progress{in.size() - stream.avail_in, room - stream.avail_out};
    at_boundary = status == Z_STREAM_END || (at_boundary && progress.consumed == 0);
    return progress;
  }

  z_stream stream{};
};

struct CompressedFile::ZstdDecoder : Decoder {
  ZstdDecoder() : context(ZSTD_createDCtx(), &ZSTD_freeDCtx) {
    ZSTD_DCtx_setParameter(
        context.get(), ZSTD_d_windowLogMax, 31);  // files made with --long and --ultra
  }
  Progress decode(std::string_view in, char* to, size_t bytes) override {
    ZSTD_inBuffer input{in.data(), in.size(), 0};
    ZSTD_outBuffer output{to, bytes, 0};
    const size_t status = ZSTD_decompressStream(context.get(), &output, &input);
    if (ZSTD_isError(status)) {
      throw std::runtime_error(
          fmt::format("damaged or no zstd file ({})", ZSTD_getErrorName(status)));
    }
    at_boundary = status == 0 || (at_boundary && input.pos == 0);
    return {input.pos, output.pos};
  }

  std::unique_ptr<ZSTD_DCtx, decltype(&ZSTD_freeDCtx)> context;
};

CompressedFile::CompressedFile(const std::filesystem::path& path)
    : path_(path),
      file_(open_file(path, O_RDONLY)),
      buffer_(kBufferBytes, '\0') {
  if (path.extension() == ".gz") {
    decoder_ = std::make_unique<GzipDecoder>();
  } else if (path.extension() == ".zst") {
    decoder_ = std::make_unique<ZstdDecoder>();
  }
}

CompressedFile::~CompressedFile() = default;

bool CompressedFile::fill() {
  ssize_t got = -1;
  do {
    got = ::read(file_.get(), buffer_.data(), buffer_.size());
  } while (got < 0 && errno == EINTR);
  if (got < 0) {
    throw std::runtime_error(
        fmt::format("cannot read {}: {}", path_.string(), std::strerror(errno)));
  }
  sum_.update(buffer_.data(), static_cast<size_t>(got));
  begin_ = 0;
  end_ = static_cast<size_t>(got);
  file_bytes_ += end_;
  return end_ > 0;
}

size_t CompressedFile::read(char* to, size_t bytes) {
  while (true) {
    const bool ended = begin_ == end_ && !fill();
    if (decoder_ == nullptr) {
      const size_t count = std::min(bytes, end_ - begin_);
      std::memcpy(to, buffer_.data() + begin_, count);
      begin_ += count;
      return count;
    }
    Decoder::Progress progress{};
    try {
      progress = decoder_->decode({buffer_.data() + begin_, end_ - begin_}, to, bytes);
    } catch (const std::runtime_error& error) {
      throw std::runtime_error(fmt::format("{}: {}", path_.string(), error.what()));
    }
    begin_ += progress.consumed;
    if (progress.produced > 0) {
      return progress.produced;
    }
    if (ended) {
      if (!decoder_->at_boundary || file_bytes_ == 0) {
        throw std::runtime_error(
            fmt::format("{}: truncated: the compressed data ends in the middle ({} bytes)",
                        path_.string(),
                        file_bytes_));
      }
      return 0;
    }
  }
}

}  // namespace basin
