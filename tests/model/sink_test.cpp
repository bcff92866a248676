#include <gtest/gtest.h>

#include <algorithm>

#include "model/config.h"

namespace basin {
namespace {

bool mentions(const std::vector<std::string>& lines, std::string_view text) {
  return std::any_of(lines.begin(), lines.end(), [&](const std::string& line) {
    return line.find(text) != std::string::npos;
  });
}

SinkConfig token_sink(int64_t count, std::vector<int64_t> ids = {}) {
  SinkConfig sink;
  sink.kind = SinkKind::kToken;
  sink.count = count;
  sink.token_ids = std::move(ids);
  return sink;
}

TEST(Sink, DefaultIdsAreTheReservedOnesWithoutEndOfText) {
  EXPECT_EQ(token_sink(1).ids(), (std::vector<int64_t>{1}));
  EXPECT_EQ(token_sink(4).ids(), (std::vector<int64_t>{1, 3, 4, 5}));
  EXPECT_EQ(token_sink(3).tokens(), 3);
}

TEST(Sink, NamedIdsKeepTheirOrder) {
  const SinkConfig sink = token_sink(2, {9, 7});
  EXPECT_TRUE(sink.problems().empty());
  EXPECT_EQ(sink.ids(), (std::vector<int64_t>{9, 7}));
}

TEST(Sink, OtherKindsTakeNoPosition) {
  for (const SinkKind kind : {SinkKind::kNone, SinkKind::kZero, SinkKind::kLogit}) {
    SinkConfig sink = token_sink(2, {9, 9});  // an ablation may leave these behind
    sink.kind = kind;
    EXPECT_EQ(sink.tokens(), 0);
    EXPECT_TRUE(sink.ids().empty());
    EXPECT_TRUE(sink.problems().empty());
  }
}

TEST(Sink, RefusesWhatItCannotFeed) {
  EXPECT_TRUE(mentions(token_sink(2, {7, 7}).problems(), "7 occurs twice"));
  EXPECT_TRUE(mentions(token_sink(1, {7, 8}).problems(), "lists 2 ids but count is 1"));
  EXPECT_TRUE(mentions(token_sink(1, {-1}).problems(), "-1 is not a token id"));
  EXPECT_TRUE(mentions(token_sink(5).problems(), "count 5 is not between 1 and 4"));
  EXPECT_TRUE(mentions(token_sink(0).problems(), "count 0 is not between 1 and 4"));
}

}  // namespace
}  // namespace basin
