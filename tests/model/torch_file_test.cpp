// Files of torch.save, sound ones and ones that mean harm. tests/model/torch_save.bin was written
// by torch 2.11.
#include "model/torch_file.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "configs/files.h"
#include "model/torch_pickle.h"
#include "model/zip_directory.h"
#include "tests/model/torch_archive.h"

namespace basin {
namespace {

using namespace pickled;

std::span<const std::byte> bytes_of(const std::string& s) {
  return std::as_bytes(std::span(s));
}

/// The message with which `read` refuses, one line; empty when it does not.
template <class Read>
std::string refusal(Read read) {
  try {
    read();
    return "";
  } catch (const std::runtime_error& e) {
    const std::string what = e.what();
    EXPECT_EQ(what.find('\n'), std::string::npos) << what;
    EXPECT_LT(what.size(), 500u) << what;
    return what;
  }
}
std::string pickle_refusal(const std::string& pickle) {
  return refusal([&] { read_state_dict("x: data.pkl", bytes_of(pickle)); });
}
std::string file_refusal(const std::string& file) {
  return refusal([&] { read_torch_file("x.bin", bytes_of(file)); });
}

const std::string kStorage = storage("FloatStorage", "0", 6);

TEST(TorchFile, ReadsWhatTorchWrote) {
  const std::string file = read_file(BASIN_SOURCE_DIR "/tests/model/torch_save.bin");
  const auto tensors = read_torch_file("x.bin", bytes_of(file));
  ASSERT_EQ(tensors.size(), 7u);
  const TorchTensor &a = tensors.at("a"), &t = tensors.at("t"), &h = tensors.at("h");
  EXPECT_EQ(a.dtype, "F32");
  EXPECT_EQ(a.shape, (std::vector<int64_t>{2, 3}));
  EXPECT_EQ(a.strides, (std::vector<int64_t>{3, 1}));
  EXPECT_EQ(t.begin, a.begin) << "one storage";
  EXPECT_EQ(t.strides, (std::vector<int64_t>{1, 3}));
  float values[6];
  ASSERT_EQ(a.end - a.begin, sizeof(values));
  std::memcpy(values, file.data() + a.begin, sizeof(values));
  for (int i = 0; i < 6; ++i) EXPECT_EQ(values[i], i);
  EXPECT_EQ(h.dtype, "F16");
  EXPECT_EQ(h.offset, 1);
  EXPECT_EQ(h.shape, std::vector<int64_t>{2});
  EXPECT_EQ(tensors.at("b").dtype, "BF16");
  EXPECT_TRUE(tensors.at("b").shape.empty());
  EXPECT_EQ(tensors.at("p").shape, std::vector<int64_t>{1}) << "a parameter is its tensor";
  EXPECT_EQ(tensors.at("e").shape, (std::vector<int64_t>{0, 4}));
  EXPECT_EQ(tensors.at("x").strides, (std::vector<int64_t>{0, 0}));
}

TEST(TorchFile, EveryTruncationIsRefusedAndNoFlippedByteDoesHarm) {
  const std::string file = read_file(BASIN_SOURCE_DIR "/tests/model/torch_save.bin");
  for (size_t size = 0; size < file.size(); ++size)
    EXPECT_NE(file_refusal(file.substr(0, size)), "") << size;
  for (size_t i = 0; i < file.size(); ++i) {
    std::string damaged = file;
    damaged[i] = static_cast<char>(damaged[i] ^ 0xff);
    file_refusal(damaged);  // or read: nothing checks what the tensors hold
  }
}

TEST(TorchFile, OtherFormatsAreNamed) {
  EXPECT_NE(file_refusal(std::string("\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8", 12))
                .find("before PyTorch 1.6, which is not read: convert it"),
            std::string::npos);
  EXPECT_NE(file_refusal("").find("no zip archive"), std::string::npos);
  EXPECT_NE(file_refusal(std::string(1000, 'x')).find("no zip archive"), std::string::npos);
  EXPECT_NE(file_refusal(zip({{"a.txt", "a"}})).find("none of torch.save: it holds no data.pkl"),
            std::string::npos);
  EXPECT_NE(
      file_refusal(zip({{"m/data.pkl", dict({})}, {"m/constants.pkl", ""}})).find("TorchScript"),
      std::string::npos);
  EXPECT_NE(file_refusal(zip({{"m/data.pkl", dict({})}, {"n/data.pkl", ""}})).find("holds both"),
            std::string::npos);
  EXPECT_NE(file_refusal(zip({{"m/data.pkl", dict({})}, {"m/byteorder", "big"}}))
                .find("byte order \"big\""),
            std::string::npos);
}

TEST(TorchFile, StoragesMustBeThereInTheirSize) {
  const std::string pickle = dict({{"a\n", tensor(kStorage, 0, {2, 3}, {3, 1})}});
  const auto with = [&](const std::string& key, size_t size) {
    return zip({{"m/data.pkl", pickle}, {"m/data/" + key, std::string(size, 'x')}});
  };
  EXPECT_EQ(file_refusal(with("0", 24)), "");
  EXPECT_EQ(file_refusal(with("1", 24)),
            "x.bin: tensor \"a\\n\": its storage \"data/0\" is missing");
  for (const size_t size : {0, 23, 25, 28})
    EXPECT_NE(file_refusal(with("0", size)).find("expected 6 elements of F32"), std::string::npos);
  const auto files = read_torch_file("x.bin", bytes_of(with("0", 24)));
  EXPECT_EQ(files.at("a\n").end - files.at("a\n").begin, 24u);
}

TEST(ZipDirectory, FindsMembersInBothForms) {
  for (const bool long_member : {false, true})
    for (const bool long_end : {false, true}) {
      const std::string file = zip({{.name = "a", .data = "1234", .zip64 = long_member},
                                    {.name = "b/c", .data = "", .flags = 8, .own_size = 0},
                                    {.name = "d", .data = "56", .zip64 = long_member}},
                                   {.zip64 = long_end});
      const auto members = read_zip_directory("x", bytes_of(file));
      ASSERT_EQ(members.size(), 3u);
      EXPECT_EQ(file.substr(members.at("a").begin, members.at("a").size()), "1234");
      EXPECT_EQ(members.at("b/c").size(), 0u);
      EXPECT_EQ(file.substr(members.at("d").begin, members.at("d").size()), "56");
    }
}

TEST(ZipDirectory, RefusesLies) {
  const ZipMember good{"m/a", "1234"};
  const struct {
    const char* message;
    std::string file;
  } cases[] = {
      {"no end of its directory", zip({good}) + "x"},
      {"up to byte", "x" + zip({good})},
      {"2 are announced", zip({good}, {.count = 2})},
      {"0 are announced", zip({good}, {.count = 0})},
      {"up to byte", zip({good}, {.bytes = 1})},
      {"up to byte", zip({good}, {.bytes = UINT32_MAX})},
      {"up to byte", zip({good}, {.offset = UINT32_MAX})},
      {"up to byte", zip({good}, {.offset = 7, .zip64 = true})},
      {"no record of the archive's directory at byte 7", zip({good}, {.bytes = 83, .offset = 7})},
      {"\"m/a\" in the archive: is compressed (method 8)",
       zip({{.name = "m/a", .data = "1", .method = 8}})},
      {"is encrypted", zip({{.name = "m/a", .data = "1", .flags = 1}})},
      {"has 4000000000 bytes by the directory, 4 by its own header",
       zip({{.name = "m/a", .data = "1234", .listed_size = 4'000'000'000}})},
      {"would end past the data",
       zip({{.name = "m/a", .data = "1234", .flags = 8, .listed_size = 4'000'000'000}})},
      {"would end past the data",
       zip({{.name = "m/a", .data = "1234", .flags = 8, .listed_size = 5, .zip64 = true}})},
      {"zip64 record is missing",
       zip({{.name = "m/a", .data = "1234", .flags = 8, .listed_size = UINT32_MAX}})},
      {"is not at byte 2, where the directory has it",
       zip({{.name = "m/a", .data = "1234", .listed_offset = 2}})},
      {"is not at byte 4294967294",
       zip({{.name = "m/a", .data = "1234", .listed_offset = UINT32_MAX - 1}})},
      {"calls itself \"m/b\"", zip({{.name = "m/a", .data = "1234", .own_name = "m/b"}})},
      {"\"m/a\" in the archive: occurs twice", zip({good, good})},
      {"overlap",
       zip({{.name = "m/a", .data = std::string(50, ' '), .flags = 8, .listed_size = 60},
            {"m/b", "1"}})},
  };
  for (const auto& c : cases) {
    const std::string found = refusal([&] { read_zip_directory("x", bytes_of(c.file)); });
    EXPECT_NE(found.find(c.message), std::string::npos) << c.message << ": " << found;
  }
}

TEST(TorchPickle, NothingButTensorsIsEverAskedFor) {
  const std::string run = text("touch /tmp/basin-was-here") + "\x85R.";
  const struct {
    const char* asks;
    std::string pickle;
  } cases[] = {
      {"os.system", "\x80\x02" + global("os", "system") + run},
      {"posix.system", "\x80\x02" + global("posix", "system") + run},
      {"builtins.eval", "\x80\x02" + global("builtins", "eval") + run},
      {"builtins.exec", "cbuiltins\nexec\n(S'1'\ntR."},
      {"torch._utils._rebuild_tensor_v3",
       "\x80\x02" + global("torch._utils", "_rebuild_tensor_v3")},
      {"torch.load", "\x80\x02" + global("torch", "load")},
      {"numpy.core.multiarray._reconstruct",
       "\x80\x02" + global("numpy.core.multiarray", "_reconstruct")},
      {"os.system", "(ios\nsystem\n."},
      {"os.system",
       std::string("\x80\x04\x95\x16\0\0\0\0\0\0\0\x8c\x02os\x94\x8c\x06system\x94\x93", 26) + run},
      // a harmless call whose argument asks for harm
      {"os.system",
       "\x80\x02" + global("collections", "OrderedDict") + "(" + global("os", "system") + run},
      {"evil\\nname.x\\u0001", "\x80\x04" + text("evil\nname") + text("x\x01") + "\x93"},
  };
  for (const auto& c : cases)
    EXPECT_NE(pickle_refusal(c.pickle).find(std::string("asks for ") + c.asks +
                                            ": only tensors are read, no code is run"),
              std::string::npos)
        << pickle_refusal(c.pickle);
  EXPECT_EQ(pickle_refusal("\x80\x02" + global("os", "system") + "."),
            "x: data.pkl: byte 2: asks for os.system: only tensors are read, no code is run");
}

TEST(TorchPickle, CallsOfAnythingElseAreRefused) {
  const std::string begin = "\x80\x02";
  const struct {
    const char* message;
    std::string pickle;
  } cases[] = {
      {"calls torch.FloatStorage", begin + global("torch", "FloatStorage") + ")R."},
      {"calls a tensor", begin + tensor(kStorage, 0, {1}, {1}) + ")R."},
      {"calls text", begin + text("os.system") + ")R."},
      {"OrderedDict made with arguments",
       begin + global("collections", "OrderedDict") + "K\x01\x85R."},
      {"a list of arguments should be a tuple",
       begin + global("collections", "OrderedDict") + text("x") + "R."},
      {"what is given attributes should be a dictionary",
       begin + tensor(kStorage, 0, {1}, {1}) + "}b."},
      {"_rebuild_parameter without its three arguments",
       begin + global("torch._utils", "_rebuild_parameter") + ")R."},
      {"a parameter's data should be a tensor, found None",
       begin + global("torch._utils", "_rebuild_parameter") + "N\x89N\x87R."},
      {"opcode 0x81", begin + global("collections", "OrderedDict") + ")\x81."},
      {"opcode 0x6f", begin + "(" + global("collections", "OrderedDict") + "o."},
      {"opcode 0x82", begin + "\x82\x01."},
      {"opcode 0x32", begin + "K\x01" + "2."},  // DUP
      {"opcode 0x50", begin + "P0\n."},         // PERSID
      {"no storage of a tensor", begin + text("file:///etc/passwd") + "\x85Q."},
      {"no storage of a tensor", begin + sizes({1, 2, 3, 4, 5}) + "Q."},
      {"a storage's type is none",
       begin +
           tuple(text("storage") + global("collections", "OrderedDict") + text("0") + text("cpu") +
                 integer(1)) +
           "Q."},
      {"pickle protocol 0", std::string("\x80\0.", 3)},
      {"pickle protocol 9", "\x80\x09."},
  };
  for (const auto& c : cases)
    EXPECT_NE(pickle_refusal(c.pickle).find(c.message), std::string::npos)
        << c.message << ": " << pickle_refusal(c.pickle);
}

TEST(TorchPickle, DamageIsRefusedWhereItIs) {
  const struct {
    const char* message;
    std::string pickle;
  } cases[] = {
      {"byte 0: wants 1 more bytes, 0 are left", ""},
      {"byte 2: wants 4294967295 more bytes", "\x80\x02X\xff\xff\xff\xff."},
      {"a name without end",
       "\x80\x02"
       "cos"},
      {"takes a value where there is none", "\x80\x02."},
      {"takes a value where there is none", "\x80\x02R."},
      {"takes a value where there is none", "\x80\x02K\x01\x86."},
      {"takes a value where there is none", "\x80\x02K\x01(\x85."},
      {"takes a value where there is none", "\x80\x02q\x01."},
      {"looks for a mark where there is none", "\x80\x02t."},
      {"looks for a mark where there is none", "\x80\x02u."},
      {"nothing was kept under number 7", "\x80\x02h\x07."},
      {"nothing was kept under number 4294967295", "\x80\x02j\xff\xff\xff\xff."},
      {"a key without a value", "\x80\x02}(K\x01u."},
      {"what has keys should be a dictionary", "\x80\x02N(K\x01K\x02u."},
      {"an integer of 255 bytes", "\x80\x02\x8a\xff" + std::string(300, 'x')},
      {"something left over", dict({}) + "x"},
      {"something left over", "\x80\x02K\x01}."},
      {"file's content should be a dictionary, found an integer", "\x80\x02K\x01."},
      {"file's content should be a dictionary, found a tensor",
       "\x80\x02" + tensor(kStorage, 0, {1}, {1}) + "."},
      {"\"a\" holds a dictionary, expected a tensor", dict({{"a", "}"}})},
      {"names \"a\" twice",
       dict({{"a", tensor(kStorage, 0, {1}, {1})}, {"a", tensor(kStorage, 0, {1}, {1})}})},
      {"a key of the state dict is an integer",
       "\x80\x02}K\x01"
       "K\x02s."},
      {"at most 8388608 are read", std::string((8 << 20) + 1, 'N')},
  };
  for (const auto& c : cases)
    EXPECT_NE(pickle_refusal(c.pickle).find(c.message), std::string::npos)
        << c.message << ": " << pickle_refusal(c.pickle);
}

TEST(TorchPickle, TensorsStayInsideTheirStorage) {
  const int64_t huge = INT64_MAX;
  const struct {
    const char* message;  // none: accepted
    std::string tensor;
  } cases[] = {
      {"", tensor(kStorage, 0, {2, 3}, {3, 1})},
      {"", tensor(kStorage, 0, {3, 2}, {1, 3})},
      {"", tensor(kStorage, 5, {}, {})},
      {"", tensor(kStorage, 6, {0}, {1})},
      {"", tensor(kStorage, 5, {7, 7}, {0, 0})},
      {"", tensor(kStorage, 0, {0, 1000, 1000}, {huge, huge, huge})},
      {"reaches beyond", tensor(kStorage, 0, {0, huge, huge}, {1, 1, 1})},
      {"", tensor(kStorage, 0, {1}, {1}, "}")},
      {"reaches beyond its storage \"0\" of 6 elements", tensor(kStorage, 1, {2, 3}, {3, 1})},
      {"reaches beyond", tensor(kStorage, 0, {2, 3}, {4, 1})},
      {"reaches beyond", tensor(kStorage, 6, {}, {})},
      {"reaches beyond", tensor(kStorage, 7, {0}, {1})},
      {"reaches beyond", tensor(kStorage, -1, {1}, {1})},
      {"reaches beyond", tensor(kStorage, 0, {huge, huge}, {0, 0})},
      {"reaches beyond", tensor(kStorage, huge, {2}, {huge})},
      {"reaches beyond", tensor(kStorage, 0, {3}, {huge})},
      {"a tensor's size is -1", tensor(kStorage, 0, {-1}, {1})},
      {"a tensor's stride is -1", tensor(kStorage, 5, {2}, {-1})},
      {"a storage of -6 elements", tensor(storage("FloatStorage", "0", -6), 0, {1}, {1})},
      {"1 dimensions with 2 strides", tensor(kStorage, 0, {1}, {1, 1})},
      {"a tensor of 17 dimensions",
       tensor(kStorage, 0, std::vector<int64_t>(17, 1), std::vector<int64_t>(17, 1))},
      {"a tensor with metadata", tensor(kStorage, 0, {1}, {1}, "}K\x01K\x02s")},
      {"with 8 arguments", tensor(kStorage, 0, {1}, {1}, "NN")},
      {"a tensor's storage should be a storage, found text", tensor(text("0"), 0, {1}, {1})},
  };
  for (const auto& c : cases) {
    const std::string found = pickle_refusal(dict({{"a", c.tensor}}));
    if (std::string(c.message).empty())
      EXPECT_EQ(found, "");
    else
      EXPECT_NE(found.find(c.message), std::string::npos) << c.message << ": " << found;
  }
}

// Values that contain each other many times over, or themselves, cost what their bytes cost.
TEST(TorchPickle, BombsDoNotGoOff) {
  std::string lists = "\x80\x02]q\x01";  // each list holds the one before ten times
  for (int level = 0; level < 100; ++level)
    lists +=
        "](" + std::string("h\x01h\x01h\x01h\x01h\x01h\x01h\x01h\x01h\x01h\x01", 20) + "eq\x01";
  EXPECT_NE(pickle_refusal(lists + ".").find("left over"), std::string::npos);
  std::string tuples = "\x80\x02)";
  for (int level = 0; level < 2'000'000; ++level) tuples += "\x85";
  EXPECT_NE(pickle_refusal(tuples + ".").find("should be a dictionary"), std::string::npos);
  EXPECT_EQ(pickle_refusal("\x80\x02}q\x01h\x01"
                           "b."),
            "")
      << "its own attribute";
  EXPECT_NE(pickle_refusal("\x80\x02}q\x01" + text("a") + "h\x01s.").find("holds a dictionary"),
            std::string::npos);
  EXPECT_NE(pickle_refusal("\x80\x02" + std::string(5'000'000, '(') + ".").find("takes a value"),
            std::string::npos);
  std::string calls = "\x80\x02" + kStorage + "q\x01";
  for (int n = 0; n < 100'000; ++n)
    calls +=
        "h\x01"
        "0";
  EXPECT_NE(pickle_refusal(calls + ".").find("opcode 0x30"), std::string::npos);
}

}  // namespace
}  // namespace basin
