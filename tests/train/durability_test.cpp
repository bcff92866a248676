// Checkpoints of the real program against a disk that fails and machines that lose power: whatever
// call goes wrong, no torn checkpoint is ever loaded, and none is lost that was reported as saved.
// BASIN_ALL_FAULTS=1 (bash tests/long.sh faults) goes through every call and every fault.
#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <sys/wait.h>

#include <cstdlib>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>

#include "configs/log.h"
#include "configs/yaml_config.h"
#include "model/safetensors.h"
#include "tests/support/disk_trace.h"
#include "tests/train/train_fixture.h"
#include "train/run_directory.h"
#include "train/state.h"

namespace basin {
namespace {

namespace fs = std::filesystem;

/// XXH3 of each tensor of a checkpoint, read as a resume reads them.
using Weights = std::map<std::string, std::string>;

Weights weights_of(const fs::path& step) {
  Weights weights;
  for (const fs::directory_entry& entry : fs::recursive_directory_iterator(step)) {
    if (entry.path().extension() != ".safetensors") continue;
    const SafetensorsFile file(entry.path());
    for (const auto& [name, range] : file.entries()) {
      const at::Tensor tensor = file.read(name);
      weights[fs::relative(entry.path(), step).string() + " " + name] =
          xxh3_hex({static_cast<const char*>(tensor.data_ptr()), tensor.nbytes()});
    }
  }
  return weights;
}

class DurabilityTest : public TrainTest {
 protected:
  static constexpr int64_t kSteps = 6, kEvery = 2;

  void SetUp() override {
    TrainTest::SetUp();
    disk_ = root_ / "disk";
    fs::create_directory(disk_);
    RunConfig config = config_of(root_ / "undisturbed");
    config.train.checkpoint = {.every = 1, .keep_last = 100};
    config.train.steps = kSteps + kEvery;
    ASSERT_EQ(train(config, ""), 0) << errors();
    for (const int64_t step : list_steps(config.run.dir))
      expected_[step] = weights_of(step_directory(config.run.dir, step));
    ASSERT_EQ(expected_.size(), 8u);
  }

  RunConfig config_of(const fs::path& directory) const {
    RunConfig config = tiny_config("");
    config.run.dir = directory.string();
    config.train.steps = kSteps;
    config.train.schedule = {.kind = ScheduleKind::kConstant, .warmup_steps = 0};
    config.train.checkpoint = {.every = kEvery, .keep_last = 1};  // the least that could be left
    config.train.checkpoint.retry_after = "0.01s";
    config.train.validation.every = 0;
    return config;
  }
  int train(const RunConfig& config, const std::string& environment) const {
    write_file(root_ / "run.yaml", to_yaml(config));
    const std::string line = "BASIN_THREADS=1 timeout 60 env " + environment +
                             " '" BASIN_PROGRAM "' train '" + (root_ / "run.yaml").string() + "' >'" +
                             (root_ / "out").string() + "' 2>'" + (root_ / "err").string() + "'";
    const int status = std::system(line.c_str());
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  }
  std::string faulty(const std::string& mode, int call) const {
    return "LD_PRELOAD=" BASIN_FAULTY_FILES " BASIN_FAULT_DIR='" + disk_.string() +
           "' BASIN_FAULT_MODE=" + mode + " BASIN_FAULT_AT=" + std::to_string(call);
  }
  std::vector<DiskCall> traced(const RunConfig& config) const {
    fs::remove(root_ / "trace");
    EXPECT_EQ(train(config,
                    faulty("none", 0) + " BASIN_FAULT_TRACE='" + (root_ / "trace").string() + "'"),
              0)
        << errors();
    return read_disk_trace(root_ / "trace");
  }
  std::string errors() const { return read_file(root_ / "err"); }
  /// The newest step that the program reported as saved; 0: none.
  int64_t newest_reported() const {
    int64_t newest = 0;
    std::istringstream lines(errors());
    for (std::string line; std::getline(lines, line);)
      if (const size_t at = line.find("/step-"); line.find(": saved ") < at && at != line.npos)
        newest = std::max<int64_t>(newest, std::stoll(line.substr(at + 6, 8)));
    return newest;
  }
  /// What is wrong with a run directory of which `reported` had been saved; empty: nothing.
  std::string wrong_with(const fs::path& run, int64_t reported) const {
    const int64_t newest = find_newest_intact(run).value_or(0);
    if (newest < reported)
      return "step " + std::to_string(reported) + " was reported, the newest intact one is " +
             std::to_string(newest);
    if (newest == 0) return "";
    const fs::path step = step_directory(run, newest);
    if (weights_of(step) != expected_.at(newest) || read_state(step).state.step != newest)
      return "step " + std::to_string(newest) + " has other weights than an undisturbed run";
    if (fs::is_symlink(run / "final") && fs::read_symlink(run / "final") != step.filename())
      return "final points to " + fs::read_symlink(run / "final").string();
    return "";
  }
  /// The run is as an undisturbed one leaves it; says what is not.
  std::string wrong_with_finished(const fs::path& run) const {
    std::vector<int64_t> rows, all;
    for (int64_t step = 1; step <= kSteps; ++step) all.push_back(step);
    std::istringstream lines(read_file(run / "metrics.jsonl"));
    for (std::string line; std::getline(lines, line);)
      rows.push_back(nlohmann::json::parse(line)["step"]);
    if (rows != all) return "rows of metrics.jsonl: " + testing::PrintToString(rows);
    if (!fs::is_symlink(run / "final")) return "no final";
    return wrong_with(run, kSteps);
  }

  QuietLog quiet_;  // damaged checkpoints are what is looked for
  fs::path disk_;
  std::map<int64_t, Weights> expected_;  // by step
};

/// A call at which something goes wrong.
struct Fault {
  std::string mode;
  DiskCall call;
};

/// Every fault at every call, or `sampled` of each kind at calls that differ between the kinds.
std::vector<Fault> faults_at(const std::vector<DiskCall>& calls, std::optional<size_t> sampled) {
  const std::vector<std::string> modes = {
      "before", "ENOSPC", "short", "after", "full", "EIO", "EROFS"};
  std::vector<Fault> faults;
  for (size_t m = 0; m < modes.size(); ++m) {
    std::vector<Fault> all;
    for (const DiskCall& call : calls)
      if (call.name != "saved" && (modes[m] != "short" || call.name == "write"))
        all.push_back({modes[m], call});
    const size_t count = sampled.value_or(all.size());
    for (size_t i = 0; i < count; ++i)
      faults.push_back(
          all[sampled ? (i * modes.size() + m + 1) * all.size() / (count * modes.size() + 1) : i]);
  }
  return faults;
}

/// A save or a row that fails once is made again, and training goes on; a disk that stays full, or
/// an error before the first step, ends it.
std::vector<int> statuses_after(const std::string& mode, const DiskCall& call) {
  if (mode == "before" || mode == "after") return {137};
  const bool is_made_again = call.path.find("/step-") != call.path.npos ||
                             call.path.find("/metrics.jsonl") != call.path.npos;
  if (mode == "short" || (mode != "full" && is_made_again)) return {0};
  return {0, 1};
}

TEST_F(DurabilityTest, WhateverCallFailsNothingTornIsLoadedAndNothingReportedIsLost) {
  const fs::path run = disk_ / "run";
  const RunConfig config = config_of(run);
  const bool complete = std::getenv("BASIN_ALL_FAULTS") != nullptr;
  const std::vector<Fault> faults =
      faults_at(traced(config), complete ? std::nullopt : std::optional<size_t>(2));
  std::map<std::string, int> ends;  // how often: mode and status
  for (size_t i = 0; i < faults.size(); ++i) {
    const auto& [mode, call] = faults[i];
    SCOPED_TRACE(mode + " at call " + std::to_string(call.number) + ", " + call.name + " " +
                 call.path);
    fs::remove_all(run);
    const int status = train(config, faulty(mode, call.number));
    ++ends[mode + " " + std::to_string(status)];
    EXPECT_THAT(status, testing::AnyOfArray(statuses_after(mode, call))) << errors();
    EXPECT_EQ(wrong_with(run, newest_reported()), "") << errors();
    if (status != 0) {
      EXPECT_EQ(train(config, ""), 0) << "to go on\n" << errors();
    }
    EXPECT_EQ(wrong_with_finished(run), "") << errors();
    if (complete && i % 100 == 99) std::printf("%zu of %zu faults\n", i + 1, faults.size());
  }
  for (const auto& [end, times] : ends) std::printf("%s: %d times\n", end.c_str(), times);
}

// Killed processes leave the system's cache to the disk, so only this shows that the syncs are
// there.
TEST_F(DurabilityTest, APowerCutAtAnyPointLeavesWhatWasReported) {
  const fs::path run = disk_ / "run";
  std::vector<DiskCall> calls = traced(config_of(run));
  RunConfig longer = config_of(run);
  longer.train.steps += kEvery;
  for (DiskCall& call : traced(longer)) calls.push_back(std::move(call));
  std::vector<std::pair<Unsynced, uint64_t>> kinds = {
      {Unsynced::kLost, 0}, {Unsynced::kEmptied, 0}, {Unsynced::kCut, 0}, {Unsynced::kKept, 0}};
  for (uint64_t seed = 0; seed < (std::getenv("BASIN_ALL_FAULTS") ? 50 : 1); ++seed)
    kinds.emplace_back(Unsynced::kMixed, seed);
  TracedDisk disk(disk_);
  std::set<std::string> seen;
  int64_t reported = 0;
  size_t reports = 0, failures = 0;
  for (const DiskCall& call : calls) {
    disk.apply(call);
    if (call.name == "saved") {
      reported = std::stoll(call.path.substr(call.path.find("/step-") + 6, 8));
      ++reports;
    }
    for (const auto& [kind, seed] : kinds) {
      const auto tree = disk.after_power_cut(kind, seed);
      std::string key = std::to_string(reported);
      for (const auto& [path, content] : tree) key += "\n" + path + " " + xxh3_hex(content);
      if (!seen.insert(xxh3_hex(key)).second) continue;
      write_tree(root_ / "after", tree);
      const std::string wrong = wrong_with(root_ / "after/run", reported);
      if (!wrong.empty() && ++failures <= 5)
        ADD_FAILURE() << wrong << "\nafter call " << call.number << ", " << call.name << " "
                      << call.path << ", kind " << static_cast<int>(kind) << " seed " << seed;
    }
  }
  EXPECT_EQ(failures, 0u) << "of " << seen.size() << " states";
  EXPECT_EQ(reports, 4u);
  EXPECT_GT(seen.size(), 300u);
  std::printf("%zu calls, %zu states\n", calls.size(), seen.size());
}

}  // namespace
}  // namespace basin
