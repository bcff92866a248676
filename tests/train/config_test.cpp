#include "train/config.h"

#include <gmock/gmock.h>

#include "configs/files.h"
#include "configs/yaml_config.h"
#include "model/cost.h"
#include "tests/train/train_fixture.h"

namespace basin {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

template <class Body>
std::string message_of(Body&& body) {
  try {
    body();
  } catch (const std::exception& error) {
    return error.what();
  }
  return "no error";
}

class RunConfigTest : public TrainTest {};

TEST(ShippedConfigs, ParseAndNameTheirRunDirectory) {
  for (const char* stem : {"demo", "sink-effect", "pythia-160m", "llama-60m"}) {
    const RunConfig config =
        read_run_config(std::string(BASIN_SOURCE_DIR "/configs/") + stem + ".yaml", {});
    EXPECT_EQ(config.run.dir, std::string("runs/") + stem + "-token");
    EXPECT_EQ(config.train.precision, Precision::kBf16);
  }
}

TEST(Readme, HoldsTheReferenceOfEveryKey) {
  EXPECT_THAT(read_file(BASIN_SOURCE_DIR "/README.md"), HasSubstr(reference_markdown<RunConfig>()))
      << "paste what `basin train --reference` prints";
}

TEST(ShippedConfigs, AblationHasItsOwnDirectoryAndOtherwiseTheSameKeys) {
  const std::string path = BASIN_SOURCE_DIR "/configs/demo.yaml";
  const RunConfig sink = read_run_config(path, {}),
                  vanilla = read_run_config(path, {"model.sink.kind=none"});
  EXPECT_EQ(vanilla.run.dir, "runs/demo-none");
  std::vector<std::string> keys;
  for (const Difference& d : differences(sink, vanilla)) keys.push_back(d.key);
  EXPECT_THAT(keys, ElementsAre("run.dir", "model.sink.kind"));
}

TEST(ShippedConfigs, PythiaIsThePapersModelAndRecipe) {
  const RunConfig config = read_run_config(BASIN_SOURCE_DIR "/configs/pythia-160m.yaml", {});
  EXPECT_EQ(count_parameters(config.model), 162322944);
  EXPECT_EQ(config.train.steps, 143000);
  EXPECT_EQ(config.train.schedule.warmup_steps, 1430);
}

TEST_F(RunConfigTest, ReportsAllProblemsAtOnce) {
  const std::string text =
      "data: {train: x}\n"
      "train:\n  steps: 10\n  stop_after: soon\n  optimizer: {betas: [0.9]}\n  schedule: {kind: "
      "cosine, warmup_steps: 20, decay_steps: 3}\n";
  const std::string message = message_of([&] { config_from_text<RunConfig>(text, "bad.yaml"); });
  EXPECT_THAT(message, HasSubstr("betas"));
  EXPECT_THAT(message, HasSubstr("warmup_steps 20"));
  EXPECT_THAT(message, HasSubstr("decay_steps 3"));
  EXPECT_THAT(message, HasSubstr("\"soon\" is no duration"));
}

TEST_F(RunConfigTest, RefusesWhatWouldNotDoWhatItSays) {
  const auto said = [](const std::string& train) {
    return message_of([&] {
      config_from_text<RunConfig>("data: {train: x}\ntrain: {" + train + "}\n", "bad.yaml");
    });
  };
  EXPECT_THAT(said("schedule: {decay_shape: linear}"),
              HasSubstr("decay_shape linear has no meaning for kind cosine"));
  EXPECT_EQ(said("schedule: {kind: wsd, decay_steps: 9, decay_shape: linear}"), "no error");
  EXPECT_THAT(said("checkpoint: {every: 300, keep_every: 1000}"),
              HasSubstr("keep_every 1000 is no multiple of train.checkpoint.every 300"));
  EXPECT_EQ(said("checkpoint: {every: 250, keep_every: 1000}"), "no error");
  EXPECT_EQ(said("checkpoint: {every: 0, keep_every: 1000}"), "no error");
  for (const char* factor : {"0.5", "1"})
    EXPECT_THAT(said(std::string("rollback: {factor: ") + factor + "}"),
                HasSubstr("would take ordinary steps for jumps"));
  EXPECT_EQ(said("rollback: {factor: 1.5}"), "no error");
  EXPECT_THAT(message_of([&] {
                config_from_text<RunConfig>(
                    "data: {train: x}\nmodel:\n  rope_scaling: {factor: 8}\n", "bad.yaml");
              }),
              testing::StartsWith("bad.yaml:3: model.rope_scaling: factor 8 has no meaning for "
                                  "rope_type default"));
}

TEST_F(RunConfigTest, ProblemsAreSaidWhereTheirKeyStands) {
  const std::string text = "data: {train: x}\ntrain:\n  steps: 10\n  stop_after: 90m\n";
  EXPECT_THAT(
      message_of([&] { config_from_text<RunConfig>(text, "a.yaml", {"train.stop_after=90"}); }),
      testing::StartsWith("--set train.stop_after=90: train.stop_after: \"90\" is no duration"));
  EXPECT_THAT(message_of([&] { config_from_text<RunConfig>(text + "  micro_batch: 5\n", "a.yaml"); }),
              testing::StartsWith("a.yaml:5: train.micro_batch 5 does not divide"));
}

TEST_F(RunConfigTest, ARunThatWasMovedIsNotBegunAgain) {
  const std::filesystem::path home = root_ / "moved", file = home / "config.yaml";
  std::filesystem::create_directories(home / "step-00000010");
  RunConfig config = tiny_config("before");
  write_file(file, to_yaml(config));
  EXPECT_THAT(message_of([&] { read_run_config(file, {}); }),
              HasSubstr("add --set run.dir=" + home.string() + " to go on"));
  EXPECT_EQ(read_run_config(file, {"run.dir=" + home.string()}).run.dir, home.string());
  config.run.dir = (root_ / "x" / ".." / "moved").string();
  write_file(file, to_yaml(config));
  EXPECT_EQ(message_of([&] { read_run_config(file, {}); }), "no error");
}

TEST_F(RunConfigTest, RefusesDirectoriesThatNobodyCanType) {
  EXPECT_THAT(message_of([] {
                config_from_text<RunConfig>("data: {train: x}\nrun: {dir: \"a\\0b\"}\n", "a.yaml");
              }),
              testing::StartsWith("a.yaml:2: run.dir holds a control character"));
}

TEST_F(RunConfigTest, RefusesSamplesLongerThanTheSlidingWindow) {
  const auto said = [](const std::string& window) {
    return message_of([&] {
      config_from_text<RunConfig>(
          "data: {train: x, sequence_length: 64}\nmodel: {model_type: "
          "mistral, sliding_window: " +
              window + "}\n",
          "bad.yaml");
    });
  };
  EXPECT_THAT(said("64"), HasSubstr("samples of 65 positions, more than model.sliding_window 64"));
  EXPECT_EQ(said("65"), "no error");
}

TEST_F(RunConfigTest, ReadsDurations) {
  TrainConfig config;
  EXPECT_EQ(duration_s(config.stop_after, "train.stop_after"), 0);
  config.stop_after = "90m";
  EXPECT_EQ(duration_s(config.stop_after, "train.stop_after"), 5400);
  config.stop_after = "1h30m5s";
  EXPECT_EQ(duration_s(config.stop_after, "train.stop_after"), 5405);
  config.stop_after = "90";
  EXPECT_THROW(duration_s(config.stop_after, "train.stop_after"), std::invalid_argument);
}

TEST_F(RunConfigTest, RanksWaitForEachOtherForAWhile) {
  EXPECT_EQ(duration_s(DistributedConfig{}.timeout, "train.distributed.timeout"), 600);
  const auto message = [](const std::string& timeout) {
    return message_of([&] {
      config_from_text<RunConfig>(
          "data: {train: x}\ntrain: {distributed: {timeout: " + timeout + "}}\n", "bad.yaml");
    });
  };
  EXPECT_THAT(message("0s"), HasSubstr("train.distributed.timeout: 0s is not between 1s and 30d"));
  EXPECT_THAT(message("\"\""), HasSubstr("is not between 1s and 30d"));
  EXPECT_THAT(message("ten"), HasSubstr("train.distributed.timeout: \"ten\" is no duration"));
  EXPECT_EQ(message("90s"), "no error");
}

TEST_F(RunConfigTest, RefusesDataThatDoesNotFitTheModel) {
  RunConfig config = tiny_config("a");
  EXPECT_NO_THROW(match_model_to_data(config));
  config.model.vocab_size = 32;
  EXPECT_THAT(message_of([&] { match_model_to_data(config); }),
              HasSubstr("holds the token id 63: set model.vocab_size to 64 or more"));
  config.model.vocab_size = 0;
  EXPECT_THAT(message_of([&] { match_model_to_data(config); }), HasSubstr("model.vocab_size is 0"));
  config = tiny_config("a");
  config.model.sink.token_ids = {kFirstTestToken};
  EXPECT_THAT(message_of([&] { match_model_to_data(config); }),
              HasSubstr("sink token id 6 occurs in"));
  config.model.sink.token_ids = {64};
  EXPECT_THAT(message_of([&] { match_model_to_data(config); }),
              HasSubstr("outside model.vocab_size 64"));
}

TEST_F(RunConfigTest, ResumeAcceptsWhatChangesNoWeightOfThePast) {
  const RunConfig before = tiny_config("a");
  RunConfig now = before;
  now.run.dir = "elsewhere";
  now.train.log_every = 7;
  now.train.checkpoint.keep_last = 9;
  now.train.stop_after = "1h";
  now.train.distributed.timeout = "1h";
  EXPECT_THAT(resume_obstacles(before, now, 20), IsEmpty());
  now.train.optimizer.lr = 0.5;
  EXPECT_THAT(resume_obstacles(before, now, 20),
              ElementsAre(HasSubstr("train.optimizer.lr: 0.01 before, 0.5 now")));
}

TEST_F(RunConfigTest, WhatChangesRoundingIsNamed) {
  const RunConfig before = tiny_config("a");
  RunConfig now = before;
  now.run.dir = "elsewhere";
  now.train.distributed.timeout = "1h";
  now.train.distributed.two_level = false;
  EXPECT_THAT(rounding_changes(before, now, 2), IsEmpty());
  now.train.micro_batch = 2;
  now.train.distributed.bucket_mib = 3;
  now.train.distributed.reduce_dtype = Precision::kBf16;
  now.train.distributed.shard_optimizer = true;
  EXPECT_THAT(
      rounding_changes(before, now, 2),
      testing::UnorderedElementsAre("train.micro_batch 4 before, 2 now",
                                    "train.distributed.bucket_mib 25.0 before, 3.0 now",
                                    "train.distributed.reduce_dtype fp32 before, bf16 now",
                                    "train.distributed.shard_optimizer false before, true now"));
  EXPECT_THAT(rounding_changes(before, now, 1), ElementsAre("train.micro_batch 4 before, 2 now"));
  EXPECT_THAT(resume_obstacles(before, now, 20), IsEmpty());
}

TEST_F(RunConfigTest, ResumeAcceptsMoreStepsOnlyWhenNoPastLearningRateChanges) {
  RunConfig before = tiny_config("a"), now = before;
  now.train.steps = 100;
  EXPECT_THAT(resume_obstacles(before, now, 20),
              ElementsAre(HasSubstr("train.steps: 50 before, 100 now")));
  before.train.schedule =
      now.train.schedule = {.kind = ScheduleKind::kWsd, .warmup_steps = 5, .decay_steps = 20};
  EXPECT_THAT(resume_obstacles(before, now, 30), IsEmpty());
  EXPECT_THAT(resume_obstacles(before, now, 31),
              ElementsAre(HasSubstr("learning rate of step 31")));
}

}  // namespace
}  // namespace basin
