#include "data/indexed_dataset.h"

#include <array>
#include <cstring>
#include <functional>

#include "tests/data/data_fixture.h"

namespace basin {
namespace {

using Tokens = std::vector<int64_t>;

std::string from_hex(const std::string& hex) {
  std::string bytes;
  for (size_t i = 0; i < hex.size(); i += 2) {
    bytes += static_cast<char>(std::stoi(hex.substr(i, 2), nullptr, 16));
  }
  return bytes;
}

// Byte for byte what Megatron-LM's own builder writes for [5,6,7,2], [8,2], [9,10,11,12,13,2] as
// uint16 (facts/interop.md, section 11).
const std::string kGoldenIdx = from_hex(
    "4d4d494449445800000100000000000000080300000000000000040000000000000004000000020000000600000000"
    "000000000000000800000000000000"
    "0c000000000000000000000000000000010000000000000002000000000000000300000000000000");
const std::string kGoldenBin = from_hex("05000600070002000800020009000a000b000c000d000200");
const std::vector<std::vector<int32_t>> kGoldenDocuments = {
    {5, 6, 7, 2}, {8, 2}, {9, 10, 11, 12, 13, 2}};

// Offsets of the fields of the golden index.
constexpr size_t kVersion = 9, kDtype = 17, kSequences = 18, kBoundaries = 26, kSizes = 34,
                 kPointers = 46, kDocuments = 70;

class IndexedDatasetTest : public ::testing::Test {
 protected:
  IndexedDataset golden_with(
      const std::function<void(std::string& idx, std::string& bin)>& damage) {
    std::string idx = kGoldenIdx, bin = kGoldenBin;
    damage(idx, bin);
    folder_.write("d.idx", idx);
    folder_.write("d.bin", bin);
    return IndexedDataset(folder_ / "d");
  }
  std::string failure(const std::function<void(std::string& idx, std::string& bin)>& damage) {
    return message_of<std::runtime_error>([&] { golden_with(damage); });
  }
  template <class T>
  static void put(std::string& bytes, size_t offset, T value) {
    std::memcpy(bytes.data() + offset, &value, sizeof(T));
  }

  TemporaryFolder folder_;
};

TEST_F(IndexedDatasetTest, WritesMegatronsBytes) {
  write_dataset(folder_ / "d", 1024, kGoldenDocuments);
  EXPECT_EQ(read_file(folder_ / "d.idx"), kGoldenIdx);
  EXPECT_EQ(read_file(folder_ / "d.bin"), kGoldenBin);
}

TEST_F(IndexedDatasetTest, ReadsMegatronsBytes) {
  const IndexedDataset dataset = golden_with([](auto&, auto&) {});
  EXPECT_EQ(dataset.num_documents(), 3);
  EXPECT_EQ(all_tokens(dataset), (Tokens{5, 6, 7, 2, 8, 2, 9, 10, 11, 12, 13, 2}));
  EXPECT_EQ(dataset.document(1), (std::pair<int64_t, int64_t>{4, 6}));
  Tokens part(3);
  dataset.read(5, part);
  EXPECT_EQ(part, (Tokens{2, 9, 10}));
  EXPECT_EQ(dataset.max_token(), 13);
  EXPECT_EQ(dataset.find_any(std::array<int64_t, 2>{12, 8}), 8);
  EXPECT_EQ(dataset.find_any(std::array<int64_t, 1>{99}), std::nullopt);
  EXPECT_THROW(dataset.read(10, part), std::out_of_range);
}

TEST_F(IndexedDatasetTest, LargeVocabulariesTakeFourBytes) {
  write_dataset(folder_ / "d", 65500, {{70000, 2}, {}, {3}});
  const IndexedDataset dataset(folder_ / "d");
  EXPECT_EQ(std::filesystem::file_size(folder_ / "d.bin"), 12);
  EXPECT_EQ(dataset.num_documents(), 3);
  EXPECT_EQ(all_tokens(dataset), (Tokens{70000, 2, 3}));
  write_dataset(folder_ / "narrow", 65499, {{65498}});
  EXPECT_EQ(std::filesystem::file_size(folder_ / "narrow.bin"), 2);
}

TEST_F(IndexedDatasetTest, AcceptsWhatIsLegal) {
  const IndexedDataset with_modes =
      golden_with([](auto& idx, auto&) { idx += std::string(3, '\0'); });
  EXPECT_EQ(with_modes.num_tokens(), 12);
  const IndexedDataset empty_document =
      golden_with([](auto& idx, auto&) { put<int64_t>(idx, kDocuments + 16, 1); });
  EXPECT_EQ(empty_document.document(1), (std::pair<int64_t, int64_t>{4, 4}));
  const IndexedDataset nothing = golden_with([](auto& idx, auto& bin) {
    idx = idx.substr(0, kSizes) + std::string(8, '\0');
    put<uint64_t>(idx, kSequences, 0);
    put<uint64_t>(idx, kBoundaries, 1);
    bin.clear();
  });
  EXPECT_EQ(nothing.num_tokens(), 0);
  EXPECT_EQ(nothing.num_documents(), 0);
  EXPECT_EQ(nothing.max_token(), -1);
}

// Sequences stored in another order than they are listed, as filtering tools leave them.
TEST_F(IndexedDatasetTest, FollowsPointers) {
  const IndexedDataset dataset = golden_with([](auto& idx, auto&) {
    put<int32_t>(idx, kSizes, 6);
    put<int32_t>(idx, kSizes + 8, 4);
    put<int64_t>(idx, kPointers, 12);
    put<int64_t>(idx, kPointers + 16, 0);
  });
  EXPECT_EQ(all_tokens(dataset), (Tokens{9, 10, 11, 12, 13, 2, 8, 2, 5, 6, 7, 2}));
  Tokens across(5);
  dataset.read(4, across);
  EXPECT_EQ(across, (Tokens{13, 2, 8, 2, 5}));
}

TEST_F(IndexedDatasetTest, ReadsTheOtherIntegerTypes) {
  const IndexedDataset bytes = golden_with([](auto& idx, auto& bin) {
    put<uint8_t>(idx, kDtype, 1);
    put<int64_t>(idx, kPointers + 8, 4);
    put<int64_t>(idx, kPointers + 16, 6);
    bin = from_hex("050607020802090a0b0cff02");
  });
  EXPECT_EQ(bytes.max_token(), 255);
  const IndexedDataset wide = golden_with([](auto& idx, auto& bin) {
    put<uint8_t>(idx, kDtype, 5);
    put<int64_t>(idx, kPointers + 8, 32);
    put<int64_t>(idx, kPointers + 16, 48);
    std::string longer;
    for (size_t i = 0; i < bin.size(); i += 2) {
      longer += bin.substr(i, 2) + std::string(6, '\0');
    }
    bin = longer;
  });
  EXPECT_EQ(all_tokens(wide), (Tokens{5, 6, 7, 2, 8, 2, 9, 10, 11, 12, 13, 2}));
}

TEST_F(IndexedDatasetTest, RefusesForeignFiles) {
  expect_contains(
      failure([](auto& idx, auto&) { idx.replace(0, 8, std::string("TNTIDX\0\0", 8)); }),
      "old non-mmap");
  expect_contains(failure([](auto& idx, auto&) { idx[0] = 'X'; }), "does not begin with MMIDIDX");
  expect_contains(failure([](auto& idx, auto&) { put<uint64_t>(idx, kVersion, 2); }), "version 2");
  expect_contains(failure([](auto& idx, auto&) { put<uint8_t>(idx, kDtype, 7); }), "float32");
  expect_contains(failure([](auto& idx, auto&) { put<uint8_t>(idx, kDtype, 6); }), "float64");
  expect_contains(failure([](auto& idx, auto&) { put<uint8_t>(idx, kDtype, 2); }), "int8");
  expect_contains(failure([](auto& idx, auto&) { put<uint8_t>(idx, kDtype, 9); }), "dtype code 9");
}

TEST_F(IndexedDatasetTest, RefusesTruncatedAndDamagedFiles) {
  expect_contains(failure([](auto& idx, auto&) { idx.resize(20); }),
                  "20 bytes, the header alone has 34");
  expect_contains(failure([](auto& idx, auto&) { idx.clear(); }), "truncated");
  expect_contains(failure([](auto& idx, auto&) { idx.pop_back(); }), "101 bytes");
  expect_contains(failure([](auto& idx, auto&) { idx += '\0'; }), "103 bytes");
  expect_contains(
      failure([](auto& idx, auto&) { put<uint64_t>(idx, kSequences, ~uint64_t{0} / 4); }),
      "sequences");
  expect_contains(failure([](auto& idx, auto&) { put<int32_t>(idx, kSizes + 4, -2); }),
                  "sequence 1 has the negative size -2");
  expect_contains(failure([](auto&, auto& bin) { bin.pop_back(); }),
                  "d.bin: truncated: 23 bytes, but sequence 2");
  expect_contains(failure([](auto&, auto& bin) { bin.clear(); }), "d.bin: truncated");
  expect_contains(failure([](auto&, auto& bin) { bin += "xy"; }),
                  "d.bin: 26 bytes, but " + (folder_ / "d.idx").string() + " accounts for 24");
  expect_contains(failure([](auto& idx, auto&) { put<int64_t>(idx, kPointers + 8, -2); }),
                  "at byte -2");
  expect_contains(failure([](auto& idx, auto&) { put<int64_t>(idx, kDocuments, 1); }), "1 to 3");
  expect_contains(failure([](auto& idx, auto&) { put<int64_t>(idx, kDocuments + 24, 2); }),
                  "0 to 2");
  expect_contains(failure([](auto& idx, auto&) { put<int64_t>(idx, kDocuments + 8, 3); }),
                  "goes back from 3 to 2");
  expect_contains(failure([](auto& idx, auto&) { put<int64_t>(idx, kDocuments + 8, 1'000'000'000); }),
                  "document boundary 1 is 1000000000, past the 3 sequences");
}

TEST_F(IndexedDatasetTest, NegativeTokensAreNoTokens) {
  const IndexedDataset dataset = golden_with([](auto& idx, auto& bin) {
    put<uint8_t>(idx, kDtype, 3);
    put<int16_t>(bin, 6, -7);
  });
  expect_contains(message_of<std::runtime_error>([&] { dataset.max_token(); }),
                  "negative token -7");
}

TEST_F(IndexedDatasetTest, AMissingFileIsAnsweredWithTheLikelyPath) {
  write_dataset(folder_ / "demo_train", 1024, kGoldenDocuments);
  expect_contains(message_of<std::runtime_error>([&] { IndexedDataset(folder_ / "demo"); }),
                  "demo_train?");
  expect_contains(
      message_of<std::runtime_error>([&] { IndexedDataset(folder_ / "demo_train.bin"); }),
      "without .bin");
  expect_contains(message_of<std::runtime_error>([&] { IndexedDataset(folder_ / "other"); }),
                  "no such file");
}

TEST_F(IndexedDatasetTest, AnAbandonedWriterLeavesNothing) {
  {
    IndexedDatasetWriter writer(folder_ / "d", 1024);
    writer.add_document(std::array<int32_t, 2>{1, 2});
  }
  EXPECT_TRUE(folder_.names().empty());
}

TEST_F(IndexedDatasetTest, ScansLongFilesInParts) {
  std::vector<int32_t> tokens(300'000, 4);
  tokens[77'777] = 900;
  tokens[200'001] = 901;
  write_dataset(folder_ / "d", 1024, {tokens});
  const IndexedDataset dataset(folder_ / "d");
  EXPECT_EQ(dataset.max_token(), 901);
  EXPECT_EQ(dataset.find_any(std::array<int64_t, 2>{901, 900}), 900);  // the first in the file
}

}  // namespace
}  // namespace basin
