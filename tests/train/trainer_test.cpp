#include "train/trainer.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>
#include <gmock/gmock.h>

#include <cmath>
#include <functional>
#include <limits>
#include <thread>

#include "infer/attention_maps.h"
#include "tests/train/alone_comm.h"
#include "tests/train/train_fixture.h"

namespace basin {
namespace {

class TrainerTest : public TrainTest {};

/// A single process whose gradient turns bad at chosen reductions of the large bucket.
class PoisoningComm : public AloneComm {
 public:
  explicit PoisoningComm(std::function<bool(int64_t)> poisons)
      : AloneComm([this](const at::Tensor& tensor) {
          if (tensor.numel() > 1000 && poisons_(calls_++))
            tensor[3].fill_(std::numeric_limits<float>::infinity());
        }),
        poisons_(std::move(poisons)) {}

 private:
  std::function<bool(int64_t)> poisons_;
  int64_t calls_ = 0;
};

TEST_F(TrainerTest, LossBeginsAtLnVAndFallsInBothPrecisions) {
  for (const Precision precision : {Precision::kFp32, Precision::kBf16}) {
    const std::string name(enum_name(precision));
    const auto comm = make_single_comm();
    Trainer trainer(tiny_config(name, precision), *comm, at::kCPU);
    EXPECT_EQ(trainer.run(), Trainer::Outcome::kFinished);
    const auto rows = this->rows(name);
    ASSERT_EQ(rows.size(), 50u);
    EXPECT_NEAR(rows[0]["loss"].get<double>(), std::log(kTestVocabulary), 0.2);
    EXPECT_LT(rows[49]["loss"].get<double>(), 2.5);
    EXPECT_LT(rows[49]["val_loss"].get<double>(), 2.6);
    EXPECT_EQ(rows[49]["tokens"], 50 * 8 * 16);  // sinks are not counted
    EXPECT_TRUE(rows[23]["val_loss"].is_null());
    EXPECT_TRUE(std::filesystem::exists(root_ / name / "final" / "model.safetensors"));
  }
}

TEST_F(TrainerTest, MicroBatchesAddUpToTheGlobalBatch) {
  const auto comm = make_single_comm();
  for (const Precision precision : {Precision::kFp32, Precision::kBf16}) {
    std::vector<StepResult> results[2];
    for (const int64_t micro_batch : {8, 2}) {
      const std::string name(enum_name(precision));
      RunConfig config = tiny_config(name + std::to_string(micro_batch), precision);
      config.train.micro_batch = micro_batch;
      Trainer trainer(config, *comm, at::kCPU);
      for (int step = 0; step < 10; ++step)
        results[micro_batch == 2].push_back(trainer.train_step());
    }
    const bool exact = precision == Precision::kFp32;
    for (int step = 0; step < 10; ++step) {
      const StepResult &whole = results[0][step], &parts = results[1][step];
      EXPECT_NEAR(whole.loss, parts.loss, (exact ? 1e-5 : 1e-2) * whole.loss) << step;
      EXPECT_NEAR(whole.grad_norm, parts.grad_norm, (exact ? 1e-3 : 5e-2) * whole.grad_norm)
          << step;
    }
  }
}

TEST_F(TrainerTest, RecomputedActivationsTakeTheSameSteps) {
  const auto comm = make_single_comm();
  for (const Precision precision : {Precision::kFp32, Precision::kBf16}) {
    RunConfig config = tiny_config("kept", precision);
    Trainer kept(config, *comm, at::kCPU);
    config.run.dir += "-recomputed";
    config.train.recompute_activations = true;
    Trainer recomputed(config, *comm, at::kCPU);
    for (int step = 0; step < 5; ++step)
      EXPECT_EQ(kept.train_step().loss, recomputed.train_step().loss) << step;
    EXPECT_TRUE(at::equal(kept.optimizer().master(), recomputed.optimizer().master()));
  }
}

TEST_F(TrainerTest, ClippingBoundsWhatReachesTheOptimizer) {
  // With m the first moment after one step, m / (1 - beta1) is the gradient that AdamW saw.
  const auto comm = make_single_comm();
  for (const double clip : {0.01, 1e3, 0.0}) {  // 0: none
    RunConfig config = tiny_config("clip" + std::to_string(clip));
    config.train.optimizer.clip = clip;
    Trainer trainer(config, *comm, at::kCPU);
    const StepResult result = trainer.train_step();
    ASSERT_GT(result.grad_norm, 0.02);
    const double seen = trainer.optimizer().m().norm().item<double>() / 0.1;
    EXPECT_NEAR(seen, clip == 0.01 ? clip : result.grad_norm, 1e-3 * seen) << clip;
  }
}

TEST_F(TrainerTest, NonFiniteStepIsSkippedAndCounted) {
  for (const Precision precision : {Precision::kFp32, Precision::kBf16}) {
    PoisoningComm comm([](int64_t call) { return call == 2; });
    Trainer trainer(tiny_config(std::string("bad-") + std::string(enum_name(precision)), precision),
                    comm,
                    at::kCPU);
    trainer.train_step();
    trainer.train_step();
    const at::Tensor before = trainer.optimizer().master().clone(),
                     m = trainer.optimizer().m().clone();
    const StepResult bad = trainer.train_step();
    EXPECT_TRUE(bad.skipped);
    EXPECT_TRUE(at::equal(trainer.optimizer().master(), before));
    EXPECT_TRUE(at::equal(trainer.optimizer().m(), m));
    EXPECT_EQ(trainer.optimizer().count(), 2);
    EXPECT_EQ(trainer.state().step, 3);  // its batch and its place in the schedule are consumed
    EXPECT_EQ(trainer.state().batch, 3);
    EXPECT_EQ(trainer.state().skipped, 1);
    EXPECT_FALSE(trainer.train_step().skipped);
    EXPECT_EQ(trainer.state().skipped_in_row, 0);
    EXPECT_EQ(trainer.optimizer().count(), 3);
  }
}

TEST_F(TrainerTest, TooManySkippedInARowStopWithTheLastCheckpointIntact) {
  RunConfig config = tiny_config("diverged");
  config.train.max_skipped = 3;
  config.train.checkpoint.every = 5;
  PoisoningComm comm([](int64_t call) { return call >= 7 || call == 2; });
  Trainer trainer(config, comm, at::kCPU);
  EXPECT_THROW(trainer.run(), std::runtime_error);
  EXPECT_EQ(trainer.state().step, 10);
  EXPECT_EQ(find_newest_intact(config.run.dir), 5);
  const auto rows = this->rows("diverged");
  EXPECT_TRUE(rows[2]["loss"].is_null() || rows[2]["grad_norm"].is_null());
  EXPECT_EQ(rows[3]["skipped"], 1);
}

TEST_F(TrainerTest, NothingFromBeforeAStreakOfSkippedStepsIsDropped) {
  RunConfig config = tiny_config("a");
  config.train.steps = 200;
  config.train.checkpoint = {.every = 5, .keep_last = 2};
  config.train.validation.every = 0;
  PoisoningComm to_the_end([](int64_t call) { return call >= 12; });
  EXPECT_THROW(Trainer(config, to_the_end, at::kCPU).run(), std::runtime_error);
  EXPECT_THAT(list_steps(config.run.dir), testing::ElementsAre(30, 25, 20, 15, 10, 5));

  config = tiny_config("b");
  config.train.checkpoint = {.every = 5, .keep_last = 2};
  PoisoningComm for_a_while([](int64_t call) { return call >= 12 && call < 28; });
  Trainer(config, for_a_while, at::kCPU).run();
  EXPECT_THAT(list_steps(config.run.dir), testing::ElementsAre(50, 45));
}

TEST_F(TrainerTest, RefusesAMicroBatchThatDoesNotDivide) {
  RunConfig config = tiny_config("micro");
  config.train.micro_batch = 3;
  const auto comm = make_single_comm();
  EXPECT_THROW(Trainer(config, *comm, at::kCPU), std::invalid_argument);
}

TEST_F(TrainerTest, ChosenMicroBatchDividesTheGlobalBatch) {
  RunConfig config = tiny_config("chosen");
  config.train.micro_batch = 0;
  config.train.global_batch = 1000;  // 17 positions each: 481 would fit, 250 divides
  const auto comm = make_single_comm();
  EXPECT_EQ(Trainer(config, *comm, at::kCPU).micro_batch(), 250);
}

TEST_F(TrainerTest, StopsOnWallClockAndGoesOn) {
  RunConfig config = tiny_config("clock");
  config.train.stop_after = "0.000001s";
  const auto comm = make_single_comm();
  {
    Trainer trainer(config, *comm, at::kCPU);
    EXPECT_EQ(trainer.run(), Trainer::Outcome::kStopped);
    EXPECT_EQ(trainer.state().step, 1);
  }
  EXPECT_EQ(find_newest_intact(config.run.dir), 1);
  config.train.stop_after = "";
  Trainer trainer(config, *comm, at::kCPU);
  EXPECT_EQ(trainer.run(), Trainer::Outcome::kFinished);
}

TEST_F(TrainerTest, WallClockBeginsWithTheProgram) {
  RunConfig config = tiny_config("clock");
  config.train.stop_after = "1s";  // of which the time before the first step is a part
  std::this_thread::sleep_until(kProcessStart + std::chrono::milliseconds(1001));
  const auto comm = make_single_comm();
  EXPECT_EQ(Trainer(config, *comm, at::kCPU).run(), Trainer::Outcome::kStopped);
}

TEST_F(TrainerTest, RowsComeWhenTheyAreDueWithWhatIsMeasuredThen) {
  RunConfig config = tiny_config("rows");
  config.data.sequence_length = 64;
  config.train.steps = 48;
  config.train.log_every = 20;
  config.train.validation.every = 15;
  config.train.sink_metric_every = 12;
  const auto comm = make_single_comm();
  Trainer trainer(config, *comm, at::kCPU);
  trainer.run();
  EXPECT_THAT(row_steps("rows"), testing::ElementsAre(12, 15, 20, 24, 30, 36, 40, 45, 48));
  for (const nlohmann::json& row : rows("rows")) {
    const int64_t step = row["step"];
    EXPECT_EQ(row["val_loss"].is_null(), step % 15 != 0 && step != 48) << step;
    EXPECT_EQ(row["sink_metric"].is_null(), step % 12 != 0) << step;
  }
  const Validation validation(config.data, config.train.validation.tokens);
  const SinkMetric metric =
      measure_sink(trainer.model(), validation.samples(0, validation.num_samples()));
  EXPECT_EQ(rows("rows").back()["sink_metric"], metric.sink_first);
}

TEST_F(TrainerTest, ValidationIsTheMeanOverFixedSamples) {
  const RunConfig config = tiny_config("validation");
  const auto comm = make_single_comm();
  Trainer trainer(config, *comm, at::kCPU);
  const Validation validation(config.data, 16 * 10);
  ASSERT_EQ(validation.num_samples(), 10);
  const c10::NoGradGuard no_grad;
  const double expected = trainer.model().loss(validation.samples(0, 10)).item<double>();
  EXPECT_NEAR(validation.loss(trainer.model(), *comm, 4), expected, 1e-5);  // 4 + 4 + 2 rows
}

}  // namespace
}  // namespace basin
