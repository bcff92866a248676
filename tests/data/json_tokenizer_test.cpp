// tokenizer.json behind Tokenizer. That ids and texts are those of the `tokenizers` package is
// checked against the package itself, in tokenizer_client_test.cpp.
#include <fmt/format.h>
#include <gmock/gmock.h>

#include <nlohmann/json.hpp>

#include "data/byte_alphabet.h"
#include "data/tokenizer.h"
#include "tests/data/data_fixture.h"

namespace basin {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using Json = nlohmann::json;
using Ids = std::vector<int32_t>;

Json added(int id, const std::string& content, Json more = Json::object()) {
  Json token = {{"id", id}, {"content", content}, {"normalized", false}, {"special", true}};
  token.update(more);
  return token;
}

/// All bytes (id = byte), "Ġa" (256), and two special tokens.
Json byte_level() {
  Json vocab;
  for (int byte = 0; byte < 256; ++byte) vocab[byte_characters()[byte]] = byte;
  vocab["Ġa"] = 256;
  return {{"version", "1.0"},
          {"added_tokens", {added(257, "<|endoftext|>"), added(258, "<bos>")}},
          {"pre_tokenizer", {{"type", "ByteLevel"}, {"add_prefix_space", false}}},
          {"decoder", {{"type", "ByteLevel"}}},
          {"model", {{"type", "BPE"}, {"vocab", vocab}, {"merges", {"Ġ a"}}}}};
}

Tokenizer load(const Json& json) {
  return Tokenizer::from_bytes(json.dump(), "f");
}

std::string refusal(const Json& json) {
  return message_of<std::runtime_error>([&] { load(json); });
}

TEST(JsonTokenizer, ShowsItselfAsAnyOther) {
  const Tokenizer tokenizer = load(byte_level());
  EXPECT_FALSE(tokenizer.is_sentencepiece());
  EXPECT_EQ(tokenizer.vocab_size(), 259);
  EXPECT_EQ(tokenizer.piece(256), "Ġa");
  EXPECT_EQ(tokenizer.piece_bytes(256), 2);
  EXPECT_EQ(tokenizer.piece_bytes(258), 0);
  EXPECT_EQ(tokenizer.type(258), PieceType::kControl);
  EXPECT_EQ(tokenizer.eos_id(), 257);  // by its usual spelling
  EXPECT_EQ(tokenizer.bos_id(), -1);
  EXPECT_THAT(tokenizer.prepended_ids(), IsEmpty());
  EXPECT_THAT(tokenizer.encode("b a<bos>é"), ElementsAre('b', 256, 258, 0xC3, 0xA9));
  EXPECT_EQ(tokenizer.decode(Ids{'b', 256, 258, 0xC3}), "b a\xC3");
  EXPECT_EQ(tokenizer.decode_text(Ids{'b', 256, 258, 0xC3}), "b a\uFFFD");
  EXPECT_THROW(tokenizer.decode(Ids{259}), std::invalid_argument);
  EXPECT_THAT(tokenizer.encode(""), IsEmpty());
}

TEST(JsonTokenizer, FindsAddedTokensAsTheySay) {
  Json json = byte_level();
  json["added_tokens"] = {added(257, "<l>", {{"lstrip", true}}),
                          added(258, "<r>", {{"rstrip", true}}),
                          added(259, "cat", {{"single_word", true}, {"special", false}}),
                          added(260, "<r", {{"special", false}}),
                          added(261, "éé", {{"normalized", true}, {"special", false}})};
  json["normalizer"] = {{"type", "NFC"}};
  const Tokenizer tokenizer = load(json);
  EXPECT_THAT(tokenizer.encode("x \u3000<l> y"), ElementsAre('x', 257, ' ', 'y'));
  EXPECT_THAT(tokenizer.encode("x <r> \n y"), ElementsAre('x', ' ', 258, 'y'));
  EXPECT_THAT(tokenizer.encode("cat,cats cat_"),
              ElementsAre(259, ',', 'c', 'a', 't', 's', ' ', 'c', 'a', 't', '_'));
  EXPECT_THAT(tokenizer.encode("<r<r>"), ElementsAre(260, 258)) << "the longest";
  EXPECT_THAT(tokenizer.encode("e\u0301é"), ElementsAre(261)) << "after normalisation";
  EXPECT_EQ(tokenizer.type(259), PieceType::kUserDefined);
  EXPECT_EQ(tokenizer.piece_bytes(259), 3);
}

TEST(JsonTokenizer, KnowsWhatGoesAroundAText) {
  Json json = byte_level();
  const auto around = [](std::vector<int> before, std::vector<int> after) {
    const auto special = [](const char* id) {
      return Json{{"SpecialToken", {{"id", id}, {"type_id", 0}}}};
    };
    return Json{
        {"type", "TemplateProcessing"},
        {"single", {special("B"), {{"Sequence", {{"id", "A"}, {"type_id", 0}}}}, special("E")}},
        {"pair", Json::array()},
        {"special_tokens", {{"B", {{"ids", before}}}, {"E", {{"ids", after}}}}}};
  };
  json["post_processor"] = {
      {"type", "Sequence"},
      {"processors", {{{"type", "ByteLevel"}}, around({258}, {}), around({1, 2}, {257})}}};
  const Tokenizer tokenizer = load(json);
  EXPECT_THAT(tokenizer.prepended_ids(), ElementsAre(1, 2, 258));
  EXPECT_THAT(tokenizer.appended_ids(), ElementsAre(257));
  EXPECT_EQ(tokenizer.hash(), load(byte_level()).hash()) << "ids of a text are the same";
  EXPECT_EQ(tokenizer.hash(), tokenizer_hash(tokenizer.model_bytes()));
  Json other = byte_level();
  other["added_tokens"].erase(1);
  EXPECT_NE(load(other).hash(), tokenizer.hash());

  json["post_processor"] = around({259}, {});
  EXPECT_EQ(refusal(json),
            "f: post_processor.special_tokens.B.ids[0]: expected 0 to 258, found 259");
  json["post_processor"]["single"] = Json::array();
  EXPECT_EQ(refusal(json), "f: post_processor.single: leaves out the text, A");
  json["post_processor"] = {{"type", "BertProcessing"}};
  expect_contains(refusal(json),
                  "f: post_processor: the post-processor BertProcessing is not supported");
}

TEST(JsonTokenizer, DecodesAsSentencePieceDoes) {
  Json json = byte_level();
  json["pre_tokenizer"] = nullptr;
  json["normalizer"] = {{"type", "Prepend"}, {"prepend", "▁"}};
  json["model"] = {{"byte_fallback", true},
                   {"vocab", {{"▁", 0}, {"a", 1}, {"<0xC3>", 2}, {"<0xA9>", 3}, {"▁a", 4}}},
                   {"merges", {"▁ a"}}};
  json["added_tokens"] = Json::array();
  json["decoder"] = {{"type", "Sequence"},
                     {"decoders",
                      {{{"type", "Replace"}, {"pattern", {{"String", "▁"}}}, {"content", " "}},
                       {{"type", "ByteFallback"}},
                       {{"type", "Fuse"}},
                       {{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}}}}};
  const Tokenizer tokenizer = load(json);
  const Ids ids = tokenizer.encode("aé");
  EXPECT_THAT(ids, ElementsAre(4, 2, 3));
  EXPECT_EQ(tokenizer.decode(ids), " aé") << "so that pieces can follow others";
  EXPECT_EQ(tokenizer.decode_text(ids), "aé");
  EXPECT_EQ(tokenizer.decode_text(Ids{1, 2, 3, 3, 1}), "a\uFFFD\uFFFD\uFFFDa")
      << "one for each byte";
  EXPECT_EQ(tokenizer.type(2), PieceType::kByte);
  std::swap(json["decoder"]["decoders"][2], json["decoder"]["decoders"][3]);
  EXPECT_EQ(refusal(json),
            "f: decoder.decoders[2]: Strip is not supported at this place of a decoder");
  json["decoder"] = {{"type", "WordPiece"}};
  expect_contains(refusal(json), "f: decoder: the decoder WordPiece is not supported");
  json["decoder"] = nullptr;
  expect_contains(refusal(json), "f: decoder: is missing");
}

TEST(JsonTokenizer, RefusesWhatContradictsItself) {
  Json json = byte_level();
  json["added_tokens"][1]["id"] = 300;
  EXPECT_EQ(refusal(json),
            "f: added_tokens[1].id: \"<bos>\" says 300, but the next free id is 258");
  json = byte_level();
  json["added_tokens"].push_back(added(97, "b"));
  EXPECT_EQ(refusal(json), "f: added_tokens[2].id: \"b\" says 97, but the vocabulary has it as 98");
  json = byte_level();
  json["added_tokens"].push_back(added(258, "<bos>"));
  EXPECT_EQ(refusal(json),
            "f: added_tokens[2].id: \"<bos>\" says 258, but the next free id is 259");
  json = byte_level();
  json["added_tokens"][1]["content"] = "";
  expect_contains(refusal(json), "f: added_tokens[1].content: expected 1 to 1024 bytes");
  json = byte_level();
  json["version"] = "2.0";
  EXPECT_EQ(refusal(json), "f: version: expected \"1.0\", found \"2.0\"");
  json = byte_level();
  json["model"]["vocab"].erase("b");  // a hole: the next token would get the id of "Ġa"
  json["model"]["vocab"]["x\ny"] = 300;
  json["added_tokens"] = Json::array({added(257, "<bos>")});
  EXPECT_EQ(load(json).vocab_size(), 301);
  EXPECT_EQ(load(json).type('b'), PieceType::kUnused);
  json["added_tokens"] = Json::array();
  for (int i = 0; i < 44; ++i)
    json["added_tokens"].push_back(added(257 + i, fmt::format("<{}>", i)));
  EXPECT_EQ(refusal(json), "f: added_tokens: \"<43>\" gets id 300, which \"x\\x0ay\" has");
}

TEST(TokenizerSettings, NameTheEndsOfATextAndWhatGoesInFront) {
  const TemporaryFolder folder;
  const std::string path = folder.write("tokenizer.json", byte_level().dump());
  folder.write("special_tokens_map.json",
               R"({"eos_token": "a", "bos_token": {"content": "<bos>"}})");
  EXPECT_EQ(Tokenizer::load(path).eos_id(), 'a');
  folder.write("tokenizer_config.json",
               R"({"eos_token": {"content": "b"}, "add_bos_token": true, "pad_token": null})");
  const Tokenizer tokenizer = Tokenizer::load(path);
  EXPECT_EQ(tokenizer.eos_id(), 'b');
  EXPECT_EQ(tokenizer.bos_id(), 258);
  EXPECT_THAT(tokenizer.prepended_ids(), IsEmpty()) << "a tokenizer.json says so itself";
  folder.write("tokenizer_config.json", R"({"eos_token": 3})");
  expect_contains(message_of<std::runtime_error>([&] { Tokenizer::load(path); }),
                  "tokenizer_config.json: eos_token: expected an object, found an integer");
}

std::string sentencepiece_bytes() {
  std::vector<std::string> lines;
  for (int i = 0; i < 400; ++i) lines.push_back(invented_text(i, 20));
  return train_tokenizer(lines, 384);
}

TEST(TokenizerSettings, ChooseTheFileThatOthersRead) {
  const TemporaryFolder folder;
  EXPECT_FALSE(open_tokenizer(folder / ""));
  folder.write("tokenizer.json", byte_level().dump());
  EXPECT_FALSE(open_tokenizer(folder / "")->is_sentencepiece());
  folder.write("tokenizer.model", sentencepiece_bytes());
  EXPECT_TRUE(open_tokenizer(folder / "")->is_sentencepiece()) << "ours: it has a <sink>";
  std::string foreign = sentencepiece_bytes();
  foreign.replace(foreign.find("<sink>"), 6, "<sinq>");
  folder.write("tokenizer.model", foreign);
  EXPECT_FALSE(open_tokenizer(folder / "")->is_sentencepiece());
  folder.write("config.json", R"({"sink": {"kind": "none"}})");
  EXPECT_TRUE(open_tokenizer(folder / "")->is_sentencepiece());
  folder.write("config.json", "{}");
  folder.write("tokenizer.json", R"({"model": {"type": "Unigram"}})");
  EXPECT_TRUE(open_tokenizer(folder / "")->is_sentencepiece()) << "with a warning";
  folder.write("tokenizer_config.json",
               R"({"bos_token": "<sinq>", "add_bos_token": true, "add_eos_token": true})");
  const auto tokenizer = open_tokenizer(folder / "");
  EXPECT_THAT(tokenizer->prepended_ids(), ElementsAre(1));
  EXPECT_THAT(tokenizer->appended_ids(), ElementsAre(2));
}

// A dataset's tokenizer.json goes on into the checkpoints, saying what the model there wants.
TEST(JsonTokenizerFiles, CarryATokenizerJsonOn) {
  const TemporaryFolder folder;
  Json json = byte_level();
  json["truncation"] = {{"max_length", 8}};
  const Tokenizer tokenizer = load(json);
  const int64_t sinks[] = {258, 400};
  write_tokenizer_files(tokenizer, sinks, 64, folder / "");
  EXPECT_THAT(folder.names(),
              ElementsAre("special_tokens_map.json", "tokenizer.json", "tokenizer_config.json"));
  const Json written = Json::parse(read_file(folder / "tokenizer.json"));
  EXPECT_EQ(written["post_processor"]["special_tokens"]["<sink:400>"]["ids"], Json({400}));
  EXPECT_EQ(written["model"], json["model"]);
  EXPECT_EQ(Json::parse(read_file(folder / "tokenizer_config.json"))["add_bos_token"], true);
  write_tokenizer_files(tokenizer, {}, 64, folder / "");
  const Tokenizer again = Tokenizer::load(folder / "tokenizer.json");
  EXPECT_EQ(again.hash(), tokenizer.hash());
  EXPECT_EQ(again.eos_id(), 257);
  EXPECT_THAT(again.prepended_ids(), IsEmpty());
}

}  // namespace
}  // namespace basin
