#include "configs/progress.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <pty.h>
#include <unistd.h>

#include <limits>
#include <thread>

namespace basin {
namespace {

TEST(FormatDuration, ChoosesTheUnit) {
  EXPECT_EQ(format_duration(0), "0.0 s");
  EXPECT_EQ(format_duration(3.24), "3.2 s");
  EXPECT_EQ(format_duration(9.96), "10 s");
  EXPECT_EQ(format_duration(59.4), "59 s");
  EXPECT_EQ(format_duration(59.7), "1 min 00 s");
  EXPECT_EQ(format_duration(245), "4 min 05 s");
  EXPECT_EQ(format_duration(3599.6), "1 h 00 min");
  EXPECT_EQ(format_duration(2 * 3600 + 7 * 60 + 20), "2 h 07 min");
  EXPECT_EQ(format_duration(76.2 * 3600), "3 d 04 h");
  EXPECT_EQ(format_duration(std::numeric_limits<double>::infinity()), "unknown");
  EXPECT_EQ(format_duration(-1), "unknown");
}

TEST(FormatBytes, HasThreeDigitsAndDecimalUnits) {
  EXPECT_EQ(format_bytes(0), "0 B");
  EXPECT_EQ(format_bytes(512), "512 B");
  EXPECT_EQ(format_bytes(999), "999 B");
  EXPECT_EQ(format_bytes(1000), "1.00 kB");
  EXPECT_EQ(format_bytes(12.34e6), "12.3 MB");
  EXPECT_EQ(format_bytes(999.6e6), "1.00 GB");
  EXPECT_EQ(format_bytes(4.5e12), "4.50 TB");
}

TEST(FormatCount, HasThreeDigits) {
  EXPECT_EQ(format_count(7), "7");
  EXPECT_EQ(format_count(0.5), "0.50");
  EXPECT_EQ(format_count(1.234e6), "1.23 M");
  EXPECT_EQ(format_count(143000), "143 k");
}

TEST(ProgressLine, SaysShareRateAndTimeLeft) {
  EXPECT_EQ(progress_line({"tokenize", "bytes", 12'345'678, 29'100'000, 10.2}, false),
            "tokenize: 42 % (12.3 MB of 29.1 MB), 1.21 MB/s, 14 s left");
  EXPECT_EQ(progress_line({"tokenize", "bytes", 29'100'000, 29'100'000, 24}, true),
            "tokenize: 29.1 MB in 24 s, 1.21 MB/s");
  EXPECT_EQ(progress_line({"train", "steps", 10, 40, 20}, true),
            "train: 25 % (10 steps of 40 steps) in 20 s, 0.50 steps/s");  // stopped early
  EXPECT_EQ(progress_line({"count", "documents", 5, 0, 4}, false),
            "count: 5 documents, 1.25 documents/s");
  EXPECT_EQ(progress_line({"wait", "steps", 0, 8, 4}, false),
            "wait: 0 % (0 steps of 8 steps), 0 steps/s");
}

TEST(Progress, IsSilentForShortWork) {
  testing::internal::CaptureStderr();
  {
    Progress progress("short", 10, "steps");
    progress.advance(10);
  }
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "");
}

// What two seconds of work, reported from two threads, leave on stderr.
void work_for_two_seconds() {
  Progress progress("work", 4, "steps");
  std::thread other([&] { progress.advance(1); });
  other.join();
  std::this_thread::sleep_for(std::chrono::milliseconds(2050));
  progress.advance(1);
  progress.advance(1);
}

TEST(Progress, LeavesOnePlainLineWhereThereIsNoTerminal) {
  testing::internal::CaptureStderr();
  work_for_two_seconds();
  EXPECT_THAT(
      testing::internal::GetCapturedStderr(),
      testing::MatchesRegex("work: 75 % \\(3 steps of 4 steps\\) in [0-9.]+ s, [0-9.]+ steps/s\n"));
}

TEST(Progress, RewritesItsLineOnATerminal) {
  int master = -1, slave = -1;
  const winsize window{.ws_row = 24, .ws_col = 41, .ws_xpixel = 0, .ws_ypixel = 0};
  ASSERT_EQ(openpty(&master, &slave, nullptr, nullptr, &window), 0);
  const int kept = dup(STDERR_FILENO);
  dup2(slave, STDERR_FILENO);
  work_for_two_seconds();
  dup2(kept, STDERR_FILENO);
  std::string shown(1000, '\0');
  shown.resize(static_cast<size_t>(read(master, shown.data(), shown.size())));
  for (const int fd : {master, slave, kept}) close(fd);
  // Cut at 40 columns; the third advance came too soon after the second to be shown.
  EXPECT_THAT(
      shown,
      testing::MatchesRegex("\rwork: 50 % \\(2 steps of 4 steps\\), [0-9.]+ st\x1b\\[K"
                            "\rwork: 75 % \\(3 steps of 4 steps\\) in [0-9.]+ s\x1b\\[K\r\n"));
}

}  // namespace
}  // namespace basin
