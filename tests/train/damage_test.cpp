// One flipped bit anywhere in a checkpoint: refused with file and tensor named, and the checkpoint
// before it taken. BASIN_ALL_BYTES=1 goes through every byte instead of some of each kind.
#include <ATen/ATen.h>
#include <gmock/gmock.h>

#include <cstdlib>
#include <fstream>
#include <set>

#include "configs/log.h"
#include "model/checkpoint.h"
#include "model/manifest.h"
#include "model/safetensors.h"
#include "tests/train/train_fixture.h"
#include "train/trainer.h"

namespace basin {
namespace {

namespace fs = std::filesystem;

class DamageTest : public TrainTest {
 protected:
  void SetUp() override {
    TrainTest::SetUp();
    RunConfig config = tiny_config("run");
    config.train.steps = 4;
    config.train.schedule = {.kind = ScheduleKind::kConstant, .warmup_steps = 0};
    config.train.checkpoint.every = 2;
    const auto comm = make_single_comm();
    Trainer(config, *comm, at::kCPU).run();
    newest_ = step_directory(root_ / "run", 4);
    weights_ = load_model(newest_, at::kFloat, at::kCPU)->flat();
  }

  /// One bit of a byte is wrong for as long as this lives.
  class Flip {
   public:
    Flip(const fs::path& path, uint64_t at) : file_(path, std::ios::in | std::ios::out), at_(at) {
      flip();
    }
    ~Flip() { flip(); }

   private:
    void flip() {
      file_.seekg(static_cast<std::streamoff>(at_));
      const int byte = file_.get();
      file_.seekp(static_cast<std::streamoff>(at_));
      file_.put(static_cast<char>(byte ^ (1 << at_ % 8))).flush();
      if (!file_) throw std::runtime_error("the test cannot write where it has to");
    }
    std::fstream file_;
    uint64_t at_;
  };

  /// A step that is named is not searched for an intact one: a flip in what is read is refused, and
  /// one in what is not read (a header's padding) changes nothing.
  void expect_refused_or_equal(const std::string& name, uint64_t at) {
    try {
      const auto model = load_model(newest_, at::kFloat, at::kCPU);
      EXPECT_EQ(name, "model.safetensors") << "byte " << at << " went unnoticed";
      EXPECT_TRUE(at::equal(model->flat(), weights_)) << name << " byte " << at;
    } catch (const std::runtime_error& error) {
      EXPECT_THAT(error.what(), testing::HasSubstr(newest_.string()));
    }
  }

  QuietLog quiet_;  // one warning a flip is too many
  fs::path newest_;
  at::Tensor weights_;
};

/// Positions of each kind: every byte of the length, the ends and the middle of each tensor, and
/// elsewhere every `stride`th.
std::set<uint64_t> positions(uint64_t bytes, const std::vector<SafetensorsEntry>& tensors) {
  std::set<uint64_t> out;
  const uint64_t dense = tensors.empty() ? bytes : tensors.front().begin;
  const uint64_t stride = std::getenv("BASIN_ALL_BYTES") ? 1 : std::max<uint64_t>(1, dense / 40);
  for (uint64_t at = 0; at < dense; at += stride) out.insert(at);
  for (uint64_t at = 0; at < 8 && at < dense; ++at) out.insert(at);
  out.insert(dense - 1);  // padding, where there are tensors
  for (const SafetensorsEntry& tensor : tensors) {
    if (stride == 1)
      for (uint64_t at = tensor.begin; at < tensor.end; ++at) out.insert(at);
    out.insert({tensor.begin, (tensor.begin + tensor.end) / 2, tensor.end - 1});
  }
  return out;
}

TEST_F(DamageTest, AFlippedBitIsNamedAndTheCheckpointBeforeIsTaken) {
  ASSERT_EQ(find_newest_intact(root_ / "run"), 4);
  std::vector<std::string> names;
  for (const fs::directory_entry& entry : fs::recursive_directory_iterator(newest_))
    if (entry.is_regular_file()) names.push_back(fs::relative(entry.path(), newest_));
  EXPECT_GE(names.size(), 6u);
  size_t flips = 0, misses = 0;
  for (const std::string& name : names) {
    const bool has_tensors = fs::path(name).extension() == ".safetensors";
    std::map<uint64_t, std::string> ends;  // of tensors
    std::vector<SafetensorsEntry> tensors;
    if (has_tensors) {
      const SafetensorsFile file(newest_ / name);
      for (const auto& [tensor, entry] : file.entries()) {
        tensors.push_back(entry);
        ends[entry.end] = tensor;
      }
      std::sort(tensors.begin(), tensors.end(), [](const auto& a, const auto& b) {
        return a.begin < b.begin;
      });
    }
    const uint64_t bytes = fs::file_size(newest_ / name);
    for (const uint64_t at : positions(bytes, tensors)) {
      const Flip flip(newest_ / name, at);
      std::string expected = name == "manifest.json" ? "manifest.json: " : "checksum of " + name;
      if (has_tensors && at < tensors.front().begin) expected = "damaged is its header";
      if (has_tensors && at >= tensors.front().begin)
        expected = "damaged is tensor " + ends.upper_bound(at)->second;
      const std::string problem = manifest_problem(newest_).value_or("nothing wrong");
      const bool named =
          problem.find(expected) != std::string::npos && problem.find(name) != std::string::npos;
      if (!named || find_newest_intact(root_ / "run") != 2) {
        ++misses;
        if (misses < 10)
          ADD_FAILURE() << name << " byte " << at << ": " << problem << ", expected " << expected;
      }
      if (name.find('/') == std::string::npos) expect_refused_or_equal(name, at);
      ++flips;
    }
  }
  EXPECT_EQ(misses, 0u) << "of " << flips;
  EXPECT_GT(flips, 400u);
  EXPECT_EQ(find_newest_intact(root_ / "run"), 4) << "the test put everything back";
  std::printf("%zu flips in %zu files, %zu missed\n", flips, names.size(), misses);
}

}  // namespace
}  // namespace basin
