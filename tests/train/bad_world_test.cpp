// Ranks that never come, cannot meet, differ, die or hang: the real program says which, once, and
// nobody is left.
#include <fstream>

#include "tests/train/program_fixture.h"

namespace basin {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

class BadWorldTest : public ProgramTest {
 protected:
  RunConfig impatient_config(const std::string& name, const std::string& timeout = "2s") const {
    RunConfig config = endless_config(name);
    config.train.distributed.timeout = timeout;
    return config;
  }
};

TEST_F(BadWorldTest, APortThatSomethingElseUses) {
  const LoopbackPort taken(1);
  const RunConfig config = impatient_config("run");
  const auto zero = start("zero", config, as_rank(0, 2, taken.port()));
  const auto one = start("one", config, as_rank(1, 2, taken.port()));
  EXPECT_EQ(zero->wait(), 1);
  EXPECT_THAT(
      errors_in(zero->said()),
      ElementsAre(AllOf(HasSubstr("[rank 0] the ranks cannot meet at port " +
                                  std::to_string(taken.port()) + ": Address already in use"),
                        HasSubstr("MASTER_PORT"))));
  EXPECT_EQ(one->wait(), 1);
  EXPECT_THAT(errors_in(one->said()),
              ElementsAre(AllOf(HasSubstr("[rank 1] the ranks cannot meet at 127.0.0.1:" +
                                          std::to_string(taken.port())),
                                HasSubstr("something else uses that place"))));
}

TEST_F(BadWorldTest, NobodyListens) {
  const auto one = start("one", impatient_config("run"), as_rank(1, 2, unused_port()));
  EXPECT_EQ(one->wait(std::chrono::seconds(10)), 1);
  EXPECT_THAT(errors_in(one->said()),
              ElementsAre(AllOf(HasSubstr("[rank 1] cannot reach rank 0 at 127.0.0.1:"),
                                HasSubstr("within 2 s: Connection refused"))));
}

TEST_F(BadWorldTest, NobodyAnswers) {
  LoopbackPort hole(0);
  hole.swallow();
  const auto one = start("one", impatient_config("run"), as_rank(1, 2, hole.port()));
  EXPECT_EQ(one->wait(std::chrono::seconds(10)), 1);
  EXPECT_THAT(errors_in(one->said()), ElementsAre(HasSubstr("within 2 s: no answer")));
}

TEST_F(BadWorldTest, ARankThatDoesNotCome) {
  const uint16_t port = unused_port();
  const RunConfig config = impatient_config("run");
  const auto zero = start("zero", config, as_rank(0, 4, port));
  const auto two = start("two", config, as_rank(2, 4, port));
  EXPECT_EQ(zero->wait(std::chrono::seconds(15)), 1);
  EXPECT_THAT(errors_in(zero->said()),
              ElementsAre(AllOf(HasSubstr("[rank 0] 2 of 4 ranks came to 127.0.0.1"),
                                HasSubstr("missing: rank 1, 3;"))));
  EXPECT_EQ(two->wait(std::chrono::seconds(5)), 1);
  EXPECT_THAT(errors_in(two->said()), IsEmpty());
  EXPECT_FALSE(std::filesystem::exists(config.run.dir));
}

TEST_F(BadWorldTest, ConfigurationsThatDiffer) {
  const uint16_t port = unused_port();
  RunConfig config = impatient_config("run", "20s");
  const auto zero = start("zero", config, as_rank(0, 2, port));
  config.train.optimizer.lr = 0.5;
  config.model.hidden_size = 64;
  const auto one = start("one", config, as_rank(1, 2, port));
  EXPECT_EQ(zero->wait(), 2);
  EXPECT_THAT(errors_in(zero->said()),
              ElementsAre(AllOf(
                  HasSubstr("rank 1 has another configuration than rank 0: model.hidden_size: 32 "
                            "on rank 0, 64 on rank 1"),
                  HasSubstr("train.optimizer.lr: 0.01 on rank 0, 0.5 on rank 1;"))));
  EXPECT_EQ(one->wait(), 2);
  EXPECT_THAT(errors_in(one->said()), IsEmpty());
  EXPECT_FALSE(std::filesystem::exists(config.run.dir));
}

TEST_F(BadWorldTest, AnotherBuild) {
  const std::filesystem::path other = root_ / "basin";
  std::filesystem::copy_file(BASIN_PROGRAM, other);
  std::ofstream(other, std::ios::app) << "another";
  const uint16_t port = unused_port();
  const RunConfig config = impatient_config("run", "20s");
  const auto zero = start("zero", config, as_rank(0, 2, port));
  Words one_words = as_rank(1, 2, port);
  one_words.insert(one_words.end(), {other.string(), "train", (root_ / "zero.yaml").string()});
  Program one(one_words, root_ / "one.said");
  EXPECT_EQ(zero->wait(), 2);
  EXPECT_THAT(errors_in(zero->said()),
              ElementsAre(HasSubstr("rank 1 runs another build of this program than rank 0")));
  EXPECT_EQ(one.wait(), 2);
  EXPECT_THAT(errors_in(one.said()), IsEmpty());
}

// The same relative run.dir in two working directories, as on machines that share no file system.
TEST_F(BadWorldTest, ARunDirectoryOfEachRanksOwn) {
  RunConfig config = impatient_config("run", "20s");
  config.run.dir = "run";
  const uint16_t port = unused_port();
  const auto rank = [&](int64_t number) {
    const std::filesystem::path machine = root_ / ("machine" + std::to_string(number));
    std::filesystem::create_directories(machine);
    Words words = as_rank(number, 2, port);
    words.insert(words.begin() + 1, "--chdir=" + machine.string());
    return start(std::to_string(number), config, words);
  };
  const auto zero = rank(0), one = rank(1);
  EXPECT_EQ(zero->wait(), 2);
  EXPECT_THAT(errors_in(zero->said()),
              ElementsAre(AllOf(HasSubstr("[rank 0] run.dir run must lie on a file system that all "
                                          "ranks see: rank 1 does not see"),
                                HasSubstr("from / on"))));
  EXPECT_EQ(one->wait(), 2);
  EXPECT_THAT(errors_in(one->said()), IsEmpty());
  EXPECT_FALSE(std::filesystem::exists(root_ / "machine0/run/.nonce"));
}

// One of three ranks of --nproc is ended in the middle.
TEST_F(BadWorldTest, ARankThatDies) {
  RunConfig config = impatient_config("run", "20s");
  config.train.global_batch = 12;
  const auto launcher = start("launcher", config, {}, {"--nproc", "3"});
  ASSERT_TRUE(wait_for_steps(config, *launcher)) << launcher->said();
  const std::vector<pid_t> ranks = launcher->children();
  ASSERT_EQ(ranks.size(), 3u);
  kill(ranks[1], SIGKILL);
  EXPECT_EQ(launcher->wait(std::chrono::seconds(15)), 128 + SIGKILL);
  EXPECT_THAT(errors_in(launcher->said()),
              ElementsAre(HasSubstr("[rank 1] ended by signal 9 (Killed)")));
  for (const pid_t rank : ranks) EXPECT_NE(kill(rank, 0), 0) << "rank left behind";
}

TEST_F(BadWorldTest, ARankThatDiesIsNamedByTheOthers) {
  const uint16_t port = unused_port();
  RunConfig config = impatient_config("run", "20s");
  config.train.global_batch = 12;
  std::vector<std::unique_ptr<Program>> ranks;
  for (int64_t rank = 0; rank < 3; ++rank)
    ranks.push_back(start(std::to_string(rank), config, as_rank(rank, 3, port)));
  ASSERT_TRUE(wait_for_steps(config, *ranks[0])) << ranks[0]->said();
  kill(ranks[2]->pid(), SIGKILL);
  ranks[2]->wait();
  // Whichever notices it first: the other one may wait for that one, not for the dead rank.
  EXPECT_EQ(ranks[0]->wait(std::chrono::seconds(15)), 1);
  EXPECT_EQ(ranks[1]->wait(std::chrono::seconds(15)), 1);
  EXPECT_THAT(
      errors_in(ranks[0]->said() + ranks[1]->said()),
      ElementsAre(AllOf(HasSubstr("] rank 2 (process " + std::to_string(ranks[2]->pid()) + " on "),
                        HasSubstr(") has ended: "))));
}

TEST_F(BadWorldTest, ARankThatHangs) {
  const RunConfig config = impatient_config("run");
  const auto launcher = start("launcher", config, {}, {"--nproc", "2"});
  ASSERT_TRUE(wait_for_steps(config, *launcher)) << launcher->said();
  const std::vector<pid_t> ranks = launcher->children();
  ASSERT_EQ(ranks.size(), 2u);
  kill(ranks[1], SIGSTOP);
  EXPECT_EQ(launcher->wait(std::chrono::seconds(20)), 1);
  EXPECT_THAT(errors_in(launcher->said()),
              ElementsAre(AllOf(HasSubstr("[rank 0] rank 1 (process " + std::to_string(ranks[1])),
                                HasSubstr(" is stopped: "))));
  for (const pid_t rank : ranks) EXPECT_NE(kill(rank, 0), 0) << "rank left behind";
}

// The store stops with it.
TEST_F(BadWorldTest, Rank0Hangs) {
  const RunConfig config = impatient_config("run");
  const auto launcher = start("launcher", config, {}, {"--nproc", "2"});
  ASSERT_TRUE(wait_for_steps(config, *launcher)) << launcher->said();
  const std::vector<pid_t> ranks = launcher->children();
  ASSERT_EQ(ranks.size(), 2u);
  kill(ranks[0], SIGSTOP);
  EXPECT_EQ(launcher->wait(std::chrono::seconds(25)), 1);
  EXPECT_THAT(errors_in(launcher->said()),
              ElementsAre(AllOf(HasSubstr("[rank 1] rank 0 (process " + std::to_string(ranks[0])),
                                HasSubstr(" is stopped: "))));
}

TEST_F(BadWorldTest, WhatAllRanksRefuseIsSaidOnce) {
  RunConfig config = tiny_config("run");
  config.train.global_batch = 9;
  config.train.micro_batch = 1;
  const auto launcher = start("launcher", config, {}, {"--nproc", "2"});
  EXPECT_EQ(launcher->wait(), 2);
  EXPECT_THAT(errors_in(launcher->said()), ElementsAre(HasSubstr("[rank 0] ")));
  const auto by_hand = [&](const RunConfig& refused) {
    const uint16_t port = unused_port();
    // The same file for both: its name is part of the message.
    const auto zero = start("both", refused, as_rank(0, 2, port));
    const auto one = std::make_unique<Program>(
        [&] {
          Words words = as_rank(1, 2, port);
          words.insert(words.end(), {BASIN_PROGRAM, "train", (root_ / "both.yaml").string()});
          return words;
        }(),
        root_ / "one.said");
    EXPECT_EQ(zero->wait(), 2);
    EXPECT_EQ(one->wait(), 2);
    return errors_in(zero->said() + one->said());
  };
  EXPECT_THAT(by_hand(config), ElementsAre(HasSubstr("[rank 0] ")));
  config.train.micro_batch = 4;  // refused before the ranks meet
  EXPECT_THAT(by_hand(config), ElementsAre(HasSubstr("micro_batch 4 does not divide")));
}

// In a file instead of at an address; it is gone afterwards, and one that is not is refused.
TEST_F(BadWorldTest, AFileOfAnotherRun) {
  RunConfig config = endless_config("run");
  const std::string file = (root_ / "meeting").string();
  const auto rank = [&](const std::string& name, int64_t number) {
    Words words = as_rank(number, 2, 1);
    words.erase(words.begin() + 3, words.end());  // no address
    return start(name + std::to_string(number), config, words, {"--rdzv-file", file});
  };
  const auto zero = rank("first", 0), one = rank("first", 1);
  ASSERT_TRUE(wait_for_steps(config, *zero)) << zero->said();
  const auto late = rank("second", 1);
  EXPECT_EQ(late->wait(), 1);
  EXPECT_THAT(errors_in(late->said()),
              ElementsAre(AllOf(HasSubstr("[rank 1] rank 1 has come to " + file + " already"),
                                HasSubstr("left over from another run; remove it"))));
  kill(zero->pid(), SIGTERM);
  EXPECT_EQ(zero->wait(), 3) << zero->said();
  EXPECT_EQ(one->wait(), 3);
  EXPECT_FALSE(std::filesystem::exists(file));

  config.train.global_batch = 9;
  const auto odd0 = rank("odd", 0), odd1 = rank("odd", 1);
  EXPECT_EQ(odd0->wait(), 2);
  EXPECT_EQ(odd1->wait(), 2);
  EXPECT_FALSE(std::filesystem::exists(file)) << "left behind by a run that failed";
}

}  // namespace
}  // namespace basin
