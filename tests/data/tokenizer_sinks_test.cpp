// Sinks for a tokenizer that came without: what its files say to other software.
#include "data/tokenizer_sinks.h"

#include <gmock/gmock.h>

#include <nlohmann/json.hpp>

#include "data/tokenizer.h"
#include "tests/data/data_fixture.h"

namespace basin {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

const fs::path kGolden = BASIN_SOURCE_DIR "/tests/golden";

json read_json(const fs::path& path) {
  return json::parse(read_file(path));
}

/// A byte-level tokenizer.json of three pieces and an added one.
json small_tokenizer() {
  return {
      {"version", "1.0"},
      {"added_tokens",
       {{{"id", 3}, {"content", "<|end|>"}, {"special", true}, {"normalized", false}}}},
      {"post_processor", {{"type", "ByteLevel"}, {"trim_offsets", true}}},
      {"model",
       {{"type", "BPE"}, {"vocab", {{"a", 0}, {"b", 1}, {"ab", 2}}}, {"merges", json::array()}}}};
}

TEST(TokenizerSinks, TurnTheVanillaModelsFilesIntoTheSinkModels) {
  const TemporaryFolder folder;
  const fs::path directory = folder / "";
  copy_tokenizer_files(kGolden / "sink-effect-none", directory);
  prepend_sinks(directory, std::vector<int64_t>{1}, 129);
  for (const char* file : {"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"})
    EXPECT_EQ(read_json(directory / file), read_json(kGolden / "sink-effect-sink" / file)) << file;
  EXPECT_EQ(read_file(directory / "tokenizer.model"),
            read_file(kGolden / "sink-effect-none" / "tokenizer.model"));
}

TEST(TokenizerSinks, MakeTokenizerJsonWhereOnlyTheModelIs) {
  const TemporaryFolder folder;
  const fs::path directory = folder / "";
  write_file(directory / "tokenizer.model",
             read_file(kGolden / "sink-effect-none" / "tokenizer.model"));
  prepend_sinks(directory, std::vector<int64_t>{1, 3}, 130);
  const json post = read_json(directory / "tokenizer.json").at("post_processor");
  EXPECT_EQ(post.at("single").size(), 3u);
  EXPECT_EQ(post.at("pair").size(), 4u);
  EXPECT_EQ(post.at("special_tokens").at("<sink1>").at("ids"), json::array({3}));
}

/// What ModelProto's parser reads as one piece more.
std::string appended_piece(const std::string& text, float score) {
  std::string piece = std::string("\x0A") + static_cast<char>(text.size()) + text + "\x15";
  piece.append(reinterpret_cast<const char*>(&score), sizeof score);
  return std::string("\x0A") + static_cast<char>(piece.size()) + piece;
}

TEST(TokenizerSinks, PiecesThatShareAScoreGetNoTokenizerJson) {
  const std::string trained = read_file(kGolden / "sink-effect-none" / "tokenizer.model");
  for (const float second : {0.5f, 0.25f}) {
    const TemporaryFolder folder;
    const Tokenizer tokenizer = Tokenizer::from_bytes(
        trained + appended_piece("▁the▁the", 0.5f) + appended_piece("▁of▁of", second),
        "extended.model");
    write_tokenizer_files(tokenizer, {}, 128, folder / "");
    EXPECT_EQ(fs::exists(folder / "tokenizer.json"), second != 0.5f);
    if (second == 0.5f) continue;
    const auto text = "of of the the of the";
    EXPECT_EQ(Tokenizer::load(folder / "tokenizer.json").encode(text), tokenizer.encode(text));
  }
}

TEST(TokenizerSinks, TokensAddedBesideATokenizerModelKeepTheirIds) {
  const TemporaryFolder folder;
  const fs::path directory = folder / "";
  write_file(directory / "tokenizer.model",
             read_file(kGolden / "sink-effect-none" / "tokenizer.model"));
  const int64_t pieces = Tokenizer::load(directory / "tokenizer.model").vocab_size();
  folder.write("added_tokens.json",
               json({{"<|im_start|>", pieces + 1}, {"<|im_end|>", pieces}}).dump());
  EXPECT_EQ(read_added_pieces(directory).at(pieces).text, "<|im_end|>");
  EXPECT_EQ(next_piece_id(directory, *open_tokenizer(directory)), pieces + 2);
  prepend_sinks(directory, std::vector<int64_t>{pieces + 2}, 129);
  const Tokenizer written = Tokenizer::load(directory / "tokenizer.json");
  EXPECT_EQ(written.piece(pieces + 1), "<|im_start|>");
  EXPECT_EQ(written.piece(pieces + 2), "<sink4>");  // after the four that it has
  EXPECT_THAT(written.prepended_ids(), testing::ElementsAre(pieces + 2));
}

TEST(TokenizerSinks, NewRowsBecomeSpecialTokensAndByteLevelStepsStay) {
  const TemporaryFolder folder;
  const fs::path directory = folder / "";
  folder.write("tokenizer.json", small_tokenizer().dump());
  folder.write(
      "tokenizer_config.json",
      R"({"tokenizer_class": "X", "added_tokens_decoder": {"3": {"content": "<|end|>"}}})");
  const std::string hash = tokenizer_hash(read_file(directory / "tokenizer.json"));
  prepend_sinks(directory, std::vector<int64_t>{4, 5}, 18);
  EXPECT_EQ(tokenizer_hash(read_file(directory / "tokenizer.json")), hash);  // text is as it was
  const json tokenizer = read_json(directory / "tokenizer.json");
  ASSERT_EQ(tokenizer.at("added_tokens").size(), 3u);
  EXPECT_EQ(tokenizer.at("added_tokens").at(1).at("id"), 4);
  EXPECT_EQ(tokenizer.at("added_tokens").at(1).at("content"), "<sink>");
  EXPECT_EQ(tokenizer.at("added_tokens").at(1).at("special"), true);
  EXPECT_EQ(tokenizer.at("added_tokens").at(2).at("content"), "<sink1>");
  const json post = tokenizer.at("post_processor");
  EXPECT_EQ(post.at("type"), "Sequence");
  EXPECT_EQ(post.at("processors").at(0).at("type"), "ByteLevel");
  EXPECT_EQ(post.at("processors").at(1).at("single").at(0).at("SpecialToken").at("id"), "<sink>");
  EXPECT_EQ(tokenizer.at("model"), small_tokenizer().at("model"));
  const json settings = read_json(directory / "tokenizer_config.json");
  EXPECT_EQ(settings.at("tokenizer_class"), "PreTrainedTokenizerFast");  // as it is read: no class that builds a template of its own
  EXPECT_EQ(settings.at("bos_token"), "<sink>");
  EXPECT_EQ(settings.at("added_tokens_decoder").at("4").at("content"), "<sink>");
  EXPECT_EQ(read_json(directory / "special_tokens_map.json").at("bos_token"), "<sink>");

  // Once more, with what stands there now: nothing is put in front twice.
  prepend_sinks(directory, std::vector<int64_t>{4, 5}, 18);
  EXPECT_EQ(read_json(directory / "tokenizer.json"), tokenizer);
}

TEST(TokenizerSinks, ATokenThatIsCalledSinkAlreadyKeepsItsName) {
  const TemporaryFolder folder;
  json tokenizer = small_tokenizer();
  tokenizer["model"]["vocab"]["<sink>"] = 4;
  folder.write("tokenizer.json", tokenizer.dump());
  prepend_sinks(folder / "", std::vector<int64_t>{5}, 18);
  EXPECT_EQ(read_json(folder / "tokenizer.json").at("added_tokens").at(1).at("content"), "<sink1>");
}

TEST(TokenizerSinks, NamesAFileThatIsNoTokenizer) {
  for (const char* text : {"{}", "[]", R"({"model": {"vocab": {"a": "x"}}})"}) {
    const TemporaryFolder folder;
    folder.write("tokenizer.json", text);
    expect_contains(message_of<std::runtime_error>(
                        [&] { prepend_sinks(folder / "", std::vector<int64_t>{1}, 8); }),
                    "tokenizer.json");
  }
}

}  // namespace
}  // namespace basin
