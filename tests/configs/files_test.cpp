#include "configs/files.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <functional>

#include "configs/file_descriptor.h"
#include "configs/scratch_folder.h"

namespace basin {
namespace {

namespace fs = std::filesystem;

class Files : public testing::Test {
 protected:
  void SetUp() override {
    path_ = directory_ / "a.bin";
    temporary_ = path_.string() + ".tmp." + std::to_string(getpid());
  }
  int64_t entries() const {
    return std::distance(fs::directory_iterator(directory_), fs::directory_iterator());
  }

  const ScratchFolder folder_;
  const fs::path directory_ = folder_.path();
  fs::path path_, temporary_;
};

std::string error_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const std::runtime_error& error) {
    return error.what();
  }
  return "";
}

TEST_F(Files, WriteThenRead) {
  const std::string bytes("one\0two\n", 8);
  write_file(path_, bytes);
  EXPECT_EQ(read_file(path_), bytes);
  write_file(path_, "");
  EXPECT_EQ(read_file(path_), "");
  EXPECT_EQ(entries(), 1);
  EXPECT_NE(read_file("/proc/self/status"), "");  // the system reports size 0 for it
}

TEST_F(Files, AppearOnlyOnCommit) {
  write_file(path_, "old");
  {
    AtomicFile file(path_);
    file.write("new");
    EXPECT_EQ(read_file(path_), "old");
    EXPECT_TRUE(fs::exists(temporary_));
  }
  EXPECT_EQ(read_file(path_), "old");
  EXPECT_EQ(entries(), 1);
  AtomicFile file(path_);
  file.write("new");
  file.commit();
  EXPECT_EQ(read_file(path_), "new");
  EXPECT_EQ(entries(), 1);
  EXPECT_THROW(file.write("more"), std::logic_error);
  EXPECT_THROW(file.commit(), std::logic_error);
}

TEST_F(Files, LargeAndSmallWritesKeepTheirOrder) {
  std::string expected;
  AtomicFile file(path_);
  for (const size_t size : {size_t{5},
                            (size_t{1} << 20) - 7,
                            size_t{3} << 20,
                            size_t{1},
                            size_t{1} << 20,
                            size_t{0},
                            size_t{900'000},
                            size_t{900'000}}) {
    const std::string part(size, static_cast<char>('a' + expected.size() % 23));
    file.write(part);
    expected += part;
    EXPECT_EQ(file.size_bytes(), expected.size());
  }
  const FileSum sum = file.commit();
  EXPECT_TRUE(read_file(path_) == expected);
  EXPECT_EQ(xxh3_hex_of_file(path_), xxh3_hex(expected));
  EXPECT_EQ(sum.bytes, expected.size());
  EXPECT_EQ(sum.xxh3, xxh3_hex(expected));
}

TEST_F(Files, ReplaceWhatADeadRunLeft) {
  std::ofstream(temporary_) << "left over by a process that had our number";
  write_file(path_, "fresh");
  EXPECT_EQ(read_file(path_), "fresh");
  EXPECT_EQ(entries(), 1);
}

TEST_F(Files, ReplaceFilesAndWhatLinksLeadToAndNothingElse) {
  const fs::path link = directory_ / "link", fifo = directory_ / "fifo", folder = directory_ / "d";
  fs::create_directory(folder);
  write_file(folder / "target", "old");
  fs::create_symlink("d/target", link);
  write_file(link, "new");
  EXPECT_TRUE(fs::is_symlink(link));
  EXPECT_EQ(read_file(folder / "target"), "new");
  ASSERT_EQ(mkfifo(fifo.c_str(), 0600), 0);
  fs::create_symlink("fifo", directory_ / "to-fifo");
  for (const char* name : {"fifo", "to-fifo"}) {
    const std::string expected =
        "cannot write " + (directory_ / name).string() + ": is a pipe, not a file";
    EXPECT_EQ(error_of([&] { write_file(directory_ / name, "text"); }), expected);
    EXPECT_EQ(error_of([&] { make_writable_place(directory_ / name); }), expected);
  }
  EXPECT_TRUE(fs::is_fifo(fifo));
  EXPECT_EQ(error_of([&] { make_writable_place("/dev/null"); }),
            "cannot write /dev/null: is a device, not a file");
  EXPECT_EQ(error_of([&] { write_file(folder, "text"); }),
            "cannot write " + folder.string() + ": is a folder, not a file");
  make_writable_place(directory_ / "new" / "file");
  EXPECT_TRUE(fs::is_directory(directory_ / "new"));
}

TEST_F(Files, TemporariesOfTheDeadGoWhenAskedFor) {
  const fs::path dead = path_.string() + ".tmp.999999999", other = path_.string() + ".tmp.x";
  for (const fs::path& path : {dead, other}) std::ofstream(path) << "rest";
  AtomicFile alive(path_);
  remove_stale_temporaries(path_);
  EXPECT_FALSE(fs::exists(dead));
  EXPECT_TRUE(fs::exists(other)) << "not a name of ours";
  EXPECT_TRUE(fs::exists(temporary_)) << "somebody writes it";
}

TEST_F(Files, RefuseWhatALivingWriterHolds) {
  AtomicFile first(path_);
  first.write("first");
  EXPECT_EQ(error_of([&] { AtomicFile second(path_); }),
            "cannot write " + temporary_.string() + ": someone else is writing it at this moment");
  first.commit();
  EXPECT_EQ(read_file(path_), "first");
}

TEST_F(Files, ErrorsNamePathAndReason) {
  EXPECT_EQ(error_of([&] { read_file(directory_ / "none"); }),
            "cannot open " + (directory_ / "none").string() + ": No such file or directory");
  EXPECT_EQ(error_of([&] { read_file(directory_); }),
            "cannot read " + directory_.string() + ": Is a directory");
  EXPECT_EQ(error_of([&] { xxh3_hex_of_file(directory_ / "none"); }),
            "cannot open " + (directory_ / "none").string() + ": No such file or directory");
  EXPECT_EQ(error_of([&] { MappedFile map(directory_); }),
            "cannot map " + directory_.string() + ": Is a directory");
  EXPECT_EQ(error_of([&] { sync_directory(directory_ / "none"); }),
            "cannot open " + (directory_ / "none").string() + ": No such file or directory");
  const std::string within = error_of([&] { write_file(directory_ / "none" / "a", ""); });
  EXPECT_EQ(within.find("cannot create " + (directory_ / "none" / "a").string()), 0u) << within;
  fs::create_directories(path_ / "full");
  EXPECT_EQ(error_of([&] { write_file(path_, "x"); }),
            "cannot write " + path_.string() + ": is a folder, not a file");
  EXPECT_FALSE(fs::exists(temporary_));  // and the failure left nothing
}

TEST_F(Files, AFullDiskIsAnErrorThatLeavesNothing) {
  if (!fs::exists("/dev/full")) FAIL() << "this test needs /dev/full";
  fs::create_symlink("/dev/full", directory_ / "full");
  // Straight to the device, which an AtomicFile refuses.
  AtomicFile file(path_);
  const int full = open("/dev/full", O_WRONLY);
  int victim = -1;
  for (int fd = 3; fd < 64 && victim < 0; ++fd) {
    std::error_code ignored;
    if (fs::read_symlink("/proc/self/fd/" + std::to_string(fd), ignored) == temporary_) victim = fd;
  }
  ASSERT_GE(victim, 0);
  ASSERT_GE(dup2(full, victim), 0);
  close(full);
  file.write("something");
  EXPECT_EQ(error_of([&] { file.commit(); }),
            "cannot write " + temporary_.string() + ": No space left on device");
  EXPECT_FALSE(fs::exists(path_));
}

TEST_F(Files, MappingsShowTheFile) {
  write_file(path_, "mapped");
  MappedFile map(path_);
  ASSERT_EQ(map.size_bytes(), 6u);
  EXPECT_EQ(std::string(reinterpret_cast<const char*>(map.data()), 6), "mapped");
  const MappedFile moved(std::move(map));
  EXPECT_EQ(map.size_bytes(), 0u);
  EXPECT_EQ(std::to_integer<char>(moved.data()[5]), 'd');
  write_file(path_, "");
  EXPECT_EQ(MappedFile(path_).size_bytes(), 0u);
}

TEST(Paths, WithoutASlashBehindThem) {
  EXPECT_EQ(without_slash("runs/a/"), "runs/a");
  EXPECT_EQ(without_slash("./runs//b/../a"), "runs/a");
  EXPECT_EQ(without_slash("/"), "/");
}

TEST(ScratchFolder, TakesItsFilesWithIt) {
  fs::path path;
  {
    const ScratchFolder folder;
    path = folder.path();
    fs::create_directories(path / "a" / "b");
    EXPECT_NE(path, ScratchFolder().path());
  }
  EXPECT_FALSE(fs::exists(path));
}

TEST(FileDescriptor, HasOneOwner) {
  const auto is_open = [](int fd) { return fcntl(fd, F_GETFD) >= 0; };
  int fd = -1;
  {
    FileDescriptor file = open_file("/dev/null", O_RDONLY);
    fd = file.get();
    const FileDescriptor owner(std::move(file));
    EXPECT_FALSE(file.is_open());
    EXPECT_TRUE(is_open(fd));
  }
  EXPECT_FALSE(is_open(fd));
}

TEST(Xxh3, MatchesPublishedValues) {
  EXPECT_EQ(xxh3_hex(""), "2d06800538d394c2");  // xxHash's own value for empty input and seed 0
  EXPECT_EQ(xxh3_hex("a").size(), 16u);
  EXPECT_NE(xxh3_hex("a"), xxh3_hex("b"));
}

}  // namespace
}  // namespace basin
