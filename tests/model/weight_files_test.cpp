// Directories of weights in all four layouts, and indices that lie.
#include "configs/scratch_folder.h"
#include "model/weight_files.h"

#include <ATen/ATen.h>
#include <gmock/gmock.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "model/safetensors.h"
#include "tests/model/torch_archive.h"

namespace basin {
namespace {

namespace fs = std::filesystem;
using testing::ElementsAre;
using testing::HasSubstr;
using Tensors = std::vector<std::pair<std::string, at::Tensor>>;

class WeightFilesTest : public ::testing::Test {
 protected:
  std::string path(const std::string& name) { return (directory_.path() / name).string(); }
  void put(const std::string& name, const std::string& bytes) { write_file(path(name), bytes); }
  void put_index(const nlohmann::json& weight_map, const char* kind = "model.safetensors") {
    put(std::string(kind) + ".index.json", nlohmann::json{{"weight_map", weight_map}}.dump());
  }
  WeightFiles open() { return WeightFiles(directory_.path()); }
  std::string refusal() {
    try {
      open();
      return "";
    } catch (const std::runtime_error& e) {
      EXPECT_THAT(std::string(e.what()), HasSubstr(directory_.path().string()));
      EXPECT_EQ(std::string(e.what()).find('\n'), std::string::npos) << e.what();
      return e.what();
    }
  }
  /// A file of torch.save with a float tensor 0, 1, .. of `rows` rows, and its transpose.
  static std::string torch_file(const std::string& name, int64_t rows, int64_t columns) {
    using namespace pickled;
    const std::string stored = storage("FloatStorage", "0", rows * columns);
    std::string data;
    for (int64_t i = 0; i < rows * columns; ++i) data += little_endian(static_cast<float>(i));
    return zip({{"m/data.pkl",
                 dict({{name, tensor(stored, 0, {rows, columns}, {columns, 1})},
                       {name + ".t", tensor(stored, 0, {columns, rows}, {1, columns})}})},
                {"m/data/0", data}});
  }

  ScratchFolder directory_;
};

TEST_F(WeightFilesTest, OneSafetensorsFile) {
  const Tensors all = {{"a", at::randn({4, 3})},
                       {"h", at::randn({5}).to(at::kHalf)},
                       {"b", at::randn({2, 2, 2}).to(at::kBFloat16)},
                       {"s", at::scalar_tensor(2.5)},
                       {"e", at::empty({0, 4})}};
  write_safetensors(path("model.safetensors"), all);
  put("pytorch_model.bin", "not looked at");
  const WeightFiles files = open();
  EXPECT_EQ(files.label(), path("model.safetensors"));
  EXPECT_THAT(files.names(), ElementsAre("a", "b", "e", "h", "s"));
  EXPECT_THAT(files.paths(), ElementsAre(path("model.safetensors")));
  for (const auto& [name, tensor] : all) {
    EXPECT_TRUE(at::equal(files.read(name), tensor)) << name;
    EXPECT_EQ(files.read(name).scalar_type(), tensor.scalar_type());
    EXPECT_EQ(files.shape(name), tensor.sizes().vec());
  }
  EXPECT_TRUE(files.has("a"));
  EXPECT_FALSE(files.has("c"));
  EXPECT_THROW(files.read("c"), std::runtime_error);
  EXPECT_TRUE(files.lies_before("a", "h")) << "F32 before F16 in the file";
  EXPECT_FALSE(files.lies_before("h", "a"));
}

TEST_F(WeightFilesTest, OneTorchFileWithStridesAndSharedStorage) {
  put("pytorch_model.bin", torch_file("w", 3, 4));
  const WeightFiles files = open();
  const at::Tensor w = at::arange(12, at::kFloat).view({3, 4});
  EXPECT_TRUE(at::equal(files.read("w"), w));
  EXPECT_TRUE(at::equal(files.read("w.t"), w.t()));
  EXPECT_TRUE(files.read("w.t").is_contiguous());
  EXPECT_FALSE(files.equal("w", "w.t"));
  EXPECT_TRUE(files.equal("w", "w"));
}

TEST_F(WeightFilesTest, RowsComeInParts) {
  const at::Tensor large = at::randn({1000, 5000});  // 20 MB
  using namespace pickled;
  const std::string stored = storage("FloatStorage", "0", large.numel());
  const std::string_view data(static_cast<const char*>(large.data_ptr()), large.nbytes());
  put("pytorch_model.bin",
      zip({{"m/data.pkl",
            dict({{"a", tensor(stored, 0, {1000, 5000}, {5000, 1})},
                  {"t", tensor(stored, 0, {5000, 1000}, {1, 5000})},
                  {"shifted", tensor(stored, 5000, {999, 5000}, {5000, 1})}})},
           {"m/data/0", std::string(data)}}));
  const WeightFiles files = open();
  for (const auto& [name, expected] :
       {std::pair("a", large), {"t", large.t()}, {"shifted", large.slice(0, 1)}}) {
    int64_t parts = 0, next = 0;
    at::Tensor copy = at::zeros(expected.sizes());
    files.for_rows(name, [&](const at::Tensor& rows, int64_t first_row) {
      EXPECT_EQ(first_row, next);
      next += rows.size(0);
      copy.narrow(0, first_row, rows.size(0)).copy_(rows);
      ++parts;
    });
    EXPECT_GT(parts, 2) << name;
    EXPECT_EQ(next, expected.size(0)) << name;
    EXPECT_TRUE(at::equal(copy, expected)) << name;
    EXPECT_TRUE(at::equal(files.read(name), expected)) << name;
  }
}

TEST_F(WeightFilesTest, WhatIsNotAlignedIsReadAllTheSame) {
  using namespace pickled;
  const std::string stored = storage("FloatStorage", "0", 3);
  for (int shift = 0; shift < 4; ++shift) {
    put("pytorch_model.bin",
        zip({{"m/" + std::string(shift, 'x'), ""},
             {"m/data.pkl", dict({{"a", tensor(stored, 1, {2}, {1})}})},
             {"m/data/0", little_endian(1.0f) + little_endian(2.0f) + little_endian(3.0f)}}));
    EXPECT_TRUE(at::equal(open().read("a"), at::tensor({2.0f, 3.0f}))) << shift;
  }
}

int64_t resident_file_bytes() {
  std::ifstream status("/proc/self/status");
  for (std::string word; status >> word;)
    if (int64_t kib = 0; word == "RssFile:" && status >> kib) return 1024 * kib;
  return 0;
}

TEST_F(WeightFilesTest, PagesLeaveMemoryAfterUse) {
  write_safetensors(path("model.safetensors"),
                    {{"a", at::ones({6000, 2500})},  // 60 MB
                     {"b", at::ones({6000, 2500})}});
  const WeightFiles files = open();
  const int64_t before = resident_file_bytes();
  int64_t most = 0;
  double sum = 0;
  files.for_rows("a", [&](const at::Tensor& rows, int64_t) {
    sum += rows.sum().item<double>();
    most = std::max(most, resident_file_bytes());
  });
  EXPECT_EQ(sum, 15e6);
  EXPECT_TRUE(files.equal("a", "b"));
  EXPECT_GT(most, before + 4'000'000) << "nothing was mapped: this test measures nothing";
  EXPECT_LT(most, before + 20'000'000);  // of 120; the kernel maps around what is touched
  EXPECT_LT(resident_file_bytes(), before + 10'000'000);  // what lies behind was fetched
}

TEST_F(WeightFilesTest, ShardsOfBothKinds) {
  write_safetensors(path("model-00001-of-00002.safetensors"), {{"a", at::ones({2})}});
  write_safetensors(path("model-00002-of-00002.safetensors"), {{"b", at::zeros({3})}});
  put_index({{"a", "model-00001-of-00002.safetensors"}, {"b", "model-00002-of-00002.safetensors"}});
  EXPECT_TRUE(at::equal(open().read("a"), at::ones({2})));
  EXPECT_TRUE(at::equal(open().read("b"), at::zeros({3})));
  EXPECT_EQ(open().label(), path("model.safetensors.index.json"));
  EXPECT_EQ(open().paths().size(), 2u);
  fs::remove(path("model.safetensors.index.json"));
  put("pytorch_model-1.bin", torch_file("x", 2, 2));
  put("pytorch_model-2.bin", torch_file("y", 3, 1));
  put_index({{"x", "pytorch_model-1.bin"},
             {"x.t", "pytorch_model-1.bin"},
             {"y", "pytorch_model-2.bin"},
             {"y.t", "pytorch_model-2.bin"}},
            "pytorch_model.bin");
  EXPECT_EQ(open().read("y.t").sizes(), (std::vector<int64_t>{1, 3}));
}

TEST_F(WeightFilesTest, IndexAndShardsAreHeldAgainstEachOther) {
  const std::string first = "model-1.safetensors", second = "model-2.safetensors";
  write_safetensors(path(first), {{"a", at::ones({2})}, {"b", at::ones({2})}});
  write_safetensors(path(second), {{"c", at::zeros({3})}});
  const nlohmann::json good = {{"a", first}, {"b", first}, {"c", second}};
  put_index(good);
  EXPECT_EQ(refusal(), "");
  const std::string index = path("model.safetensors.index.json");
  const auto with = [&](const char* key, const nlohmann::json& value) {
    nlohmann::json changed = good;
    changed[key] = value;
    put_index(changed);
    return refusal();
  };
  EXPECT_EQ(with("d", second),
            index + ": tensor \"d\": is not in " + second + ", nor in another file");
  EXPECT_EQ(with("b", second),
            index + ": tensor \"b\": is not in " + second + " but in " + path(first));
  EXPECT_EQ(with("d", "model-3.safetensors"),
            index + ": names " + path("model-3.safetensors") + ", which is not there");
  for (const char* name : {"../model-1.safetensors",
                           "/etc/model-1.safetensors",
                           "sub/model-1.safetensors",
                           "..\\model-1.safetensors",
                           "..",
                           ".",
                           ""})
    EXPECT_THAT(with("a", name), HasSubstr(index + ": tensor \"a\": \"")) << name;
  EXPECT_THAT(with("a", "../model-1.safetensors"), HasSubstr("is no file name"));
  EXPECT_THAT(with("a", std::string("model-1.safetensors\0.safetensors", 31)),
              HasSubstr("is no file name"));
  EXPECT_THAT(with("a", "model.safetensors.index.json"), HasSubstr("is an index itself"));
  EXPECT_THAT(with("a", "other.index.json"), HasSubstr("is an index itself"));
  EXPECT_THAT(with("a", "pytorch_model.bin"), HasSubstr("does not end with .safetensors"));
  EXPECT_THAT(with("a", ".safetensors"), HasSubstr("does not end with .safetensors"));
  EXPECT_THAT(with("a", 3), HasSubstr("tensor \"a\": 3 is no string"));
  put_index({{"a", first}, {"c", second}});
  EXPECT_EQ(refusal(), path(first) + ": tensor \"b\": is not named by " + index);
  write_safetensors(path(second), {{"c", at::zeros({3})}, {"a", at::zeros({2})}});
  put_index(good);
  EXPECT_EQ(refusal(), path(second) + ": tensor \"a\": is in " + path(first) + " too");
  fs::create_directory(path("d.safetensors"));
  EXPECT_THAT(with("d", "d.safetensors"), HasSubstr("d.safetensors: is no file"));
  for (const auto& [text, message] :
       {std::pair("[]", "no object \"weight_map\""),
        {"{}", "no object \"weight_map\""},
        {R"({"weight_map":[]})", "no object \"weight_map\""},
        {R"({"weight_map":{}})", "\"weight_map\" is empty"},
        {R"({"weight_map":{"a":"x","a":"y"}})", "key \"a\" occurs twice"},
        {"{", "no valid JSON"}}) {
    put("model.safetensors.index.json", text);
    EXPECT_THAT(refusal(), HasSubstr(index + ": " + message));
  }
}

TEST_F(WeightFilesTest, WhatIsNoWeightFileIsNamed) {
  EXPECT_THAT(refusal(), HasSubstr("no weights here: looked for model.safetensors"));
  put("model.safetensors", "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n");
  EXPECT_THAT(refusal(), HasSubstr("run 'git lfs pull' there"));
  put("model.safetensors", "");
  EXPECT_THAT(refusal(), HasSubstr("model.safetensors: 0 bytes are too few"));
  fs::remove(path("model.safetensors"));
  put("pytorch_model.bin", "");
  EXPECT_THAT(refusal(), HasSubstr("pytorch_model.bin: no zip archive"));
  using namespace pickled;
  put("pytorch_model.bin", zip({{"m/data.pkl", "\x80\x02" + global("os", "system") + "."}}));
  EXPECT_EQ(refusal(),
            path("pytorch_model.bin") +
                ": data.pkl: byte 2: asks for os.system: only tensors are read, no code is run");
}

TEST_F(WeightFilesTest, TensorsAreHeldAgainstTheManifest) {
  const Tensors all = {{"a", at::ones({3, 2})}, {"b", at::zeros({4})}};
  const std::string file = path("model.safetensors");
  Manifest manifest;
  manifest.add("model.safetensors", write_safetensors(file, all));
  manifest.write(directory_.path());
  EXPECT_TRUE(at::equal(open().read("b"), all[1].second));
  std::string bytes = read_file(file);
  bytes.back() ^= 1;
  write_file(file, bytes);
  const WeightFiles files = open();
  EXPECT_TRUE(at::equal(files.read("a"), all[0].second)) << "not damaged";
  try {
    files.read("b");
    ADD_FAILURE() << "a damaged tensor was handed out";
  } catch (const std::runtime_error& e) {
    EXPECT_THAT(std::string(e.what()), HasSubstr("model.safetensors: the checksum of tensor b is"));
  }
  write_file(file, bytes.substr(0, bytes.size() - 4));
  EXPECT_THAT(refusal(), HasSubstr("bytes, its manifest says"));

  write_file(file, bytes);  // an old manifest, with a checksum of the file alone
  nlohmann::json json = nlohmann::json::parse(read_file(path("manifest.json")));
  json["files"]["model.safetensors"].erase("tensors");
  json.erase("xxh3");
  write_file(path("manifest.json"), json.dump());
  EXPECT_THAT(refusal(), HasSubstr("the checksum of model.safetensors is"));
  fs::remove(path("manifest.json"));
  EXPECT_EQ(refusal(), "") << "nobody says what it should be";
}

TEST_F(WeightFilesTest, DtypesThatNobodyComputesWithAreNamedWhenTheyAreRead) {
  const std::string header = R"({"q":{"dtype":"F8_E4M3","shape":[2],"data_offsets":[0,2]}})";
  put("model.safetensors", little_endian<uint64_t>(header.size()) + header + "xx");
  const WeightFiles files = open();
  try {
    files.read("q");
    FAIL();
  } catch (const std::runtime_error& e) {
    EXPECT_THAT(e.what(), HasSubstr("model.safetensors: tensor \"q\" has dtype F8_E4M3"));
  }
}

}  // namespace
}  // namespace basin
