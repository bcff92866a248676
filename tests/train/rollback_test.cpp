#include <ATen/ATen.h>
#include <gmock/gmock.h>

#include <numeric>
#include <set>
#include <thread>

#include "tests/support/logged.h"
#include "tests/train/alone_comm.h"
#include "tests/train/train_fixture.h"
#include "train/trainer.h"

namespace basin {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

/// A single process whose agreed loss is tenfold at chosen calls (one a step).
class JumpingComm : public AloneComm {
 public:
  explicit JumpingComm(std::set<int64_t> jumps)
      : AloneComm([this](const at::Tensor& tensor) {
          const bool of_step = tensor.scalar_type() == at::kDouble && tensor.numel() == 6;
          if (of_step && jumps_.contains(++steps_)) tensor[0].mul_(10);
        }),
        jumps_(std::move(jumps)) {}

 private:
  std::set<int64_t> jumps_;
  int64_t steps_ = 0;
};

class RollbackTest : public TrainTest {
 protected:
  RunConfig config(const std::string& name) const {
    RunConfig config = tiny_config(name);
    config.train.checkpoint.every = 10;
    config.train.rollback = {.factor = 3, .window = 5, .batches = 2, .max = 2};
    return config;
  }
};

TEST_F(RollbackTest, JumpGoesBackAndLeavesItsBatchesOut) {
  JumpingComm comm({23});
  Trainer trainer(config("a"), comm, at::kCPU);
  EXPECT_EQ(trainer.run(), Trainer::Outcome::kFinished);
  EXPECT_THAT(trainer.state().left_out, ElementsAre(21, 22));  // step 23 read batch 22
  EXPECT_EQ(trainer.state().rollbacks, 1);
  EXPECT_EQ(trainer.state().step, 50);
  EXPECT_EQ(trainer.state().batch, 52);
  EXPECT_EQ(trainer.optimizer().count(), 50);
  std::vector<int64_t> all(50);
  std::iota(all.begin(), all.end(), 1);
  EXPECT_EQ(row_steps("a"), all);
  EXPECT_THAT(read_state(root_ / "a/final").state.left_out, ElementsAre(21, 22));
}

TEST_F(RollbackTest, SecondJumpKeepsTheFirstOnesBatchesOut) {
  JumpingComm comm({23, 26});  // the second is step 23 again, which now reads batch 24
  Trainer trainer(config("a"), comm, at::kCPU);
  trainer.run();
  EXPECT_THAT(trainer.state().left_out, ElementsAre(21, 22, 23, 24));
  EXPECT_EQ(trainer.state().batch, 54);
}

TEST_F(RollbackTest, RunsOnBitForBitAfterAResume) {
  JumpingComm whole_comm({23});
  RunConfig run = config("whole");
  Trainer whole(run, whole_comm, at::kCPU);
  whole.run();
  JumpingComm first({23});
  run.run.dir = (root_ / "parts").string();
  run.train.schedule = config("x").train.schedule;
  {
    RunConfig part = run;
    Trainer trainer(part, first, at::kCPU);
    trainer.run();
  }
  std::filesystem::remove_all(step_directory(run.run.dir, 50));  // as if killed before the end
  std::filesystem::remove(root_ / "parts/final");
  const auto comm = make_single_comm();
  Trainer again(run, *comm, at::kCPU);
  EXPECT_THAT(again.state().left_out, ElementsAre(21, 22));
  again.run();
  EXPECT_TRUE(at::equal(whole.optimizer().master(), again.optimizer().master()));
}

TEST_F(RollbackTest, EndsAfterTooManyAndWithoutACheckpoint) {
  {
    JumpingComm comm({23, 30, 40});
    Trainer trainer(config("a"), comm, at::kCPU);
    try {
      trainer.run();
      FAIL() << "went on";
    } catch (const std::runtime_error& error) {
      EXPECT_THAT(error.what(), HasSubstr("after 2 rollbacks (train.rollback.max)"));
    }
  }
  JumpingComm comm({7});
  Trainer trainer(config("b"), comm, at::kCPU);
  try {
    trainer.run();
    FAIL() << "went on";
  } catch (const std::runtime_error& error) {
    EXPECT_THAT(error.what(), HasSubstr("before the first checkpoint"));
  }
}

TEST_F(RollbackTest, ALogThatCannotBeWrittenIsCutBackLater) {
  RunConfig run = config("a");
  run.train.checkpoint.asynchronous = false;
  const auto log = root_ / "a/metrics.jsonl", hidden = root_ / "a/hidden";
  int64_t calls = 0;  // one a step
  AloneComm comm([&](const at::Tensor& tensor) {
    if (tensor.scalar_type() != at::kDouble || tensor.numel() != 6) return;
    ++calls;
    if (calls == 23) {
      std::filesystem::rename(log, hidden);
      std::filesystem::create_directory(log);
    }
    if (calls == 25) tensor[0].mul_(10);
    if (calls == 28) {
      std::filesystem::remove(log);
      std::filesystem::rename(hidden, log);
    }
  });
  Trainer trainer(run, comm, at::kCPU);
  EXPECT_EQ(trainer.run(), Trainer::Outcome::kFinished);
  EXPECT_EQ(trainer.state().rollbacks, 1);
  std::vector<int64_t> all(50);
  std::iota(all.begin(), all.end(), 1);
  EXPECT_EQ(row_steps("a"), all);
}

TEST_F(RollbackTest, AShorterWindowHoldsFromTheResumeOn) {
  RunConfig run = config("a");
  run.train.schedule = {.kind = ScheduleKind::kConstant, .warmup_steps = 0};
  run.train.steps = 20;
  run.train.rollback = {.factor = 100, .window = 15};
  const auto comm = make_single_comm();
  {
    Trainer trainer(run, *comm, at::kCPU);
    trainer.run();
    EXPECT_EQ(trainer.state().losses.size(), 15u);
  }
  run.train.rollback.window = 5;
  {
    Trainer trainer(run, *comm, at::kCPU);
    EXPECT_EQ(trainer.state().losses.size(), 5u);
    EXPECT_EQ(trainer.state().losses.back(),
              read_state(root_ / "a/final").state.losses.back());
  }
  run.train.rollback.factor = 0;
  EXPECT_TRUE(Trainer(run, *comm, at::kCPU).state().losses.empty()) << "they would be too old";
}

TEST_F(RollbackTest, WithoutAFactorNothingIsRolledBack) {
  RunConfig run = config("a");
  run.train.rollback.factor = 0;
  JumpingComm comm({23});
  Trainer trainer(run, comm, at::kCPU);
  trainer.run();
  EXPECT_EQ(trainer.state().rollbacks, 0);
  EXPECT_TRUE(trainer.state().losses.empty());
}

/// Where metrics.jsonl should be lies a directory: neither rows nor checkpoints can be written.
class UnwritableTest : public TrainTest {
 protected:
  RunConfig config() const {
    RunConfig config = tiny_config("a");
    config.train.steps = 30;
    config.train.checkpoint.every = 10;
    config.train.checkpoint.retry_after = "0.1s";
    return config;
  }
  void block() { std::filesystem::create_directories(root_ / "a/metrics.jsonl"); }
  void unblock() { std::filesystem::remove(root_ / "a/metrics.jsonl"); }
};

TEST_F(UnwritableTest, TrainingGoesOnAndLosesNothing) {
  const auto comm = make_single_comm();
  Trainer trainer(config(), *comm, at::kCPU);
  block();
  std::thread mender([this] {
    std::this_thread::sleep_for(std::chrono::milliseconds(700));
    unblock();
  });
  EXPECT_EQ(trainer.run(), Trainer::Outcome::kFinished);
  mender.join();
  EXPECT_EQ(find_newest_intact(root_ / "a"), 30);
  std::vector<int64_t> all(30);
  std::iota(all.begin(), all.end(), 1);
  EXPECT_EQ(row_steps("a"), all);
  for (const auto& entry : std::filesystem::directory_iterator(root_ / "a"))
    EXPECT_EQ(entry.path().string().find(".tmp."), std::string::npos) << entry.path();
}

TEST_F(UnwritableTest, AFurtherAttemptIsValidatedWhereTheBestAreKept) {
  RunConfig run = config();
  run.train.checkpoint.retry_after = "0.05s";
  run.train.checkpoint.asynchronous = false;
  run.train.checkpoint.keep_best = 1;
  run.train.validation.every = 0;
  int64_t calls = 0;  // one a step
  AloneComm comm([&](const at::Tensor& tensor) {
    if (tensor.scalar_type() != at::kDouble || tensor.numel() != 6) return;
    ++calls;
    if (calls == 1) block();
    if (calls == 14) unblock();
    if (calls == 14) std::this_thread::sleep_for(std::chrono::milliseconds(60));
  });
  Trainer(run, comm, at::kCPU).run();
  std::set<int64_t> measured;
  for (const nlohmann::json& row : rows("a"))
    if (!row["val_loss"].is_null()) measured.insert(row["step"].get<int64_t>());
  EXPECT_THAT(measured, testing::Contains(testing::AllOf(testing::Gt(10), testing::Lt(20))))
      << testing::PrintToString(measured);
}

TEST_F(UnwritableTest, LastCheckpointThatCannotBeWrittenIsAnError) {
  const auto comm = make_single_comm();
  RunConfig run = config();
  run.train.checkpoint.retry_after = "0.01s";
  Trainer trainer(run, *comm, at::kCPU);
  block();
  const std::string said = logged_by([&] {
    try {
      trainer.run();
      ADD_FAILURE() << "was called finished";
    } catch (const std::runtime_error& error) {
      EXPECT_THAT(error.what(), HasSubstr("the last checkpoint, "));
      EXPECT_THAT(error.what(), HasSubstr("metrics.jsonl"));
    }
  });
  EXPECT_THAT(said, HasSubstr("the run does not end without it, next attempt in 0.0 s; make room"));
  EXPECT_THAT(said, HasSubstr("that was the last attempt; make room"));
  const size_t end = said.find("CHECKPOINT OF STEP 30");
  EXPECT_EQ(said.find("training goes on", end), said.npos) << said;
  EXPECT_EQ(find_newest_intact(root_ / "a"), std::nullopt);
}

}  // namespace
}  // namespace basin
