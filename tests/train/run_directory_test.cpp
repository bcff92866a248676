// Which checkpoints of a run are kept.
#include "train/run_directory.h"

#include <fmt/format.h>
#include <gmock/gmock.h>

#include <filesystem>

#include "configs/files.h"
#include "configs/scratch_folder.h"
#include "model/manifest.h"
#include "model/step_directories.h"

namespace basin {
namespace {

namespace fs = std::filesystem;
using testing::ElementsAre;

TEST(PruneCheckpoints, WhatIsNotWholeDoesNotCountAndStays) {
  const ScratchFolder folder;
  const fs::path run = folder.path();
  for (const int64_t step : {10, 20, 30, 40, 50}) {
    fs::create_directory(step_directory(run, step));
    write_file(step_directory(run, step) / "weights", "abc");
    Manifest().write(step_directory(run, step));
  }
  write_file(step_directory(run, 40) / "weights", "ab");  // cut short
  fs::remove(step_directory(run, 20) / "weights");
  prune_checkpoints(run, {.keep_last = 2});
  EXPECT_THAT(list_steps(run), ElementsAre(50, 40, 30, 20));
  fs::remove(step_directory(run, 30) / "manifest.json");
  prune_checkpoints(run, {.keep_last = 1});
  EXPECT_THAT(list_steps(run), ElementsAre(50, 40, 30, 20));
  Manifest().write(step_directory(run, 20));
  Manifest().write(step_directory(run, 40));
  prune_checkpoints(run, {.keep_last = 1, .keep_every = 20});
  EXPECT_THAT(list_steps(run), ElementsAre(50, 40, 30, 20));
  prune_checkpoints(run, {.keep_last = 1});
  EXPECT_THAT(list_steps(run), ElementsAre(50, 30));
}

}  // namespace
}  // namespace basin
