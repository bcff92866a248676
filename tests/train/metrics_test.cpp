#include "train/metrics.h"

#include <gmock/gmock.h>

#include <nlohmann/json.hpp>

#include "configs/files.h"
#include "tests/train/train_fixture.h"

namespace basin {
namespace {

class MetricsTest : public TrainTest {};

TEST(EventFile, Crc32cKnownAnswers) {  // RFC 3720, appendix B.4
  EXPECT_EQ(crc32c(std::string(32, '\0')), 0x8A9136AAu);
  EXPECT_EQ(crc32c(std::string(32, '\xff')), 0x62A8AB43u);
  EXPECT_EQ(crc32c("123456789"), 0xE3069283u);
}

std::string hex(std::string_view bytes) {
  std::string out;
  for (const unsigned char c : bytes)
    out += "0123456789abcdef"[c >> 4], out += "0123456789abcdef"[c & 15];
  return out;
}

TEST(EventFile, EventsAreTheProtocolBuffersOfTensorBoard) {
  // As google.protobuf serialises Event(wall_time=1.5, ...) of tensorflow/core/util/event.proto.
  EXPECT_EQ(hex(encode_version_event(1.5)), "09000000000000f83f1a0d627261696e2e4576656e743a32");
  EXPECT_EQ(hex(encode_scalar_event(1.5, 300, "a/b", 0.5f)),
            "09000000000000f83f10ac022a0c0a0a0a03612f62150000003f");
  EXPECT_EQ(hex(encode_session_start_event(1.5, 300)), "09000000000000f83f10ac023a020801");
}

TEST(EventFile, RecordsCarryMaskedChecksums) {
  // crc32c("123456789") = 0xe3069283, rotated right by 15 plus 0xa282ead8; length 9 as 8 bytes.
  const std::string record = frame_record("123456789");
  ASSERT_EQ(record.size(), 8u + 4 + 9 + 4);
  EXPECT_EQ(hex(record.substr(0, 8)), "0900000000000000");
  const uint32_t masked = ((0xE3069283u >> 15) | (0xE3069283u << 17)) + 0xA282EAD8u;
  uint32_t stored = 0;
  std::memcpy(&stored, record.data() + 21, 4);
  EXPECT_EQ(stored, masked);
}

TEST(Metrics, RowHasEveryKeyAndNullsWhereNothingWasMeasured) {
  MetricsRow row{.step = 3, .tokens = 384, .loss = 2.5, .lr = 1e-3};
  const nlohmann::json json = nlohmann::json::parse(to_json_line(row));
  for (const char* key : {"step",
                          "tokens",
                          "loss",
                          "lr",
                          "grad_norm",
                          "tokens_per_second",
                          "mfu",
                          "val_loss",
                          "sink_metric",
                          "skipped",
                          "seconds"}) {
    EXPECT_TRUE(json.contains(key)) << key;
  }
  EXPECT_EQ(json["loss"], 2.5);
  EXPECT_TRUE(json["mfu"].is_null());
  EXPECT_TRUE(json["val_loss"].is_null());
}

TEST_F(MetricsTest, CutDropsLaterRowsAndATornLine) {
  const auto path = root_ / "metrics.jsonl";
  write_file(path, "{\"step\": 1}\n{\"step\": 2}\n{\"step\": 3}\n{\"ste");
  cut_metrics(path, 2);
  EXPECT_EQ(read_file(path), "{\"step\": 1}\n{\"step\": 2}\n");
  cut_metrics(path, 0);
  EXPECT_EQ(read_file(path), "");
}

TEST(Metrics, ProgressBarFills) {
  EXPECT_EQ(progress_bar(0, 1000), "[....................]");
  EXPECT_EQ(progress_bar(399, 1000), "[#######.............]");
  EXPECT_EQ(progress_bar(1000, 1000), "[####################]");
}

TEST(Metrics, ConsoleLineNamesWhatMatters) {
  const MetricsRow row{.step = 20,
                       .loss = 3.21454,
                       .lr = 1e-3,
                       .grad_norm = 0.5,
                       .tokens_per_second = 12300,
                       .val_loss = 3.3,
                       .skipped = 1};
  const std::string text = console_text(row, 1000, 200);
  for (const char* part : {"step 20/1000",
                           "loss 3.2145",
                           "lr 1.00e-03",
                           "|g| 0.500",
                           "tokens/s",
                           "mfu n/a",
                           "eta 3 min 20 s",
                           "skipped 1"}) {
    EXPECT_THAT(text, testing::HasSubstr(part));
  }
  EXPECT_THAT(text, testing::Not(testing::HasSubstr("waiting")));
  EXPECT_LT(text.find("eta"), text.find("lr")) << "narrow terminals cut off the end";
  EXPECT_EQ(measured_text(row), "  | validation 3.3000");
}

TEST(Metrics, WhatIsNotKnownIsNotZero) {
  MetricsRow row{.step = 20, .loss = 3.2};
  row.waits_on_device = true;
  EXPECT_THAT(console_text(row, 1000, 200), testing::HasSubstr("waiting n/a"));
  EXPECT_THAT(console_text(row, 1000, 200), testing::Not(testing::HasSubstr("B  waiting")));
  EXPECT_FALSE(nlohmann::json::parse(to_json_line(row)).contains("communication"));
  row.waits_on_device = false;
  row.communication = 0.25;
  row.slowest_rank = 0;
  row.slowest_excess = 0;
  row.peak_memory_bytes = 3'000'000'000;
  EXPECT_THAT(
      console_text(row, 1000, 200),
      testing::AllOf(testing::HasSubstr("waiting 25 %"), testing::HasSubstr("3.00 GB  waiting")));
}

}  // namespace
}  // namespace basin
