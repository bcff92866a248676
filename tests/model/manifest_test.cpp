#include "model/manifest.h"

#include <gmock/gmock.h>

#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>
#include <stdexcept>

#include "configs/scratch_folder.h"

namespace basin {
namespace {

namespace fs = std::filesystem;
using testing::EndsWith;
using testing::HasSubstr;
using testing::StartsWith;

constexpr uint64_t kHeaderBytes = 160;

/// A safetensors file of two tensors: `a` of 8 bytes, `b` of 12.
std::string two_tensors() {
  std::string header =
      R"({"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},)"
      R"("b":{"dtype":"F32","shape":[3],"data_offsets":[8,20]}})";
  header.resize(kHeaderBytes, ' ');
  std::string bytes(8, '\0');
  std::memcpy(bytes.data(), &kHeaderBytes, 8);
  return bytes + header + "aaaaAAAA" + "bbbbBBBBbbbb";
}

class ManifestTest : public testing::Test {
 protected:
  void SetUp() override {
    fs::create_directories(directory_ / "trainer");
    weights_ = {write_file(directory_ / "trainer/w.safetensors", two_tensors()),
                {{"a", xxh3_hex("aaaaAAAA")}, {"b", xxh3_hex("bbbbBBBBbbbb")}}};
    write_file(directory_ / "config.json", "{\"hidden_size\": 8}\n");
  }
  void write() const {
    Manifest manifest;
    manifest.add("trainer/w.safetensors", weights_);
    manifest.write(directory_);
  }
  /// What manifest_problem says while one bit of `file` is wrong.
  std::string problem_with_flip(const std::string& file, size_t byte, int bit) const {
    const std::string whole = read_file(directory_ / file);
    std::string bytes = whole;
    bytes[byte] = static_cast<char>(bytes[byte] ^ (1 << bit));
    std::ofstream(directory_ / file, std::ios::binary) << bytes;
    const std::string problem = manifest_problem(directory_).value_or("none");
    std::ofstream(directory_ / file, std::ios::binary) << whole;
    return problem;
  }
  nlohmann::ordered_json stored() const {
    return nlohmann::ordered_json::parse(read_file(directory_ / "manifest.json"));
  }

  const ScratchFolder folder_;
  const fs::path directory_ = folder_.path();
  ManifestEntry weights_;
};

TEST_F(ManifestTest, ListsWhatWasAddedAndReadsTheRest) {
  weights_.file.xxh3 = "as it was told";
  write();
  const auto files = stored().at("files");
  EXPECT_EQ(files.size(), 2u);
  EXPECT_EQ(files.at("trainer/w.safetensors").at("xxh3"), "as it was told");
  EXPECT_EQ(files.at("trainer/w.safetensors").at("tensors").at("a"), xxh3_hex("aaaaAAAA"));
  EXPECT_EQ(files.at("config.json").at("bytes"), 19);
  EXPECT_EQ(files.at("config.json").at("xxh3"), xxh3_hex("{\"hidden_size\": 8}\n"));
  EXPECT_FALSE(files.at("config.json").contains("tensors"));
}

TEST_F(ManifestTest, AnEntrySurvivesTheWayAsText) {
  const ManifestEntry there = manifest_entry_from_json(to_json(weights_));
  EXPECT_EQ(there.file.bytes, weights_.file.bytes);
  EXPECT_EQ(there.file.xxh3, weights_.file.xxh3);
  EXPECT_EQ(there.tensors, weights_.tensors);
  EXPECT_THROW(manifest_entry_from_json("{}"), nlohmann::json::exception);
}

TEST_F(ManifestTest, EveryFlippedBitIsFoundAndNamed) {
  write();
  ASSERT_EQ(manifest_problem(directory_), std::nullopt);
  const std::string name = "trainer/w.safetensors";
  const uint64_t a = 8 + kHeaderBytes, b = a + 8, end = b + 12;
  for (int bit = 0; bit < 8; ++bit) {
    for (uint64_t at = 0; at < end; ++at) {
      const std::string problem = problem_with_flip(name, at, bit);
      EXPECT_THAT(problem, StartsWith("the checksum of " + name));
      EXPECT_THAT(problem,
                  EndsWith(at < a   ? ": damaged is its header"
                           : at < b ? ": damaged is tensor a"
                                    : ": damaged is tensor b"))
          << "byte " << at << " bit " << bit;
    }
    for (uint64_t at = 0; at < 19; ++at)
      EXPECT_THAT(problem_with_flip("config.json", at, bit),
                  StartsWith("the checksum of config.json is"));
    for (uint64_t at = 0; at < fs::file_size(directory_ / "manifest.json"); ++at)
      EXPECT_THAT(problem_with_flip("manifest.json", at, bit), StartsWith("manifest.json: "))
          << "byte " << at << " bit " << bit;
  }
}

TEST_F(ManifestTest, CutAndMissingFilesAreNamed) {
  write();
  fs::resize_file(directory_ / "config.json", 5);
  EXPECT_EQ(manifest_problem(directory_), "config.json has 5 bytes, its manifest says 19");
  fs::remove(directory_ / "config.json");
  EXPECT_EQ(manifest_problem(directory_), "config.json is missing");
  fs::resize_file(directory_ / "manifest.json", 20);
  EXPECT_THAT(*manifest_problem(directory_), StartsWith("manifest.json: "));
  fs::remove(directory_ / "manifest.json");
  EXPECT_THAT(*manifest_problem(directory_), HasSubstr("it has no manifest.json"));
}

TEST_F(ManifestTest, OldManifestsStillVerify) {
  write();
  auto old = stored();
  old.erase("xxh3");
  old["files"]["trainer/w.safetensors"].erase("tensors");
  write_file(directory_ / "manifest.json", old.dump(2));
  EXPECT_EQ(manifest_problem(directory_), std::nullopt);
  EXPECT_THAT(problem_with_flip("trainer/w.safetensors", 180, 0),
              EndsWith("its manifest says " + weights_.file.xxh3));
}

TEST_F(ManifestTest, RefusesToVouchForWhatIsNotThere) {
  const auto error = [this] {
    try {
      write();
    } catch (const std::runtime_error& e) {
      return std::string(e.what());
    }
    return std::string("none");
  };
  fs::resize_file(directory_ / "trainer/w.safetensors", 100);
  EXPECT_THAT(error(), EndsWith("w.safetensors has 100 bytes, 188 were written"));
  fs::remove(directory_ / "trainer/w.safetensors");
  EXPECT_THAT(error(), HasSubstr("w.safetensors is missing: another process wrote it"));
  EXPECT_FALSE(fs::exists(directory_ / "manifest.json"));
}

}  // namespace
}  // namespace basin
