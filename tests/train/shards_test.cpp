#include "train/shards.h"

#include <ATen/ATen.h>
#include <gmock/gmock.h>

#include "model/safetensors.h"
#include "tests/train/train_fixture.h"
#include "train/partition.h"

namespace basin {
namespace {

using testing::HasSubstr;

TEST(Partition, BucketsCoverTheBufferInBackwardsOrderAndDivideAmongRanks) {
  ModelConfig config;
  config.vocab_size = 130;
  config.hidden_size = 40;
  const Transformer model(config, at::kFloat, at::kCPU);
  const int64_t total = model.flat().numel();
  for (const int64_t ranks : {1, 2, 3, 7}) {
    for (const int64_t elements : {1, 1000, 20000, 1 << 30}) {
      const std::vector<Range> buckets = cut_buckets(model, {ranks, elements});
      std::vector<int> covered(static_cast<size_t>(padded_size(buckets)), 0);
      for (const Range& bucket : buckets) {
        EXPECT_EQ(bucket.size() % (64 * ranks), 0);
        int64_t end = bucket.begin;
        for (int64_t r = 0; r < ranks; ++r) {
          const Range share = share_of(bucket, r, ranks);
          EXPECT_EQ(share.begin, end);
          end = share.end;
          for (int64_t i = share.begin; i < share.end; ++i) ++covered[static_cast<size_t>(i)];
        }
        EXPECT_EQ(end, bucket.end);
      }
      EXPECT_TRUE(std::all_of(covered.begin(), covered.end(), [](int n) { return n == 1; }));
      EXPECT_GE(std::ssize(covered), total);
      EXPECT_LT(std::ssize(covered), total + 64 * ranks);
      if (buckets.size() > 2) {
        EXPECT_GT(buckets[0].begin, buckets[1].begin);
      }
    }
  }
}

class ShardsTest : public TrainTest {
 protected:
  void SetUp() override {
    TrainTest::SetUp();
    ModelConfig config = tiny_config("x").model;
    model_ = std::make_unique<Transformer>(config, at::kFloat, at::kCPU);
    const int64_t n = model_->flat().numel();
    for (at::Tensor* t : {&master_, &m_, &v_}) *t = at::randn({n});
    std::filesystem::create_directories(root_ / "step/trainer");
  }
  /// What a rank of `ranks` holds: of the state above, or zeros.
  std::vector<Optimizer::Part> parts(int64_t rank, int64_t ranks, bool filled) const {
    std::vector<Optimizer::Part> out;
    for (const Range& bucket : cut_buckets(*model_, {ranks, 5000})) {
      const Range share = ranks == 1 ? bucket : share_of(bucket, rank, ranks);
      const int64_t total = model_->flat().numel(), begin = std::min(share.begin, total),
                    n = std::min(share.end, total) - begin;
      Optimizer::Part part{begin,
                           master_.narrow(0, begin, n).clone(),
                           m_.narrow(0, begin, n).clone(),
                           v_.narrow(0, begin, n).clone()};
      if (!filled)
        for (at::Tensor* t : {&part.master, &part.m, &part.v}) t->zero_();
      out.push_back(part);
    }
    return out;
  }
  void write(int64_t ranks) const {
    for (int64_t r = 0; r < ranks; ++r)
      write_shard(
          root_ / "step" / shard_name(r, ranks), model_->parameters(), parts(r, ranks, true));
  }
  /// Whether what was read is the state, in all parameters (what lies between them is not saved).
  void expect_read(int64_t ranks) const {
    for (int64_t r = 0; r < ranks; ++r) {
      const auto got = parts(r, ranks, false), want = parts(r, ranks, true);
      read_shards(root_ / "step", model_->parameters(), got);
      for (size_t i = 0; i < got.size(); ++i) {
        for (const Parameter& p : model_->parameters()) {
          const int64_t end = got[i].begin + got[i].master.numel(),
                        first = std::max(p.offset, got[i].begin),
                        n = std::min(p.offset + p.tensor.numel(), end) - first;
          if (n <= 0) continue;
          const auto cut = [&](const at::Tensor& t) {
            return t.narrow(0, first - got[i].begin, n);
          };
          EXPECT_TRUE(at::equal(cut(got[i].master), cut(want[i].master))) << p.name;
          EXPECT_TRUE(at::equal(cut(got[i].m), cut(want[i].m))) << p.name;
          EXPECT_TRUE(at::equal(cut(got[i].v), cut(want[i].v))) << p.name;
        }
      }
    }
  }

  std::unique_ptr<Transformer> model_;
  at::Tensor master_, m_, v_;
};

TEST_F(ShardsTest, AnyNumberOfRanksReadsWhatAnyOtherHasWritten) {
  for (const int64_t writers : {1, 2, 3, 5}) {
    std::filesystem::remove_all(root_ / "step/trainer");
    std::filesystem::create_directories(root_ / "step/trainer");
    write(writers);
    for (const int64_t readers : {1, 2, 3, 4}) expect_read(readers);
  }
}

TEST_F(ShardsTest, MissingShardAndForeignTensorAreNamed) {
  write(3);
  std::filesystem::remove(root_ / "step" / shard_name(1, 3));
  try {
    read_shards(root_ / "step", model_->parameters(), parts(0, 1, false));
    FAIL() << "was read";
  } catch (const std::runtime_error& error) {
    EXPECT_THAT(error.what(), HasSubstr("its shards hold"));
    EXPECT_THAT(error.what(), HasSubstr("of master."));
  }
  write_safetensors(root_ / "step" / shard_name(1, 3), {{"m.other.weight", at::ones({3})}});
  try {
    read_shards(root_ / "step", model_->parameters(), parts(0, 1, false));
    FAIL() << "was read";
  } catch (const std::runtime_error& error) {
    EXPECT_THAT(error.what(), HasSubstr("its shards hold"));
  }
  write(3);
  write_safetensors(root_ / "step/trainer/shard-x.safetensors",
                    {{"m.other.weight", at::ones({3})}});
  EXPECT_THROW(read_shards(root_ / "step", model_->parameters(), parts(0, 1, false)),
               std::runtime_error);
}

}  // namespace
}  // namespace basin
