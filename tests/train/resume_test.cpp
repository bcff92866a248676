#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>

#include "configs/yaml_config.h"
#include "model/manifest.h"
#include "tests/support/logged.h"
#include "tests/train/train_fixture.h"
#include "train/trainer.h"

namespace basin {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

class ResumeTest : public TrainTest {
 protected:
  /// Runs to the end; returns master, m, v and the model's own weights.
  std::vector<at::Tensor> run(const RunConfig& config) {
    const auto comm = make_single_comm();
    Trainer trainer(config, *comm, at::kCPU);
    trainer.run();
    return {trainer.optimizer().master().clone(),
            trainer.optimizer().m().clone(),
            trainer.optimizer().v().clone(),
            trainer.model().flat().detach().clone()};
  }
  static void damage(const std::filesystem::path& file) {
    std::string bytes = read_file(file);
    bytes[bytes.size() / 2] = static_cast<char>(bytes[bytes.size() / 2] ^ 1);
    std::ofstream(file, std::ios::binary) << bytes;
  }
};

/// Constant after the warm-up: the first ten steps are the same for a run of 10 and of 20.
RunConfig resumable(RunConfig config, int64_t steps) {
  config.train.schedule = {.kind = ScheduleKind::kConstant,
                           .warmup_steps = std::min<int64_t>(5, steps)};
  config.train.steps = steps;
  return config;
}

TEST_F(ResumeTest, TwentyStepsAreTenPlusSavePlusLoadPlusTenBitForBit) {
  at::set_num_threads(2);
  for (const Precision precision : {Precision::kFp32, Precision::kBf16}) {
    const std::string name(enum_name(precision));
    const auto whole = run(resumable(tiny_config("whole-" + name, precision), 20));
    run(resumable(tiny_config("parts-" + name, precision), 10));
    const auto parts = run(resumable(tiny_config("parts-" + name, precision), 20));
    for (size_t i = 0; i < whole.size(); ++i)
      EXPECT_TRUE(at::equal(whole[i], parts[i])) << name << " " << i;
    const auto file = [&](const std::string& run_name) {
      return read_file(root_ / (run_name + name) / "final" / "model.safetensors");
    };
    EXPECT_EQ(xxh3_hex(file("whole-")), xxh3_hex(file("parts-")));
    EXPECT_EQ(row_steps("whole-" + name), row_steps("parts-" + name));
  }
}

TEST_F(ResumeTest, ResumedRunDiffersFromOneThatForgetsTheMoments) {  // the test above can fail
  const auto whole = run(resumable(tiny_config("whole"), 20));
  run(resumable(tiny_config("parts"), 10));
  const auto comm = make_single_comm();
  Trainer trainer(resumable(tiny_config("parts"), 20), *comm, at::kCPU);
  at::Tensor(trainer.optimizer().m()).zero_();
  trainer.run();
  EXPECT_FALSE(at::equal(whole[0], trainer.optimizer().master()));
}

TEST_F(ResumeTest, DamagedNewestCheckpointFallsBackToTheOneBefore) {
  RunConfig config = resumable(tiny_config("a"), 20);
  config.train.checkpoint = {.every = 5, .keep_last = 3};
  const auto whole = run(config);
  EXPECT_THAT(list_steps(config.run.dir), ElementsAre(20, 15, 10));
  damage(step_directory(config.run.dir, 20) / "trainer/shard-00000-of-00001.safetensors");
  EXPECT_EQ(find_newest_intact(config.run.dir), 15);
  std::filesystem::resize_file(step_directory(config.run.dir, 15) / "model.safetensors", 100);
  EXPECT_EQ(find_newest_intact(config.run.dir), 10);
  EXPECT_THAT(*manifest_problem(step_directory(config.run.dir, 20)),
              HasSubstr("checksum of trainer/shard"));
  EXPECT_THAT(*manifest_problem(step_directory(config.run.dir, 15)),
              HasSubstr("model.safetensors has 100 bytes"));
  const auto again = run(config);
  EXPECT_TRUE(at::equal(whole[0], again[0]));
  EXPECT_THAT(list_steps(config.run.dir), ElementsAre(20, 15, 10));
  EXPECT_EQ(find_newest_intact(config.run.dir), 20);
}

TEST_F(ResumeTest, DamagedCheckpointsAreKeptAndTakeNoPlace) {
  RunConfig config = resumable(tiny_config("a"), 20);
  config.train.checkpoint = {.every = 5, .keep_last = 3};
  run(config);
  const std::filesystem::path newest = step_directory(config.run.dir, 20),
                              second = step_directory(config.run.dir, 15);
  damage(newest / "trainer/state.json");
  damage(second / "model.safetensors");
  config.train.steps = 18;
  config.train.checkpoint = {.every = 6, .keep_last = 2};
  const std::string said = logged_by([&] { run(config); });
  EXPECT_THAT(said,
              HasSubstr("passing over damaged checkpoint " + newest.string() +
                        ": the checksum of trainer/state.json"));
  EXPECT_THAT(said, HasSubstr("it is kept as " + newest.string() + ".damaged, remove it"));
  EXPECT_THAT(list_steps(config.run.dir), ElementsAre(18, 12));
  for (const auto& kept : {newest, second})
    EXPECT_TRUE(std::filesystem::exists(kept.string() + ".damaged/manifest.json")) << kept;
  std::filesystem::create_directory(newest);
  EXPECT_EQ(settle_on_checkpoint(config.run.dir), 18);
  EXPECT_TRUE(std::filesystem::exists(newest.string() + ".damaged.2"));
}

TEST_F(ResumeTest, ARunOfWhichNoCheckpointIsIntactIsNotBegunAnew) {
  RunConfig config = resumable(tiny_config("a"), 10);
  config.train.checkpoint.every = 5;
  run(config);
  damage(step_directory(config.run.dir, 5) / "trainer/state.json");
  const std::filesystem::path manifest = step_directory(config.run.dir, 10) / "manifest.json";
  std::filesystem::remove(manifest);
  std::filesystem::create_symlink("manifest.json", manifest);  // an error when it is read
  try {
    run(config);
    FAIL() << "was begun anew";
  } catch (const std::runtime_error& error) {
    for (const char* part : {"/a has 2 checkpoints, and none can be read whole",
                             "use another run.dir or move them away",
                             "\n  step-00000010: manifest.json: ",
                             "Too many levels of symbolic links",
                             "\n  step-00000005: the checksum of trainer/state.json"})
      EXPECT_THAT(error.what(), HasSubstr(part));
  }
  EXPECT_THAT(list_steps(config.run.dir), ElementsAre(10, 5));
  EXPECT_EQ(row_steps("a").size(), 10u);
}

TEST_F(ResumeTest, DirectoryWithoutManifestIsNotACheckpoint) {
  RunConfig config = resumable(tiny_config("a"), 5);
  run(config);
  std::filesystem::remove(step_directory(config.run.dir, 5) / "manifest.json");
  EXPECT_EQ(find_newest_intact(config.run.dir), std::nullopt);
}

TEST_F(ResumeTest, KeepPolicyHoldsLastEveryAndBest) {
  RunConfig config =
      resumable(tiny_config("a"), 60);  // long enough that the best is not among the last
  config.train.checkpoint = {.every = 1, .keep_last = 2, .keep_every = 25, .keep_best = 1};
  config.train.optimizer.lr = 0.02;
  run(config);
  std::vector<int64_t> steps = list_steps(config.run.dir);
  EXPECT_THAT(steps, testing::IsSupersetOf({60, 59, 50, 25}));
  EXPECT_EQ(steps.size(), 5u)
      << "the best has to be one that nothing else keeps, or this test sees nothing";
  double best = 1e9;
  for (const int64_t step : steps)
    best = std::min(best, *read_state(step_directory(config.run.dir, step)).state.val_loss);
  for (const nlohmann::json& row : rows("a")) EXPECT_GE(row["val_loss"].get<double>(), best);
}

TEST_F(ResumeTest, MetricsAreCutBackToTheCheckpoint) {
  RunConfig config = resumable(tiny_config("a"), 10);
  config.train.checkpoint.every = 5;
  run(config);
  std::filesystem::remove_all(
      step_directory(config.run.dir, 10));  // as if killed after step 10's row
  std::filesystem::remove(root_ / "a/final");
  run(config);
  EXPECT_THAT(row_steps("a"), ElementsAre(1, 2, 3, 4, 5, 6, 7, 8, 9, 10));
}

TEST_F(ResumeTest, FinishedRunDoesNothing) {
  const RunConfig config = resumable(tiny_config("a"), 5);
  run(config);
  const std::string before = read_file(root_ / "a/metrics.jsonl");
  const auto comm = make_single_comm();
  Trainer trainer(config, *comm, at::kCPU);
  EXPECT_EQ(trainer.run(), Trainer::Outcome::kFinished);
  EXPECT_EQ(read_file(root_ / "a/metrics.jsonl"), before);
  EXPECT_EQ(std::filesystem::read_symlink(root_ / "a/final"), "step-00000005");
}

TEST_F(ResumeTest, OtherConfigurationIsRefusedByKey) {
  RunConfig config = resumable(tiny_config("a"), 5);
  run(config);
  config.model.hidden_size = 64;
  const auto comm = make_single_comm();
  try {
    Trainer trainer(config, *comm, at::kCPU);
    FAIL() << "was not refused";
  } catch (const std::invalid_argument& error) {
    EXPECT_THAT(error.what(), HasSubstr("model.hidden_size: 32 before, 64 now"));
    EXPECT_THAT(error.what(), HasSubstr("use another run.dir"));
  }
}

TEST_F(ResumeTest, OtherDataUnderTheSameNameIsRefused) {
  const RunConfig config = resumable(tiny_config("a"), 5);
  run(config);
  write_test_dataset(root_ / "train", 20000, 3);
  const auto comm = make_single_comm();
  try {
    Trainer trainer(config, *comm, at::kCPU);
    FAIL() << "was not refused";
  } catch (const std::invalid_argument& error) {
    EXPECT_THAT(error.what(), HasSubstr("the data of " + config.run.dir + " has changed"));
    EXPECT_THAT(error.what(), HasSubstr("/train: 20000 tokens in 1 documents, XXH3 "));
  }
  write_test_dataset(root_ / "train", 20000, 1);
  EXPECT_NO_THROW(Trainer(config, *comm, at::kCPU));
}

TEST(Machine, HowRanksAddUpIsPartOfIt) {
  const Machine before{"build", "torch", "avx2", "cpu", 2, 1, "gloo"};
  Machine now = before;
  EXPECT_THAT(now.changes_since(before), testing::IsEmpty());
  now.method = "gloo on two levels, 2 x 1";
  EXPECT_THAT(now.changes_since(before),
              ElementsAre("ranks add up through: gloo before, gloo on two levels, 2 x 1 now"));
  Machine old = before;  // from before it was written down
  old.method = "";
  EXPECT_THAT(now.changes_since(old), testing::IsEmpty());
}

TEST_F(ResumeTest, TheSameDataMayLieElsewhere) {
  RunConfig config = resumable(tiny_config("a"), 5);
  run(config);
  for (const char* end : {".bin", ".idx"})
    std::filesystem::rename(root_ / ("train" + std::string(end)),
                            root_ / ("moved" + std::string(end)));
  config.data.train = {{(root_ / "moved").string(), 1}};
  const auto comm = make_single_comm();
  EXPECT_EQ(Trainer(config, *comm, at::kCPU).state().step, 5);
  write_test_dataset(root_ / "other", 20000, 3);
  config.data.train = {{(root_ / "other").string(), 1}};
  try {
    Trainer trainer(config, *comm, at::kCPU);
    FAIL() << "was not refused";
  } catch (const std::invalid_argument& error) {
    EXPECT_THAT(error.what(), HasSubstr("another configuration"));
    EXPECT_THAT(error.what(), HasSubstr("/other now"));
  }
}

TEST_F(ResumeTest, RunDirectoryIsHeldByOneProcess) {
  const RunConfig config = tiny_config("a");
  const auto comm = make_single_comm();
  const Trainer first(config, *comm, at::kCPU);
  EXPECT_THROW(Trainer(config, *comm, at::kCPU), std::runtime_error);
}

TEST_F(ResumeTest, LeftoversOfAKilledSaveDisappear) {
  const RunConfig config = resumable(tiny_config("a"), 2);
  std::filesystem::create_directories(root_ / "a/step-00000001.tmp.77/trainer");
  run(config);
  EXPECT_FALSE(std::filesystem::exists(root_ / "a/step-00000001.tmp.77"));
}

TEST_F(ResumeTest, FilesOfKilledWritersDisappear) {
  const RunConfig config = resumable(tiny_config("a"), 2);
  std::filesystem::create_directory(root_ / "a");
  for (const char* name : {"config.yaml.tmp.77", "metrics.jsonl.tmp.78", "notes.tmp.7x", "tmp.77"})
    write_file(root_ / "a" / name, "");
  std::filesystem::create_symlink("step-00000001", root_ / "a/final.tmp.79");
  AtomicFile alive(root_ / "a/page.html");
  run(config);
  std::vector<std::string> left;
  for (const auto& entry : std::filesystem::directory_iterator(root_ / "a"))
    if (const std::string name = entry.path().filename(); name.find("tmp.") != name.npos)
      left.push_back(name);
  EXPECT_THAT(left,
              testing::UnorderedElementsAre(
                  "notes.tmp.7x", "tmp.77", "page.html.tmp." + std::to_string(getpid())));
}

TEST_F(ResumeTest, OtherHeldOutTextIsNamed) {
  RunConfig config = resumable(tiny_config("a"), 5);
  run(config);
  config.train.steps = 8;
  EXPECT_THAT(logged_by([&] { run(config); }), testing::Not(HasSubstr("data.heldout")));
  write_test_dataset(root_ / "heldout", 4000, 3);
  config.train.steps = 11;
  const std::string said = logged_by([&] { run(config); });
  EXPECT_THAT(said, HasSubstr("validation losses before and after are not of the same text"));
  EXPECT_THAT(said, HasSubstr("3000 tokens in 1 documents"));
}

TEST_F(ResumeTest, CheckpointHoldsWhatTheDesignSays) {
  const RunConfig config = resumable(tiny_config("a"), 2);
  run(config);
  const auto step = step_directory(config.run.dir, 2);
  for (const char* name : {"config.json",
                           "generation_config.json",
                           "model.safetensors",
                           "trainer/shard-00000-of-00001.safetensors",
                           "trainer/state.json",
                           "manifest.json"}) {
    EXPECT_TRUE(std::filesystem::exists(step / name)) << name;
  }
  const SavedState saved = read_state(step);
  EXPECT_EQ(saved.state.step, 2);
  EXPECT_EQ(saved.optimizer_count, 2);
  EXPECT_EQ(saved.machine.ranks, 1);
  EXPECT_TRUE(differences(saved.config, config).empty());
  EXPECT_TRUE(differences(config_from_file<RunConfig>(root_ / "a/config.yaml"), config).empty());
}

}  // namespace
}  // namespace basin
