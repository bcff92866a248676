// Progress with an ETA on stderr: one rewritten line on a terminal, a plain line every ten seconds
// elsewhere. Silent below two seconds of work.
#pragma once

#include <cstdint>
#include <mutex>
#include <string>

#include "configs/clock.h"

namespace basin {

/// Thread-safe. `total` 0 means unknown (no ETA). The destructor leaves the last state as a line of
/// its own.
class Progress {
 public:
  Progress(std::string label, int64_t total, std::string unit);
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  void advance(int64_t done);  // adds
  void set_total(int64_t total);

 private:
  void print(bool last);

  std::mutex mutex_;
  std::string label_, unit_;
  int64_t total_, done_ = 0;
  Clock::time_point started_ = Clock::now(), printed_ = Clock::now();
  bool terminal_;
};

/// What a progress line says, as text without line ends:
/// "tokenize: 42 % (12.3 MB of 29.1 MB), 1.21 MB/s, 14 s left"; when `last`, "tokenize: 29.1 MB in
/// 24 s, 1.21 MB/s".
struct ProgressState {
  std::string label, unit;  // unit "bytes" prints as B, kB, MB
  int64_t done = 0, total = 0;
  double elapsed_s = 0;
};
std::string progress_line(const ProgressState& state, bool last);

/// `line` cut to the width of the terminal on stderr: it would wrap, and `\r` would then rewrite only
/// its last row.
std::string fit_to_terminal(std::string line);

/// "3.2 s", "42 s", "4 min 05 s", "2 h 07 min", "3 d 04 h".
std::string format_duration(double seconds);
/// "12.3 MB" (decimal units) and "1.23 M" for counts.
std::string format_bytes(double bytes);
std::string format_count(double count);

}  // namespace basin
