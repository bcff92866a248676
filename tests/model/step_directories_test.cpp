// Which checkpoint of a run is taken, and what is none.
#include "model/step_directories.h"

#include <gtest/gtest.h>

#include "configs/files.h"
#include "configs/scratch_folder.h"
#include "model/checkpoint.h"
#include "model/manifest.h"

namespace basin {
namespace {

namespace fs = std::filesystem;

TEST(StepDirectories, ResolvesRunsAndSteps) {
  const auto resolve_error = [&](const fs::path& path) -> std::string {
    try {
      return "found " + resolve_model_directory(path).string();
    } catch (const std::runtime_error& e) {
      return e.what();
    }
  };
  const ScratchFolder folder;
  const fs::path run = folder.path();
  EXPECT_EQ(resolve_error(run / "none"), (run / "none").string() + ": no such directory");
  const ScratchFolder beside;
  const auto made = [&](const char* name) { fs::create_directories(beside.path() / name); };
  made("no-model");
  EXPECT_EQ(resolve_error(beside.path() / "demo"),
            (beside.path() / "demo").string() + ": no such directory");
  made("demo-none/step-00000010");
  EXPECT_NE(resolve_error(beside.path() / "x").find(
                "no such directory; there is " + (beside.path() / "demo-none").string()),
            std::string::npos);
  made("demo-sink/step-00000010");
  EXPECT_NE(resolve_error(beside.path() / "demo-snik/").find(
                "no such directory; did you mean " + (beside.path() / "demo-sink").string() + "?"),
            std::string::npos);
  EXPECT_NE(resolve_error(run).find(
                "looked for config.json, for final/config.json and for an intact step-*"),
            std::string::npos);
  for (const char* step : {"step-00000900", "step-00001000", "step-00002000", "step-x"})
    fs::create_directory(run / step);
  for (const char* step : {"step-00000900", "step-00001000", "step-x"}) {
    write_file(run / step / "weights", "abc");
    Manifest().write(run / step);
  }
  EXPECT_EQ(resolve_model_directory(run), run / "step-00001000") << "2000 was never finished";
  write_file(run / "step-00001000" / "weights", "abd");
  EXPECT_EQ(resolve_model_directory(run), run / "step-00000900") << "1000 is damaged";
  write_file(run / "step-00000900" / "config.json", "{}");
  fs::create_directory_symlink("step-00000900", run / "final");
  EXPECT_EQ(resolve_model_directory(run), run / "final");
  EXPECT_EQ(resolve_model_directory(run / "step-00000900"), run / "step-00000900");
}

TEST(StepDirectories, NamesThatTrainingDoesNotGiveAreForReadingOnly) {
  const ScratchFolder folder;
  const fs::path run = folder.path() / "run";
  EXPECT_TRUE(list_steps(run).empty()) << "no such directory";
  for (const char* step :
       {"step-00000010", "step-123456789", "step-00000020.tmp.1.0", "elsewhere"}) {
    fs::create_directories(run / step);
    Manifest().write(run / step);
  }
  const std::vector<int64_t> trained = {123456789, 10};
  EXPECT_EQ(list_steps(run), trained);
  EXPECT_EQ(find_newest_intact(run), 123456789);
  EXPECT_EQ(find_newest_intact(run, 123456788), 10);
  EXPECT_EQ(find_newest_intact(run, 9), std::nullopt);
  EXPECT_EQ(step_of("step-5"), 5);
  for (const char* other : {"step-", "step--5", "step-5x", "Step-5", "5"})
    EXPECT_EQ(step_of(other), std::nullopt) << other;
  fs::create_directory_symlink("elsewhere", run / "step-200000000");
  write_file(run / "step-300000000", "no directory");
  EXPECT_EQ(list_steps(run), trained) << "a link is not training's";
  EXPECT_EQ(find_newest_model(run), run / "step-200000000");
  fs::remove(run / "step-123456789" / "manifest.json");
  fs::remove(run / "step-200000000");
  fs::rename(run / "elsewhere", run / "step-11");
  EXPECT_EQ(find_newest_intact(run), 10);
  EXPECT_EQ(find_newest_model(run), run / "step-11");
}

TEST(StepDirectories, AModelIsIntactWhateverTrainingLost) {
  const ScratchFolder folder;
  const fs::path run = folder.path(), shard = run / "step-00000020/trainer/shard";
  for (const char* step : {"step-00000010", "step-00000020"}) {
    fs::create_directories(run / step / "trainer");
    write_file(run / step / "model", "abc");
    write_file(run / step / "trainer/shard", "abc");
    Manifest().write(run / step);
  }
  write_file(shard, "abd");
  EXPECT_EQ(find_newest_intact(run), 10);
  EXPECT_EQ(find_newest_model(run), run / "step-00000020");
  write_file(run / "step-00000020/model", "abd");
  EXPECT_EQ(find_newest_model(run), run / "step-00000010");
}

}  // namespace
}  // namespace basin
