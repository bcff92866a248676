// The report's pictures and numbers.
#include "tests/train/report_fixture.h"

namespace basin {
namespace {

TEST_F(ReportTest, MapsStayBelowTheirLimit) {
  SavedAttention attention{.source = "",
                           .epsilon = 0.3,
                           .sink_first = 0,
                           .sink_first_text = 0,
                           .positions = 64,
                           .sequences = 1,
                           .map_size = 64,
                           .alpha = {{0.1, 0.4}},
                           .maps = {{}}};
  std::vector<float> noise(64 * 64);
  uint32_t state = 1;
  for (float& v : noise)
    v = static_cast<float>((state = state * 1664525u + 1013904223u) >> 8) /
        static_cast<float>(1 << 24);
  attention.maps[0] = {noise, noise};
  const std::string full = draw_attention(attention, "sink-0", 1000000),
                    small = draw_attention(attention, "sink-0", 1500);
  EXPECT_GT(full.size(), 5000u);
  EXPECT_LT(small.size(), 4500u);
  EXPECT_EQ(ill_formed("<!DOCTYPE html>" + small), "");
  EXPECT_TRUE(contains(full, "tile over\"><title>layer 0, head 1: 0.400"));
  EXPECT_TRUE(contains(full, "tile\"><title>layer 0, head 0: 0.100"));
}

TEST(ReportSvg, Base64MatchesRfc4648) {
  EXPECT_EQ(base64(""), "");
  EXPECT_EQ(base64("f"), "Zg==");
  EXPECT_EQ(base64("fo"), "Zm8=");
  EXPECT_EQ(base64("foo"), "Zm9v");
  EXPECT_EQ(base64("foobar"), "Zm9vYmFy");
}

TEST(ReportSvg, PngHasTheRightSizeAndChunks) {
  const std::string png = encode_png({0, 128, 255, 7, 8, 9}, 3, 2);
  EXPECT_EQ(png.substr(0, 8), "\x89PNG\r\n\x1a\n");
  EXPECT_EQ(png.substr(12, 4), "IHDR");
  EXPECT_EQ(png.substr(16, 8), std::string("\0\0\0\3\0\0\0\2", 8));
  for (const char* type : {"PLTE", "tRNS", "IDAT"}) EXPECT_TRUE(contains(png, type));
  EXPECT_EQ(png.substr(png.size() - 8), "IEND\xae\x42\x60\x82");  // its checksum is known
}

TEST(ReportSvg, PlotsAreFilesOfTheirOwn) {
  Plot plot{.title = "a < b", .x_label = "x", .y_label = "y"};
  plot.curves.push_back({.label = "one & two",
                         .colour = "sink-0",
                         .mark = PlotCurve::Mark::kLine,
                         .points = {{1, 2}, {2, NAN}, {3, 4}, {4, 5}}});
  const std::string svg = svg_file(draw_plot(plot));
  EXPECT_EQ(svg.rfind("<svg xmlns=\"http://www.w3.org/2000/svg\" class=\"plot\"", 0), 0u)
      << svg.substr(0, 80);
  EXPECT_EQ(ill_formed("<!DOCTYPE html>" + draw_plot(plot)), "");
  EXPECT_TRUE(contains(svg, "a &lt; b"));
  const size_t path = svg.find("d=\"M");
  EXPECT_EQ(std::ranges::count(svg.substr(path, svg.find('"', path + 3) - path), 'M'),
            2);  // the gap lifts the pen
}

TEST(ReportText, FormatsNumbers) {
  EXPECT_EQ(format_change(0.0621), "+6.2 %");
  EXPECT_EQ(format_change(-0.0012), "\u22120.12 %");
  EXPECT_EQ(format_change(0), "0.00 %");
  EXPECT_EQ(format_nats(0.0604), "+0.060");
  EXPECT_EQ(format_nats(-0.00042), "\u22120.0004");
  EXPECT_EQ(format_nats(NAN), "n/a");
  EXPECT_EQ(format_perplexity(29214), "29\u202f214");
  EXPECT_EQ(format_perplexity(1235.2), "1\u202f235");
  EXPECT_EQ(format_perplexity(999.96), "1000.0");
  EXPECT_EQ(format_perplexity(18.014), "18.01");
}

}  // namespace
}  // namespace basin
