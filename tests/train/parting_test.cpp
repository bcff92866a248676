// Who says what when ranks fail, with a store in memory and a thread for each rank.
#include "train/parting.h"

#include <gmock/gmock.h>
#include <unistd.h>

#include <map>
#include <mutex>
#include <thread>

namespace basin {
namespace {

using testing::StartsWith;

class MemoryStore : public KeyStore {
 public:
  void set(const std::string& key, const std::string& value) override {
    const std::lock_guard lock(mutex_);
    values_[key] = value;
  }
  std::string get(const std::string& key) override {
    const std::lock_guard lock(mutex_);
    return values_.at(key);
  }
  bool has(const std::vector<std::string>& keys) override {
    const std::lock_guard lock(mutex_);
    for (const std::string& key : keys)
      if (!values_.contains(key)) return false;
    return true;
  }

 private:
  std::mutex mutex_;
  std::map<std::string, std::string> values_;
};

/// What each rank with a failure ends with; the others stay silent.
std::map<int64_t, Failure> parted(const std::vector<RankInfo>& ranks,
                                  const std::map<int64_t, Failure>& failures) {
  MemoryStore store;
  std::map<int64_t, Failure> out = failures;
  std::vector<std::thread> threads;
  for (const auto& [rank, failure] : failures)
    threads.emplace_back([&store, &ranks, &result = out.at(rank), number = rank] {
      result = part(store, ranks, number, result);
    });
  for (std::thread& thread : threads) thread.join();
  return out;
}

/// This process, three times: ranks of one machine that all run.
std::vector<RankInfo> three() {
  return std::vector<RankInfo>(3, {"here", "machine", getpid(), ""});
}

Failure noticed(const std::string& message) {
  return {message, 1, /*secondary=*/true};
}

TEST(Parting, TheLowestThatNoticedNamesTheSilentOne) {
  std::vector<RankInfo> ranks = three();
  ranks[2] = {"node2", "elsewhere", 7, ""};
  const auto ends = parted(ranks, {{0, noticed("all-reduce failed")}, {1, noticed("too")}});
  EXPECT_EQ(ends.at(0).message, "rank 2 (process 7 on node2) does not answer: all-reduce failed");
  EXPECT_FALSE(ends.at(0).told);
  EXPECT_TRUE(ends.at(1).told);
}

TEST(Parting, OneKnownToHaveEndedIsNamedAlone) {
  std::vector<RankInfo> ranks = three();
  ranks[0] = {"node2", "elsewhere", 7, ""};
  ranks[2].pid = 0x7fffffff;  // beyond what Linux hands out
  const auto ends = parted(ranks, {{1, noticed("all-reduce failed")}});
  EXPECT_THAT(ends.at(1).message, StartsWith("rank 2 (process 2147483647 on here) has ended: "));
}

TEST(Parting, ACauseIsToldByTheRankThatHasIt) {
  const auto ends = parted(three(), {{0, noticed("")}, {1, {"no such file", 2}}, {2, noticed("")}});
  EXPECT_FALSE(ends.at(1).told);
  EXPECT_EQ(ends.at(1).message, "no such file");
  for (const int64_t rank : {0, 2}) {
    EXPECT_TRUE(ends.at(rank).told) << rank;
    EXPECT_EQ(ends.at(rank).status, 2) << rank;
  }
}

TEST(Parting, TheSameFailureIsToldOnceAndDifferentOnesEach) {
  const auto ends = parted(three(), {{0, {"a", 2}}, {1, {"a", 2}}, {2, {"b", 1}}});
  EXPECT_FALSE(ends.at(0).told);
  EXPECT_TRUE(ends.at(1).told);
  EXPECT_FALSE(ends.at(2).told);
}

TEST(Parting, WithNobodySilentTheMessageStaysAsItIs) {
  const auto ends = parted(three(), {{0, noticed("a")}, {1, noticed("b")}, {2, noticed("c")}});
  EXPECT_EQ(ends.at(0).message, "a");
  EXPECT_TRUE(ends.at(1).told);
  EXPECT_TRUE(ends.at(2).told);
}

}  // namespace
}  // namespace basin
