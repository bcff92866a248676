#include "model/safetensors.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cstring>
#include <fstream>

#include "configs/scratch_folder.h"


namespace basin {
namespace {

/// A file from a header and its data, with the length in front.
std::string file_bytes(const std::string& header, const std::string& data) {
  std::string bytes(8, '\0');
  const uint64_t length = header.size();
  std::memcpy(bytes.data(), &length, 8);
  return bytes + header + data;
}

std::string floats(const std::vector<float>& values) {
  return {reinterpret_cast<const char*>(values.data()), values.size() * 4};
}

class Safetensors : public ::testing::Test {
 protected:
  SafetensorsFile open(const std::string& bytes) {
    std::ofstream(path_, std::ios::binary) << bytes;
    return SafetensorsFile(path_);
  }
  /// The message with which the file is refused; empty when it is not.
  std::string refusal(const std::string& bytes) {
    try {
      open(bytes);
      return "";
    } catch (const std::runtime_error& e) {
      EXPECT_NE(std::string(e.what()).find(path_.string()), std::string::npos) << e.what();
      return e.what();
    }
  }

  ScratchFolder directory_;
  const std::filesystem::path path_ = directory_.path() / "x.safetensors";
};

TEST_F(Safetensors, RoundTripOfEveryDtypeAndShape) {
  std::vector<std::pair<std::string, at::Tensor>> tensors;
  for (const at::ScalarType type : {at::kFloat,
                                    at::kDouble,
                                    at::kBFloat16,
                                    at::kHalf,
                                    at::kLong,
                                    at::kInt,
                                    at::kShort,
                                    at::kChar,
                                    at::kByte,
                                    at::kBool})
    tensors.emplace_back(c10::toString(type), at::randint(0, 100, {3, 5}).to(type));
  tensors.emplace_back("scalar", at::scalar_tensor(2.5));
  tensors.emplace_back("empty", at::empty({0, 4}));
  tensors.emplace_back("transposed", at::randn({4, 6}).t());
  write_safetensors(path_, tensors);
  const SafetensorsFile file(path_);
  EXPECT_EQ(file.entries().size(), tensors.size());
  EXPECT_TRUE(read_file(path_).substr(8).starts_with(R"({"__metadata__":{"format":"pt"},)"));
  for (const auto& [name, tensor] : tensors) {
    const at::Tensor read = file.read(name);
    EXPECT_EQ(read.scalar_type(), tensor.scalar_type()) << name;
    EXPECT_TRUE(at::equal(read, tensor)) << name;
  }
}

TEST_F(Safetensors, WritesTheReferenceOrderFromAnAlignedByte) {
  write_safetensors(path_,
                    {{"b", at::zeros({2}, at::kHalf)},
                     {"a", at::zeros({2}, at::kBFloat16)},
                     {"d", at::ones({3})},
                     {"c", at::zeros({1})},
                     {"z", at::zeros({1}, at::kLong)}});
  const SafetensorsFile file(path_);
  const auto begin = [&](const char* name) { return file.entries().at(name).begin; };
  EXPECT_EQ(begin("z") % 64, 0u);
  EXPECT_LT(begin("z"), begin("c"));  // I64, F32 by name, BF16, F16: as safetensors 0.8 sorts
  EXPECT_LT(begin("c"), begin("d"));
  EXPECT_LT(begin("d"), begin("a"));
  EXPECT_LT(begin("a"), begin("b"));
  EXPECT_EQ(read_file(path_)[8], '{');
}

TEST_F(Safetensors, TheSameTensorsGiveTheSameBytes) {
  const at::Tensor a = at::randn({3}), b = at::randn({2});
  const ManifestEntry entry = write_safetensors(path_, {{"a", a}, {"b", b}});
  const std::string first = read_file(path_);
  EXPECT_EQ(entry.file.bytes, first.size());
  EXPECT_EQ(entry.file.xxh3, xxh3_hex(first));
  EXPECT_EQ(entry.tensors.size(), 2u);
  EXPECT_EQ(entry.tensors.at("b"), xxh3_hex({static_cast<const char*>(b.data_ptr()), 8}));
  write_safetensors(path_, {{"b", b}, {"a", a}});
  EXPECT_EQ(read_file(path_), first);
}

TEST_F(Safetensors, RefusesToWriteANameTwice) {
  EXPECT_THROW(write_safetensors(path_, {{"a", at::zeros({1})}, {"a", at::zeros({1})}}),
               std::invalid_argument);
  EXPECT_THROW(write_safetensors(path_, {{"__metadata__", at::zeros({1})}}), std::invalid_argument);
  EXPECT_FALSE(std::filesystem::exists(path_));
}

TEST_F(Safetensors, AFailedWriteLeavesTheOldFile) {
  write_safetensors(path_, {{"a", at::ones({2})}});
  std::vector<SafetensorsSource> sources = {{"a", at::kFloat, {2}, [] { return at::zeros({3}); }}};
  EXPECT_THROW(write_safetensors(path_, sources), c10::Error);
  EXPECT_TRUE(at::equal(SafetensorsFile(path_).read("a"), at::ones({2})));
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(directory_.path()), {}), 1);
}

// The reader's list: what the reference reader accepts ...
TEST_F(Safetensors, AcceptsOddHeaderLengthAnyEntryOrderAndLeadingSpace) {
  const SafetensorsFile file = open(file_bytes(
      R"(  {"b":{"dtype":"F32","shape":[1],"data_offsets":[4,8]},"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}} )",
      floats({1, 2})));
  EXPECT_EQ(file.read("a").item<float>(), 1);
  EXPECT_EQ(file.read("b").item<float>(), 2);
}

TEST_F(Safetensors, AcceptsScalarsEmptyTensorsAndMisalignedData) {
  const SafetensorsFile file = open(file_bytes(
      R"({"h":{"dtype":"BF16","shape":[1],"data_offsets":[0,2]},"e":{"dtype":"F32","shape":[0],"data_offsets":[2,2]},"s":{"dtype":"F32","shape":[],"data_offsets":[2,6]}})",
      std::string("\x80\x3f", 2) + floats({3})));
  EXPECT_EQ(file.read("h").item<float>(), 1);
  EXPECT_EQ(file.read("s").item<float>(), 3);
  EXPECT_EQ(file.read("s").dim(), 0);
  EXPECT_EQ(file.read("e").numel(), 0);
}

TEST_F(Safetensors, KnowsDtypesThatItDoesNotCompute) {
  const SafetensorsFile file = open(file_bytes(
      R"({"a":{"dtype":"F8_E4M3","shape":[4],"data_offsets":[0,4]},"q":{"dtype":"F4","shape":[2],"data_offsets":[4,5]}})",
      "12345"));
  EXPECT_THROW(file.read("a"), std::runtime_error);
  EXPECT_THROW(file.read("nothing"), std::runtime_error);
}

// ... and what it rejects.
TEST_F(Safetensors, RejectsDamage) {
  const auto one = [](const std::string& entry) {
    return file_bytes("{\"a\":" + entry + "}", floats({1}));
  };
  const std::string two =
      R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[1],"data_offsets":)";
  const struct {
    const char *what, *message;
    std::string bytes;
  } cases[] = {
      {"hole",
       "\"b\" begins at data byte 8, expected 4: tensors leave a hole",
       file_bytes(two + "[8,12]}}", floats({1, 2, 3}))},
      {"overlap",
       "\"b\" begins at data byte 0, expected 4: tensors overlap",
       file_bytes(two + "[0,4]}}", floats({1}))},
      {"not from 0",
       "\"a\" begins at data byte 4, expected 0",
       file_bytes(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})", floats({1, 2}))},
      {"duplicate",
       "the header at byte 8: key \"a\" occurs twice",
       file_bytes(
           R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})",
           floats({1, 2}))},
      {"duplicate inside",
       "key \"shape\" occurs twice",
       one(R"({"dtype":"F32","shape":[2],"shape":[1],"data_offsets":[0,4]})")},
      {"trailing byte",
       "longer than it should be",
       one(R"({"dtype":"F32","shape":[1],"data_offsets":[0,4]})") + "x"},
      {"short", "cut short", one(R"({"dtype":"F32","shape":[2],"data_offsets":[0,8]})")},
      {"size",
       "span 4 bytes, but F32 of shape (2) takes 8",
       one(R"({"dtype":"F32","shape":[2],"data_offsets":[0,4]})")},
      {"overflow",
       "no whole number of bytes",
       one(R"({"dtype":"F32","shape":[4294967296,4294967296,4],"data_offsets":[0,4]})")},
      {"overflow beside a zero",
       "no whole number of bytes",
       file_bytes(
           R"({"a":{"dtype":"F32","shape":[0,4294967296,4294967296],"data_offsets":[0,0]}})", "")},
      {"half a byte",
       "no whole number of bytes",
       one(R"({"dtype":"F4","shape":[3],"data_offsets":[0,4]})")},
      {"backwards", "no [begin, end]", one(R"({"dtype":"F32","shape":[1],"data_offsets":[4,0]})")},
      {"three offsets",
       "no [begin, end]",
       one(R"({"dtype":"F32","shape":[1],"data_offsets":[0,4,8]})")},
      {"negative",
       "\"shape\" is no list of non-negative integers",
       one(R"({"dtype":"F32","shape":[-1],"data_offsets":[0,4]})")},
      {"fraction",
       "\"data_offsets\" is no list",
       one(R"({"dtype":"F32","shape":[1],"data_offsets":[0,4.0]})")},
      {"no shape", "\"shape\" is no list", one(R"({"dtype":"F32","data_offsets":[0,4]})")},
      {"unknown dtype",
       "\"a\": unknown dtype \"F33\"",
       one(R"({"dtype":"F33","shape":[1],"data_offsets":[0,4]})")},
      {"no dtype", "unknown dtype (none given)", one(R"({"shape":[1],"data_offsets":[0,4]})")},
      {"number in metadata",
       "__metadata__: \"n\" is no string but 3",
       file_bytes(R"({"__metadata__":{"n":3}})", "")},
      {"list for metadata",
       "__metadata__ is no JSON object",
       file_bytes(R"({"__metadata__":[]})", "")},
      {"entry no object", "its entry is no JSON object", one("3")},
      {"header no object", "no JSON object", file_bytes("[]", "")},
      {"broken JSON", "no valid JSON", file_bytes("{\"a\":", "")},
      {"no file", "too few", "1234567"},
      {"empty file", "too few", ""},
      {"header past the end", "header of 5", std::string("\x05\0\0\0\0\0\0\0{}  ", 12)},
      {"huge header", "not a safetensors file", std::string(8, '\xff') + "{}"},
  };
  for (const auto& c : cases)
    EXPECT_NE(refusal(c.bytes).find(c.message), std::string::npos)
        << c.what << ": " << refusal(c.bytes);
}

TEST_F(Safetensors, EveryTruncationIsRefused) {
  write_safetensors(path_, {{"a", at::randn({5})}, {"b", at::randn({3}).to(at::kBFloat16)}});
  const std::string whole = read_file(path_);
  for (size_t size = 0; size < whole.size(); ++size)
    EXPECT_NE(refusal(whole.substr(0, size)), "") << size;
  EXPECT_EQ(refusal(whole), "");
}

TEST_F(Safetensors, AHeaderOfMoreThan100MBIsRefusedUnread) {
  const uint64_t length = 100'000'001;
  std::string bytes(8, '\0');
  std::memcpy(bytes.data(), &length, 8);
  std::ofstream(path_, std::ios::binary) << bytes << "{}";
  std::filesystem::resize_file(path_, length + 8);  // a hole: takes no space
  try {
    const SafetensorsFile file(path_);
    FAIL();
  } catch (const std::runtime_error& e) {
    EXPECT_NE(std::string(e.what()).find("a header of 100000001 bytes, at most 100000000"),
              std::string::npos)
        << e.what();
  }
}

TEST_F(Safetensors, DeepNestingAndLongNamesMakeShortMessages) {
  const std::string deep = std::string(200'000, '[') + std::string(200'000, ']');
  EXPECT_NE(refusal(file_bytes("{\"a\":{\"dtype\":" + deep + "}}", "")).find("nested"),
            std::string::npos);
  const std::string name(1'000'000, 'n');
  EXPECT_LT(refusal(file_bytes("{\"" + name + "\":{\"dtype\":\"" + name + "\"}}", "")).size(), 500u);
  EXPECT_EQ(refusal(file_bytes(R"({"a\nb":3})", "")).find('\n'), std::string::npos);
  std::string dims = "1";
  for (int i = 0; i < 100; ++i) dims += ",1";
  EXPECT_NE(refusal(file_bytes("{\"a\":{\"dtype\":\"F32\",\"shape\":[" + dims +
                                   "],\"data_offsets\":[0,4]}}",
                               "1234"))
                .find("\"shape\" has 101 numbers, expected at most 64"),
            std::string::npos);
}

TEST_F(Safetensors, MissingFileIsNamed) {
  EXPECT_THROW(SafetensorsFile(directory_.path() / "none"), std::runtime_error);
}

}  // namespace
}  // namespace basin
