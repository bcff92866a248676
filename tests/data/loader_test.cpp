#include "data/loader.h"

#include <ATen/ATen.h>
#include <fcntl.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <numeric>
#include <set>

#include "configs/file_descriptor.h"
#include "tests/data/data_fixture.h"

namespace basin {
namespace {

class LoaderTest : public ::testing::Test {
 protected:
  static constexpr int64_t kT = 8;

  /// A dataset whose token at position p is `first + p`, of one document: rows tell where they come
  /// from.
  DatasetConfig counting(const std::string& name,
                         int64_t tokens,
                         int32_t first,
                         double weight = 1) {
    std::vector<int32_t> values(tokens);
    std::iota(values.begin(), values.end(), first);
    write_dataset(folder_ / name, 1'000'000, {values});
    return {(folder_ / name).string(), weight};
  }
  static DataConfig config(std::vector<DatasetConfig> train) {
    DataConfig data;
    data.train = std::move(train);
    data.sequence_length = kT;
    return data;
  }

  TemporaryFolder folder_;
};

TEST_F(LoaderTest, RowsAreTheSamplesOfTheDefinition) {
  const int64_t n = 11, B = 4;
  DataLoader loader(config({counting("d", n * kT + 3, 0)}), {.global_batch = B, .seed = 9});
  for (int64_t k = 0; k < 8; ++k) {
    const at::Tensor batch = loader.batch(k);  // (B, T + 1)
    ASSERT_EQ(batch.sizes(), (at::IntArrayRef{B, kT + 1}));
    ASSERT_EQ(batch.scalar_type(), at::kLong);
    for (int64_t j = 0; j < B; ++j) {
      const int64_t g = k * B + j, sample = static_cast<int64_t>(permute(9, g / n, n, g % n));
      ASSERT_TRUE(batch[j].equal(at::arange(sample * kT, sample * kT + kT + 1, at::kLong)))
          << "g = " << g;
      ASSERT_EQ(loader.sample_ids(k)[j], (std::pair<int64_t, int64_t>{0, sample}));
    }
  }
}

// n = floor((N - 1) / T): one token more than whole samples is needed, because the last prediction
// has a target.
TEST_F(LoaderTest, CountsSamples) {
  const auto samples = [](const DataLoader& loader) {
    std::set<std::pair<int64_t, int64_t>> ids;
    for (int64_t k = 0; k < 6; ++k)  // two epochs of three samples, or three of two
      for (const auto& id : loader.sample_ids(k)) ids.insert(id);
    return ids.size();
  };
  EXPECT_EQ(samples(DataLoader(config({counting("a", 3 * kT + 1, 0)}), {})), 3u);
  EXPECT_EQ(samples(DataLoader(config({counting("b", 3 * kT, 0)}), {})), 2u);
  const std::string message =
      message_of<std::invalid_argument>([&] { DataLoader(config({counting("c", kT, 0)}), {}); });
  expect_contains(message, "8 tokens are too few for one sample of 9");
}

// Of its share of a global batch: 4 samples are enough for half of 8.
TEST_F(LoaderTest, RefusesFewerSamplesThanAStepTakes) {
  const DatasetConfig four = counting("four", 4 * kT + 1, 0), many = counting("many", 999, 0);
  const auto refusal = [&](const std::vector<DatasetConfig>& train) {
    return message_of<std::invalid_argument>(
        [&] { DataLoader(config(train), {.global_batch = 8}); });
  };
  DataLoader(config({four, many}), {.global_batch = 8});
  expect_contains(refusal({four}), "four: 4 samples of 9 tokens");
  expect_contains(refusal({four}), "fewer than the 8 that each step takes");
  expect_contains(refusal({{four.path, 3}, many}), "fewer than the 6 that each step takes");
}

TEST_F(LoaderTest, CountsEpochs) {
  const DatasetConfig four = counting("four", 4 * kT + 1, 0), ten = counting("ten", 11 * kT, 0, 3);
  EXPECT_EQ(epochs(config({four}), 6), std::vector<double>{1.5});
  EXPECT_EQ(epochs(config({four, ten}), 40), (std::vector<double>{2.5, 3}));
}

TEST_F(LoaderTest, AnEpochEndsInsideABatch) {
  const int64_t n = 5;
  DataLoader loader(config({counting("d", n * kT + 1, 0)}), {.global_batch = 4, .seed = 3});
  std::vector<int64_t> samples;
  for (int64_t k = 0; k < 5; ++k) {
    for (const auto& [dataset, sample] : loader.sample_ids(k)) {
      samples.push_back(sample);
    }
  }
  for (int64_t epoch = 0; epoch < 4; ++epoch) {
    const std::set<int64_t> seen(samples.begin() + epoch * n, samples.begin() + (epoch + 1) * n);
    EXPECT_EQ(seen.size(), n) << "epoch " << epoch << " repeats or drops a sample";
  }
}

TEST_F(LoaderTest, AnyNumberOfReadersSeesTheSameGlobalBatches) {
  const DataConfig data = config({counting("a", 700, 0, 2), counting("b", 333, 10'000, 1)});
  for (int64_t k = 0; k < 20; ++k) {
    const at::Tensor whole = DataLoader(data, {.global_batch = 8, .seed = 4}).batch(k);
    for (const int64_t world : {2, 4}) {
      std::vector<at::Tensor> parts;
      for (int64_t rank = 0; rank < world; ++rank) {
        parts.push_back(
            DataLoader(data, {.global_batch = 8, .rank = rank, .world = world, .seed = 4})
                .batch(k));
      }
      ASSERT_TRUE(at::cat(parts).equal(whole)) << "batch " << k << ", " << world << " readers";
    }
  }
}

TEST_F(LoaderTest, BatchesDoNotDependOnTheOrderOfAsking) {
  const DataConfig data = config({counting("d", 1000, 0)});
  DataLoader forward(data, {.global_batch = 4, .seed = 1}),
      jumping(data, {.global_batch = 4, .seed = 1});
  std::vector<at::Tensor> batches;
  for (int64_t k = 0; k < 6; ++k) {
    batches.push_back(forward.batch(k));
  }
  for (const int64_t k : {5, 0, 1, 1, 4, 2, 3}) {
    EXPECT_TRUE(jumping.batch(k).equal(batches[k])) << "batch " << k;
  }
  EXPECT_FALSE(DataLoader(data, {.global_batch = 4, .seed = 2}).batch(0).equal(batches[0]));
}

TEST_F(LoaderTest, MixturesKeepTheirSharesInAnyStretch) {
  const DataConfig data = config({counting("a", 81, 0, 5),
                                  counting("b", 161, 1000, 3),
                                  counting("c", 89, 2000, 1.5),
                                  counting("d", 89, 3000, 0.5),
                                  counting("e", 89, 4000, 0)});
  DataLoader loader(data, {.global_batch = 10, .seed = 6});
  const double shares[] = {0.5, 0.3, 0.15, 0.05, 0};
  for (const int64_t start : {int64_t{0}, int64_t{12345}, int64_t{1} << 40}) {
    std::map<int64_t, int64_t> counts;
    for (int64_t k = start; k < start + 200; ++k) {
      for (const auto& [dataset, sample] : loader.sample_ids(k)) {
        ++counts[dataset];
      }
    }
    for (int64_t d = 0; d < 5; ++d) {
      EXPECT_NEAR(counts[d], 2000 * shares[d], 12) << "dataset " << d << " from batch " << start;
    }
  }
}

// Each dataset of a mixture is walked by a counter of its own: all of its samples once, then all of
// them again.
TEST_F(LoaderTest, MixturesWalkEachDatasetWhole) {
  const DataConfig data =
      config({counting("a", 10 * kT + 1, 0, 3), counting("b", 7 * kT + 1, 1000, 1)});
  DataLoader loader(data, {.global_batch = 4, .seed = 8});
  std::map<int64_t, std::vector<int64_t>> samples;
  for (int64_t k = 0; k < 60; ++k) {
    for (const auto& [dataset, sample] : loader.sample_ids(k)) {
      samples[dataset].push_back(sample);
    }
  }
  for (const auto& [dataset, n] : std::map<int64_t, size_t>{{0, 10}, {1, 7}}) {
    ASSERT_GT(samples[dataset].size(), 3 * n);
    for (size_t begin = 0; begin + n <= samples[dataset].size(); begin += n) {
      const std::set<int64_t> seen(samples[dataset].begin() + begin,
                                   samples[dataset].begin() + begin + n);
      EXPECT_EQ(seen.size(), n) << "dataset " << dataset << ", samples " << begin << " onwards";
    }
  }
  EXPECT_EQ(loader.batch(0)[0][0].item<int64_t>() >= 1000, loader.sample_ids(0)[0].first == 1);
}

// Data larger than memory is read from disk for each sample: a few pages, not a megabyte.
TEST_F(LoaderTest, ReadsLittleMoreThanTheSamplesFromDisk) {
  constexpr int64_t kTokens = 4 << 20, kPageBytes = 4096;
  // Among the build's files: /tmp lies in memory on many systems.
  setenv("TMPDIR", std::filesystem::path(BASIN_PROGRAM).parent_path().c_str(), 1);
  const TemporaryFolder on_disk;
  const DatasetConfig dataset = counting((on_disk / "d").string(), kTokens, 0);
  const auto cached_bytes = [&](bool drop) {
    const FileDescriptor file = open_file(dataset.path + ".bin", O_RDONLY);
    if (drop) posix_fadvise(file.get(), 0, 0, POSIX_FADV_DONTNEED);
    const size_t bytes = kTokens * sizeof(int32_t);
    void* const map = mmap(nullptr, bytes, PROT_READ, MAP_SHARED, file.get(), 0);
    std::vector<unsigned char> pages(bytes / kPageBytes);
    EXPECT_EQ(mincore(map, bytes, pages.data()), 0);
    munmap(map, bytes);
    return kPageBytes *
           std::count_if(pages.begin(), pages.end(), [](auto page) { return page & 1; });
  };
  if (cached_bytes(true) > 0)
    GTEST_SKIP() << "the build's folder lies in memory, too: there is no disk to read";
  {
    DataLoader loader(config({dataset}), {.global_batch = 16, .seed = 1});
    for (int64_t k = 0; k < 4; ++k) loader.batch(k);
  }
  EXPECT_GT(cached_bytes(false), 0);
  EXPECT_LE(cached_bytes(false), 5 * 16 * 2 * kPageBytes);  // four batches and one fetched ahead
}

TEST_F(LoaderTest, RefusesWhatCannotBeShared) {
  const DataConfig data = config({counting("d", 1000, 0)});
  expect_contains(
      message_of<std::invalid_argument>([&] { DataLoader(data, {.global_batch = 6, .world = 4}); }),
      "6 samples cannot be shared by 4 ranks");
  expect_contains(message_of<std::invalid_argument>(
                      [&] { DataLoader(data, {.global_batch = 4, .rank = 2, .world = 2}); }),
                  "rank 2 of 2");
  EXPECT_THROW(DataLoader(config({}), {}), std::invalid_argument);
}

TEST(DataConfig, NamesAllProblems) {
  EXPECT_EQ(DataConfig{}.problems().size(), 1);
  DataConfig config;
  config.train = {{"a", 0}, {"", 0}, {"a", 0}};
  const std::vector<std::string> problems = config.problems();
  ASSERT_EQ(problems.size(), 3);
  expect_contains(problems[0], "train[1].path is empty");
  expect_contains(problems[1], "train[2].path repeats train[0]");
  expect_contains(problems[2], "all weights are 0");
  config.train = {{"a", 1}, {"b", 2}};
  EXPECT_TRUE(config.problems().empty());
}

}  // namespace
}  // namespace basin
