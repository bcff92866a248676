// Ctrl-C as a terminal sends it: to the whole foreground process group, children included. Verbs
// other than train exit 130 and leave no file half-written.
#include <signal.h>

#include <chrono>
#include <functional>
#include <thread>

#include "tests/data/data_fixture.h"
#include "tests/train/program_fixture.h"

namespace basin {
namespace {

namespace fs = std::filesystem;

bool any_name(const fs::path& folder, const std::string& part) {
  std::error_code gone;
  for (const auto& entry : fs::directory_iterator(folder, gone))
    if (entry.path().filename().string().find(part) != std::string::npos) return true;
  return false;
}

/// Whether the tokenizer's trainer has begun to talk, so that the program does nothing but wait for
/// it.
bool has_log(const fs::path& scratch) {
  std::error_code gone;
  for (const auto& entry : fs::directory_iterator(scratch, gone)) {
    const auto bytes = fs::file_size(entry.path() / "log", gone);
    if (!gone && bytes > 2000) return true;
  }
  return false;
}

class InterruptTest : public testing::Test {
 protected:
  void SetUp() override {
    const std::string text = invented_text(1, 300000);
    for (int i = 0; i < 20; ++i)
      folder_.write("in/" + std::to_string(i) + ".txt", text + std::to_string(i));
    fs::create_directories(folder_ / "scratch");
  }

  /// Runs the program until `ready`, then sends SIGINT to its group; returns the exit status.
  int interrupted(std::vector<std::string> words, const std::function<bool()>& ready) {
    words.insert(words.begin(), {"env", "TMPDIR=" + (folder_ / "scratch").string(), BASIN_PROGRAM});
    Program program(words, folder_ / "said");
    while (program.is_running()) {
      if (ready()) {
        kill(-program.pid(), SIGINT);
        return program.wait();
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
    ADD_FAILURE() << "ended before it could be interrupted: " << program.said();
    return -1;
  }

  std::string path(const std::string& name) const { return (folder_ / name).string(); }

  TemporaryFolder folder_;
};

TEST_F(InterruptTest, WhileTheTokenizerTrains) {
  EXPECT_EQ(interrupted(
                {"prepare", "--input", path("in"), "--out", path("out/x"), "--vocab-size", "1024"},
                [this] { return has_log(folder_ / "scratch"); }),
            130)
      << read_file(folder_ / "said");
  EXPECT_FALSE(any_name(folder_ / "out", "x")) << "something was left";
  EXPECT_FALSE(any_name(folder_ / "scratch", "basin-")) << "something was left";
}

TEST_F(InterruptTest, WhileTextIsEncoded) {
  folder_.write("small/a.txt", invented_text(2, 20000));
  ASSERT_EQ(std::system(("'" BASIN_PROGRAM "' prepare --vocab-size 384 --input " +
                         (folder_ / "small").string() + " --out " + (folder_ / "small/t").string() +
                         " >/dev/null 2>&1")
                            .c_str()),
            0);
  EXPECT_EQ(interrupted({"prepare",
                         "--input",
                         path("in"),
                         "--out",
                         path("out/x"),
                         "--tokenizer",
                         path("small/t.model")},
                        [this] { return any_name(folder_ / "out", "x_train.bin.tmp"); }),
            130)
      << read_file(folder_ / "said");
  EXPECT_FALSE(any_name(folder_ / "out", "x")) << "something was left";
}

}  // namespace
}  // namespace basin
