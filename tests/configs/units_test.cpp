#include "configs/units.h"

#include <gtest/gtest.h>

namespace basin {
namespace {

TEST(ParseBytes, TakesSizesAndNothingElse) {
  EXPECT_EQ(parse_bytes("5GB"), 5'000'000'000u);
  EXPECT_EQ(parse_bytes("1.5MiB"), 1'572'864u);
  EXPECT_EQ(parse_bytes("12"), 12u);
  EXPECT_EQ(parse_bytes("3B"), 3u);
  EXPECT_EQ(parse_bytes("2kB"), parse_bytes("2KB"));
  EXPECT_EQ(parse_bytes("1TiB"), uint64_t{1} << 40);
  for (const char* text :
       {"", "GB", "5 GB", "-1", "0", "0.5", "1e30GB", "nan", "inf", "infB", "5GBs", "5G", "80gigs"})
    EXPECT_EQ(parse_bytes(text), std::nullopt) << text;
}

TEST(ParseDuration, AddsUpItsParts) {
  EXPECT_EQ(parse_duration_s(""), 0);
  EXPECT_EQ(parse_duration_s("45s"), 45);
  EXPECT_EQ(parse_duration_s("1h30m"), 5400);
  EXPECT_EQ(parse_duration_s("1d0.5h"), 88200);
  for (const char* text : {"5", "s", "1h30", "1h 30m", "-1s", "nans", "infs", "1w", "soon"})
    EXPECT_EQ(parse_duration_s(text), std::nullopt) << text;
}

}  // namespace
}  // namespace basin
