#include "data/tokenizer.h"

#include <sentencepiece_processor.h>

#include <algorithm>
#include <iterator>
#include <memory>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>

#include "data/tokenizer_sample.h"
#include "tests/data/data_fixture.h"

namespace basin {
namespace {

using Json = nlohmann::json;

constexpr int64_t kVocabulary = 512;

std::vector<std::string> training_lines() {
  std::vector<std::string> lines;
  for (const std::string_view line :
       cut_lines(invented_text(1, 30'000) +
                 "  indented  twice   \n\tdef f(x):\n        return <sink> </s> <0x41>\n")) {
    lines.emplace_back(line);
  }
  for (int i = 0; i < 500; ++i) {
    lines.push_back("        indented" + std::string(i % 9, ' ') + "  twice");
    lines.push_back("<sink> and </s> and <sink1> and <0x41> spelled out, <sink></s>");
  }
  return lines;
}

const std::string& trained_bytes() {
  static const std::string bytes = train_tokenizer(training_lines(), kVocabulary);
  return bytes;
}

const Tokenizer& trained() {
  static const Tokenizer tokenizer = Tokenizer::from_bytes(trained_bytes(), "test");
  return tokenizer;
}

/// Lines that trip tokenizers: spaces in all places, tabs, line ends, other scripts, emoji,
/// spellings of reserved pieces, NUL.
std::vector<std::string> awkward_texts() {
  std::vector<std::string> texts = {"",
                                    " ",
                                    "  ",
                                    "   three",
                                    "trailing  ",
                                    "a  b   c    d",
                                    "\n",
                                    "\n\n",
                                    " \n ",
                                    "a\nb",
                                    "a \n b",
                                    "\r\n",
                                    "x\r\ny",
                                    "\tx\t",
                                    " \t ",
                                    "12345 007",
                                    "<sink>",
                                    "</s>",
                                    "<unk>",
                                    "<sink1><sink3>",
                                    "<0x41>",
                                    "x<sink>y </s> z",
                                    "日本語 テキスト",
                                    " 日本 語",
                                    "naïve café",
                                    "🙂 🙂🙂",
                                    "e\u0301",
                                    "\u00a0nbsp\u00a0",
                                    "\u3000wide",
                                    std::string("nul\0byte", 8),
                                    "\u2581literal \u2581 \u2581\u2581 x\u2581 y",
                                    "kaba\u2581 ka"};
  for (uint64_t i = 0; i < 1500; ++i) {
    std::string text;
    for (uint64_t j = 0; j < 2 + i % 7; ++j) {
      text += texts[keyed_hash(i, j, 0) % 32] + (keyed_hash(i, j, 1) % 2 ? " " : "") +
              invented_text(i * 10 + j, keyed_hash(i, j, 2) % 5);
    }
    texts.push_back(text);
  }
  return texts;
}

/// SentencePiece's own ids by the model `bytes`.
class SentencePieceIds {
 public:
  explicit SentencePieceIds(const std::string& bytes) {
    EXPECT_TRUE(processor_.LoadFromSerializedProto(bytes).ok());
  }
  std::vector<int32_t> operator()(const std::string& text) const {
    std::vector<int> ids;
    EXPECT_TRUE(processor_.Encode(text, &ids).ok());
    return ids;
  }

 private:
  sentencepiece::SentencePieceProcessor processor_;
};

TEST(Tokenizer, ReservedPiecesAndBytesComeFirst) {
  const Tokenizer& tokenizer = trained();
  EXPECT_EQ(tokenizer.vocab_size(), kVocabulary);
  const char* const kReserved[] = {"<unk>", "<sink>", "</s>", "<sink1>", "<sink2>", "<sink3>"};
  for (int64_t id = 0; id < kReservedIds; ++id) {
    EXPECT_EQ(tokenizer.piece(id), kReserved[id]);
    EXPECT_EQ(tokenizer.type(id), id == 0 ? PieceType::kUnknown : PieceType::kControl);
    EXPECT_EQ(tokenizer.piece_bytes(id), 0);
  }
  EXPECT_EQ(tokenizer.bos_id(), 1);
  EXPECT_EQ(tokenizer.eos_id(), kEosId);
  for (int64_t id = kReservedIds; id < kReservedIds + 256; ++id) {
    ASSERT_EQ(tokenizer.type(id), PieceType::kByte);
    ASSERT_EQ(tokenizer.piece_bytes(id), 1);
  }
  EXPECT_EQ(tokenizer.piece(kReservedIds + 0x41), "<0x41>");
  EXPECT_EQ(tokenizer.type(kVocabulary - 1), PieceType::kNormal);
  EXPECT_LT(tokenizer.score(kVocabulary - 1), 0);
}

TEST(Tokenizer, TrainingIsReproducible) {
  EXPECT_EQ(train_tokenizer(training_lines(), kVocabulary), trained_bytes());
}

TEST(Tokenizer, LearnsWholeWords) {
  const std::string text = invented_text(2, 5000);
  const std::vector<int32_t> ids = trained().encode(text);
  EXPECT_GT(static_cast<double>(text.size()) / static_cast<double>(ids.size()), 2.0)
      << "bytes a token";
}

// The stretches that we encode one by one give the ids of the whole, as SentencePiece itself sees
// it.
TEST(Tokenizer, GivesSentencePiecesIds) {
  ASSERT_EQ(trained().encode("    ").size(), 1)
      << "runs of spaces must be pieces for this test to bite";
  // The same model; with a space in front of every text, as Llama 2's; with one behind; and with
  // spaces that are no U+2581.
  const std::string prefix("\x1A\x02\x18\x01", 4), suffix("\x12\x03\xC0\x01\x01", 5),
      apart("\x1A\x02\x28\x00", 4);
  std::vector<int32_t> before;
  for (const std::string& bytes :
       {trained_bytes(),
        trained_bytes() + prefix,
        trained_bytes() + prefix + suffix,
        trained_bytes() + apart}) {
    const Tokenizer tokenizer = Tokenizer::from_bytes(bytes, "test");
    const SentencePieceIds ids_of(bytes);
    EncodeCache cache;
    for (const std::string& text : awkward_texts()) {
      const std::vector<int32_t> expected = ids_of(text);
      ASSERT_EQ(tokenizer.encode(text), expected) << text;
      std::vector<int32_t> cached = {77};
      tokenizer.encode(text, cache, cached);
      ASSERT_EQ(std::vector<int32_t>(cached.begin() + 1, cached.end()), expected) << text;
    }
    const std::string document = invented_text(3, 20'000);
    EXPECT_EQ(tokenizer.encode(document), ids_of(document));
    EXPECT_NE(ids_of("a b"), std::exchange(before, ids_of("a b"))) << "the models differ";
  }
}

TEST(Tokenizer, TextNeverBecomesAReservedId) {
  for (const std::string& text : awkward_texts()) {
    const std::vector<int32_t> ids = trained().encode(text);
    ASSERT_TRUE(ids.empty() || *std::min_element(ids.begin(), ids.end()) >= kReservedIds) << text;
  }
  const std::vector<int32_t> spelled = trained().encode("<0x41>");
  EXPECT_TRUE(std::find(spelled.begin(), spelled.end(), kReservedIds + 0x41) == spelled.end())
      << "encoded as the byte it spells";
}

TEST(Tokenizer, RoundTripsValidText) {
  for (const std::string& text : awkward_texts()) {
    const std::vector<int32_t> ids = trained().encode(text);
    std::string expected = text;
    for (size_t i = expected.find("\u2581"); i != std::string::npos; i = expected.find("\u2581")) {
      expected.replace(i, 3, 1, ' ');
    }
    ASSERT_EQ(trained().decode(ids), expected);
    int64_t bytes = 0;
    for (const int32_t id : ids) {
      bytes += trained().piece_bytes(id);
    }
    ASSERT_EQ(bytes, static_cast<int64_t>(expected.size()));
  }
}

TEST(Tokenizer, DecodesPartsOfACharacterAsTheyAre) {
  std::vector<int32_t> ids = trained().encode("語");
  ASSERT_EQ(ids.size(), 3);
  ids.pop_back();
  EXPECT_EQ(trained().decode(ids), std::string("語").substr(0, 2));
  EXPECT_EQ(trained().decode(std::vector<int32_t>{1, kEosId, 3}), "");
  EXPECT_THROW(trained().decode(std::vector<int32_t>{kVocabulary}), std::invalid_argument);
}

TEST(Tokenizer, RefusesWhatIsNoModel) {
  const TemporaryFolder folder;
  expect_contains(
      message_of<std::runtime_error>([&] { Tokenizer::load(folder / "missing.model"); }),
      "missing.model");
  const std::string path = folder.write("text.model", "this is no model");
  expect_contains(message_of<std::runtime_error>([&] { Tokenizer::load(path); }),
                  "no SentencePiece model");
  expect_contains(
      message_of<std::runtime_error>([&] { Tokenizer::load(folder.write("empty.model", "")); }),
      "no SentencePiece model");
  expect_contains(message_of<std::runtime_error>([&] {
                    Tokenizer::load(folder.write("half.model", trained_bytes().substr(0, 2000)));
                  }),
                  "no SentencePiece model");
}

TEST(TokenizerTrainer, RefusesSizesThatDoNotFit) {
  const std::vector<std::string> lines = {invented_text(1, 200)};
  expect_contains(message_of<std::invalid_argument>([&] { train_tokenizer(lines, 1000); }),
                  "nearest: 896 or 1024");
  expect_contains(message_of<std::invalid_argument>([&] { train_tokenizer(lines, 100); }),
                  "nearest: 384");
  expect_contains(message_of<std::invalid_argument>(
                      [&] { train_tokenizer({std::string(kMaxTrainingLineBytes + 1, 'a')}, 384); }),
                  "4001 bytes");
  expect_contains(message_of<std::invalid_argument>([&] { train_tokenizer({}, 384); }), "no text");
}

TEST(TokenizerTrainer, TooLittleTextSaysHowMuchItSupports) {
  const std::string message = message_of<std::invalid_argument>([&] {
    train_tokenizer({"ba den ka lor mi", "na por qui ros sta ti un ver wa ye zo"}, 1024);
  });
  expect_contains(message, "less than the smallest vocabulary (384): add text");
  const std::vector<std::string> lines = {invented_text(1, 400).substr(0, 1800)};
  const std::string limit = "supports at most ",
                    too_large =
                        message_of<std::invalid_argument>([&] { train_tokenizer(lines, 4096); });
  const int64_t supported =
      std::atoll(too_large.c_str() +
                 std::min(too_large.find(limit), too_large.size() - limit.size()) + limit.size());
  EXPECT_EQ(Tokenizer::from_bytes(train_tokenizer(lines, supported), "test").vocab_size(),
            supported)
      << too_large;
  EXPECT_THROW(train_tokenizer(lines, supported + 128), std::invalid_argument);
  EXPECT_EQ(message.find('\n'), std::string::npos);
}

TEST(TokenizerTrainer, TooManyCharactersSaysHowManyPiecesTheyNeed) {
  std::string text;
  for (int i = 0; i < 500; ++i) {  // CJK ideographs U+4E00 onwards
    const int c = 0x4E00 + i;
    text += {static_cast<char>(0xE0 | c >> 12),
             static_cast<char>(0x80 | (c >> 6 & 63)),
             static_cast<char>(0x80 | (c & 63))};
  }
  expect_contains(message_of<std::invalid_argument>([&] { train_tokenizer({text}, 384); }),
                  "its 500 characters need 768 or more");
}

TEST(TokenizerSample, CutsAtLinesThenSpacesThenCharacters) {
  EXPECT_EQ(cut_lines("a\n\nb c\n"), (std::vector<std::string_view>{"a", "b c"}));
  std::string spaced, solid;
  while (spaced.size() < 10'000) {
    spaced += "word ";
    solid += "語";
  }
  for (const std::string& text : {spaced, solid}) {
    std::string joined;
    for (const std::string_view line : cut_lines(text)) {
      ASSERT_LE(line.size(), kMaxTrainingLineBytes);
      std::string copy(line);
      EXPECT_EQ(sanitize_utf8(copy), 0) << "cut inside a character";
      joined += line;
    }
    EXPECT_EQ(joined, text);
  }
  EXPECT_EQ(cut_lines(spaced)[1].substr(0, 5), " word");
}

TEST(TokenizerSample, IsWithinItsBudgetAndDependsOnTheSeedAlone) {
  std::string text;
  for (int i = 0; i < 5000; ++i) {
    text += "line " + std::to_string(i) + "\n";
  }
  const auto draw = [&](uint64_t seed, size_t batch) {
    LineSample sample(seed, 10'000);
    std::vector<LineSample::Line> waiting;
    for (int64_t document = 0; document < 10; ++document) {
      std::vector<LineSample::Line> lines = sample.candidates(document, text);
      std::move(lines.begin(), lines.end(), std::back_inserter(waiting));
      if (waiting.size() >= batch) {
        sample.add(std::exchange(waiting, {}));
      }
    }
    sample.add(std::move(waiting));
    return sample.take();
  };
  const std::vector<std::string> lines = draw(1, 0);
  size_t bytes = 0;
  for (const std::string& line : lines) {
    bytes += line.size();
  }
  EXPECT_LE(bytes, 10'000);
  EXPECT_GT(bytes, 8'000);
  EXPECT_EQ(lines, draw(1, 17'000)) << "depends on how the lines arrived";
  EXPECT_NE(lines, draw(2, 0));
}

TEST(SanitizeUtf8, ReplacesMaximalInvalidParts) {
  const auto clean = [](std::string text) {
    const int64_t replaced = sanitize_utf8(text);
    return std::pair<std::string, int64_t>{text, replaced};
  };
  using Result = std::pair<std::string, int64_t>;
  EXPECT_EQ(clean("plain ascii, 日本語 🙂 é"), (Result{"plain ascii, 日本語 🙂 é", 0}));
  EXPECT_EQ(clean("a\xFFz"), (Result{"a\uFFFDz", 1}));
  EXPECT_EQ(clean("\xC0\xAF"), (Result{"\uFFFD\uFFFD", 2}));  // overlong
  EXPECT_EQ(clean("\xE0\x80\xAF"), (Result{"\uFFFD\uFFFD\uFFFD", 3}));
  EXPECT_EQ(clean("\xF0\x80\x80\xAF"), (Result{"\uFFFD\uFFFD\uFFFD\uFFFD", 4}));
  EXPECT_EQ(clean("\xED\xA0\x80"), (Result{"\uFFFD\uFFFD\uFFFD", 3}));            // a surrogate
  EXPECT_EQ(clean("\xF4\x90\x80\x80"), (Result{"\uFFFD\uFFFD\uFFFD\uFFFD", 4}));  // beyond U+10FFFF
  EXPECT_EQ(clean("x\xE6\x97"), (Result{"x\uFFFD", 1}));        // cut short at the end
  EXPECT_EQ(clean("\xF0\x9F\x99 y"), (Result{"\uFFFD y", 1}));  // cut short before a letter
  EXPECT_EQ(clean("12345678\x80ok"), (Result{"12345678\uFFFDok", 1}));
}

class TokenizerFiles : public ::testing::Test {
 protected:
  Json written(const std::vector<int64_t>& sinks, const std::string& name) {
    write_tokenizer_files(trained(), sinks, 256, folder_ / "");
    return Json::parse(read_file(folder_ / name));
  }
  TemporaryFolder folder_;
};

TEST_F(TokenizerFiles, ASinkModelPrependsItsSinksInEveryDialect) {
  const Json tokenizer = written({1}, "tokenizer.json");
  EXPECT_EQ(tokenizer["post_processor"]["type"], "TemplateProcessing");
  EXPECT_EQ(
      tokenizer["post_processor"]["single"].dump(),
      R"([{"SpecialToken":{"id":"<sink>","type_id":0}},{"Sequence":{"id":"A","type_id":0}}])");
  EXPECT_EQ(
      tokenizer["post_processor"]["pair"].dump(),
      R"([{"SpecialToken":{"id":"<sink>","type_id":0}},{"Sequence":{"id":"A","type_id":0}},{"Sequence":{"id":"B","type_id":1}}])");
  EXPECT_EQ(tokenizer["post_processor"]["special_tokens"]["<sink>"]["ids"], Json({1}));
  const Json config = written({1}, "tokenizer_config.json");
  EXPECT_EQ(config["add_bos_token"], true);
  EXPECT_EQ(config["bos_token"], "<sink>");
  EXPECT_EQ(config["tokenizer_class"], "PreTrainedTokenizerFast");
  EXPECT_EQ(config["model_max_length"], 256);
  const Json four = written({1, 3, 4, 5}, "tokenizer.json");
  EXPECT_EQ(four["post_processor"]["single"].size(), 5);
  EXPECT_EQ(four["post_processor"]["single"][2]["SpecialToken"]["id"], "<sink2>");
}

TEST_F(TokenizerFiles, AVanillaModelSaysTheOppositeEverywhere) {
  EXPECT_TRUE(written({}, "tokenizer.json")["post_processor"].is_null());
  EXPECT_EQ(written({}, "tokenizer_config.json")["add_bos_token"], false);
  EXPECT_TRUE(written({}, "tokenizer_config.json")["bos_token"].is_null());
  EXPECT_EQ(written({}, "special_tokens_map.json")["eos_token"], "</s>");
}

TEST_F(TokenizerFiles, DescribeTheWholeVocabulary) {
  const Json tokenizer = written({}, "tokenizer.json");
  const Json& model = tokenizer["model"];
  EXPECT_EQ(model["vocab"].size(), kVocabulary);
  EXPECT_EQ(model["vocab"]["</s>"], kEosId);
  EXPECT_EQ(tokenizer["added_tokens"].size(), kReservedIds);
  EXPECT_EQ(tokenizer["normalizer"]["type"], "Replace");
  EXPECT_TRUE(tokenizer["pre_tokenizer"].is_null());
  EXPECT_EQ(read_file(folder_ / "tokenizer.model"), trained_bytes());
  // Every piece of more than one character is the result of some merge.
  std::set<std::string> made;
  for (const Json& merge : model["merges"]) {
    std::string joined = merge;
    joined.erase(joined.find(' '), 1);
    made.insert(joined);
  }
  for (int64_t id = kReservedIds + 256; id < kVocabulary; ++id) {
    const std::string& piece = trained().piece(id);
    const auto characters =
        std::count_if(piece.begin(), piece.end(), [](char c) { return (c & 0xC0) != 0x80; });
    EXPECT_EQ(made.count(piece), characters > 1 ? 1 : 0) << piece;
  }
}

}  // namespace
}  // namespace basin
