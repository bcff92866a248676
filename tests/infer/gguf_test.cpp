#include "infer/gguf.h"

#include <ATen/ATen.h>
#include <fmt/core.h>
#include <gmock/gmock.h>

#include <cmath>
#include <cstring>

#include "configs/files.h"
#include "configs/scratch_folder.h"
#include "infer/export_gguf.h"
#include "infer/gguf_model.h"
#include "model/checkpoint.h"
#include "tests/infer/tiny_model.h"

namespace basin {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

constexpr int64_t kVocabulary = 1030;  // six more than the tokenizer has pieces

template <class T>
T at_byte(const std::string& bytes, size_t offset) {
  T value;
  std::memcpy(&value, bytes.data() + offset, sizeof value);
  return value;
}

// From the specification, byte by byte.
TEST(Gguf, BytesOfASmallFile) {
  const ScratchFolder directory;
  GgufFile file;
  file.keys = {{"a", uint32_t{7}},
               {"b", true},
               {"c", std::string("xy")},
               {"d", std::vector<std::string>{"p", ""}},
               {"e", std::vector<float>{1.5f}}};
  const at::Tensor matrix = at::arange(6, at::kFloat).reshape({2, 3});
  file.tensors = {{"t", {2, 3}, GgufType::kF16, [&] { return matrix; }},
                  {"u", {1}, GgufType::kF32, [] { return at::full({1}, -2.0, at::kDouble); }}};
  EXPECT_EQ(file.data_bytes(), 16u);
  write_gguf(directory.path() / "f", file);
  std::string expected = "GGUF";
  const auto number = [&](auto value) {
    expected.append(reinterpret_cast<const char*>(&value), sizeof value);
  };
  const auto text = [&](const std::string& value) {
    number(uint64_t{value.size()});
    expected += value;
  };
  number(uint32_t{3}), number(uint64_t{2}), number(uint64_t{5});
  text("a"), number(uint32_t{4}), number(uint32_t{7});
  text("b"), number(uint32_t{7}), number(uint8_t{1});
  text("c"), number(uint32_t{8}), text("xy");
  text("d"), number(uint32_t{9}), number(uint32_t{8}), number(uint64_t{2}), text("p"), text("");
  text("e"), number(uint32_t{9}), number(uint32_t{6}), number(uint64_t{1}), number(1.5f);
  text("t"), number(uint32_t{2}), number(uint64_t{3}), number(uint64_t{2});  // columns first
  number(uint32_t{1}), number(uint64_t{0});
  text("u"), number(uint32_t{1}), number(uint64_t{1}), number(uint32_t{0}), number(uint64_t{32});
  expected.resize((expected.size() + 31) / 32 * 32);
  for (const uint16_t half : {0x0000, 0x3C00, 0x4000, 0x4200, 0x4400, 0x4500}) number(half);
  expected.resize((expected.size() + 31) / 32 * 32);
  number(-2.0f);
  expected.resize((expected.size() + 31) / 32 * 32);
  EXPECT_EQ(read_file(directory.path() / "f"), expected);
}

TEST(Gguf, NamesTensorsThatATypeCannotHold) {
  const ScratchFolder directory;
  const auto refusal = [&](GgufType type, double value) -> std::string {
    const at::Tensor values = at::full({1, kQ8Block}, value, at::kFloat);
    try {
      write_gguf(directory.path() / "f", {{}, {{"t", {1, kQ8Block}, type, [&] { return values; }}}});
    } catch (const std::runtime_error& error) {
      return error.what();
    }
    return "";
  };
  EXPECT_THAT(refusal(GgufType::kF16, 7e4), HasSubstr("tensor t holds values that are not finite"));
  EXPECT_THAT(refusal(GgufType::kQ8_0, 8.4e6), HasSubstr("tensor t holds a value of 8400000"));
  EXPECT_THAT(refusal(GgufType::kQ8_0, std::nan("")), HasSubstr("export it as bf16 or f32"));
  EXPECT_EQ(refusal(GgufType::kF16, 6e4), "");
  EXPECT_EQ(refusal(GgufType::kQ8_0, 8.3e6), "");
}

TEST(Gguf, Q8BlocksAreScaledByTheirLargestValue) {
  at::manual_seed(1);
  at::Tensor values = at::randn({3, 64}) * 5;
  values[1].fill_(0);
  values[2][5] = -40;
  const std::string bytes = to_q8_0(values);
  ASSERT_EQ(bytes.size(), 6u * 34);
  for (int64_t block = 0; block < 6; ++block) {
    const at::Tensor x = values.flatten().narrow(0, block * 32, 32);
    const float scale = x.abs().max().item<float>() / 127;
    const size_t begin = static_cast<size_t>(block) * 34;
    const float stored = at_byte<at::Half>(bytes, begin);
    EXPECT_EQ(stored, static_cast<float>(at::Half(scale)));
    for (int64_t i = 0; i < 32; ++i) {
      const float value = x[i].item<float>();
      const auto quant =
          static_cast<float>(at_byte<int8_t>(bytes, begin + 2 + static_cast<size_t>(i)));
      EXPECT_NEAR(quant * scale, value, scale * 0.5001f);
    }
  }
}

class GgufExportTest : public testing::Test {
 protected:
  fs::path make_model(const ModelConfig& config, bool with_tokenizer = true) {
    const fs::path directory = root() / "model";
    save_model(random_model(config, at::kFloat), 16, directory);
    if (with_tokenizer)
      write_file(
          directory / "tokenizer.model",
          read_file(fs::path(BASIN_SOURCE_DIR) / "tests/golden/sink-effect-sink/tokenizer.model"));
    return directory;
  }
  static ModelConfig config_of(ModelType type, SinkKind kind) {
    ModelConfig config = tiny_config(type, kind);
    config.vocab_size = kVocabulary;
    return config;
  }
  std::string refusal(const fs::path& model, const std::string& dtype = "f32", bool force = false) {
    return refusal(model, {root() / "out.gguf", dtype, force});
  }
  static std::string refusal(const fs::path& model, const GgufExport& options) {
    try {
      export_gguf(model, options);
    } catch (const std::exception& error) {
      return error.what();
    }
    return "nothing was refused";
  }
  static const GgufValue& key(const GgufFile& file, const std::string& name) {
    for (const auto& [found, value] : file.keys)
      if (found == name) return value;
    throw std::runtime_error("no key " + name);
  }
  static at::Tensor tensor(const GgufFile& file, const std::string& name) {
    for (const GgufTensor& t : file.tensors)
      if (t.name == name) return t.make();
    throw std::runtime_error("no tensor " + name);
  }
  fs::path root() const { return directory_.path(); }

  ScratchFolder directory_;
};

TEST_F(GgufExportTest, LlamasPairsOfDimensionsBecomeNeighbours) {
  const ModelConfig config = config_of(ModelType::kLlama, SinkKind::kToken);
  const LoadedModel model = open_model(make_model(config), "float32");
  const GgufFile file = to_gguf(model, GgufType::kF32, "name");
  const at::Tensor qkv = model.model->parameter("layers.1.qkv.weight");
  const at::Tensor q = tensor(file, "blk.1.attn_q.weight"), k = tensor(file, "blk.1.attn_k.weight");
  const int64_t K = config.head_size(), H = config.heads();
  for (int64_t h = 0; h < H; ++h)
    for (int64_t i = 0; i < K / 2; ++i)
      for (int64_t half = 0; half < 2; ++half) {
        const int64_t from = h * K + half * K / 2 + i, to = h * K + 2 * i + half;
        EXPECT_TRUE(at::equal(q[to], qkv[from])) << h << ' ' << i;
        if (h < config.kv_heads()) {
          EXPECT_TRUE(at::equal(k[to], qkv[H * K + from]));
        }
      }
}

TEST_F(GgufExportTest, RowsBeyondTheTokenizerAreUnusedPieces) {
  const LoadedModel model =
      open_model(make_model(config_of(ModelType::kGptNeox, SinkKind::kNone)), "float32");
  const GgufFile file = to_gguf(model, GgufType::kF32, "name");
  const auto& tokens = std::get<std::vector<std::string>>(key(file, "tokenizer.ggml.tokens"));
  ASSERT_EQ(tokens.size(), kVocabulary);
  EXPECT_EQ(tokens[1029], "[PAD1029]");
  EXPECT_EQ(std::get<std::vector<int32_t>>(key(file, "tokenizer.ggml.token_type"))[1029], 5);
  EXPECT_EQ(std::get<bool>(key(file, "tokenizer.ggml.add_bos_token")), false);
}

TEST_F(GgufExportTest, TokensAddedToTheTokenizerKeepTheirNames) {
  const fs::path directory = make_model(config_of(ModelType::kLlama, SinkKind::kNone));
  write_file(directory / "added_tokens.json", R"({"<|im_start|>": 1025})");
  const auto types_and_tokens = [&] {
    const GgufFile file = to_gguf(open_model(directory, "float32"), GgufType::kF32, "name");
    const auto& tokens = std::get<std::vector<std::string>>(key(file, "tokenizer.ggml.tokens"));
    const auto& types = std::get<std::vector<int32_t>>(key(file, "tokenizer.ggml.token_type"));
    return std::pair(tokens[1024] + " " + tokens[1025], std::pair(types[1024], types[1025]));
  };
  EXPECT_EQ(types_and_tokens(), std::pair(std::string("[PAD1024] <|im_start|>"), std::pair(5, 4)));
  write_file(directory / "tokenizer_config.json",  // counts more
             R"({"added_tokens_decoder": {"1024": {"content": "<|end|>", "special": true}}})");
  EXPECT_EQ(types_and_tokens(), std::pair(std::string("<|end|> [PAD1025]"), std::pair(3, 5)));
  write_file(directory / "tokenizer_config.json",
             R"({"added_tokens_decoder": {"1000": {"content": "<|end|>"}}})");
  EXPECT_THAT(refusal(directory), HasSubstr("and, added, \"<|end|>\""));
}

TEST_F(GgufExportTest, TheSinkIsBosWhateverItsId) {
  ModelConfig config = config_of(ModelType::kLlama, SinkKind::kToken);
  config.sink.count = 2;
  config.sink.token_ids = {9, 4};
  const LoadedModel model = open_model(make_model(config), "float32");
  const GgufFile file = to_gguf(model, GgufType::kF32, "name");
  EXPECT_EQ(std::get<uint32_t>(key(file, "tokenizer.ggml.bos_token_id")), 9u);
  EXPECT_EQ(std::get<bool>(key(file, "tokenizer.ggml.add_bos_token")), true);
  EXPECT_EQ(std::get<uint32_t>(key(file, "llama.context_length")), 18u);
}

TEST_F(GgufExportTest, AVanillaModelBeginsAsItsTokenizerSays) {
  const fs::path directory = make_model(config_of(ModelType::kLlama, SinkKind::kNone));
  const auto begins = [&] {
    const LoadedModel model = open_model(directory, "float32");
    return std::get<bool>(
        key(to_gguf(model, GgufType::kF32, "name"), "tokenizer.ggml.add_bos_token"));
  };
  EXPECT_FALSE(begins());
  write_file(directory / "tokenizer_config.json", R"({"add_bos_token": true})");
  EXPECT_TRUE(begins());
  const std::string described =
      read_file(fs::path(BASIN_SOURCE_DIR) / "tests/golden/sink-effect-none/tokenizer.json");
  write_file(directory / "tokenizer.json", described);  // counts more
  EXPECT_FALSE(begins());
  write_file(
      directory / "tokenizer.json",
      read_file(fs::path(BASIN_SOURCE_DIR) / "tests/golden/sink-effect-sink/tokenizer.json"));
  EXPECT_TRUE(begins());
}

TEST_F(GgufExportTest, RefusesWhatTheFormatHasNoCounterpartFor) {
  for (const SinkKind kind : {SinkKind::kZero, SinkKind::kLogit})
    EXPECT_THAT(refusal(make_model(config_of(ModelType::kLlama, kind))),
                HasSubstr(fmt::format("sink {} has no counterpart", enum_name(kind))));
  ModelConfig partial = config_of(ModelType::kLlama, SinkKind::kNone);
  partial.partial_rotary_factor = 0.5;
  EXPECT_THAT(refusal(make_model(partial)), HasSubstr("rotates whole heads"));
  EXPECT_FALSE(fs::exists(root() / "out.gguf"));
}

TEST_F(GgufExportTest, RefusesModelsWithoutATokenizer) {
  EXPECT_THAT(refusal(make_model(config_of(ModelType::kLlama, SinkKind::kNone), false)),
              HasSubstr("a GGUF file carries its tokenizer, and there is none"));
}

TEST_F(GgufExportTest, ReplacesAFileOnlyWhenAsked) {
  const fs::path model = make_model(config_of(ModelType::kLlama, SinkKind::kNone));
  write_file(root() / "out.gguf", "GGUF before");
  EXPECT_THAT(refusal(model), HasSubstr("--force"));
  EXPECT_THAT(refusal(model, "f8", true), HasSubstr("f32, f16, bf16 or q8_0"));
  EXPECT_EQ(read_file(root() / "out.gguf"), "GGUF before");
  EXPECT_EQ(refusal(model, "q8_0", true), "nothing was refused");
  const std::string written = read_file(root() / "out.gguf");
  EXPECT_EQ(written.substr(0, 4), "GGUF");
  EXPECT_GT(written.size(), 1000u);
}

TEST_F(GgufExportTest, ReplacesNothingButAnEarlierExport) {
  const fs::path model = make_model(config_of(ModelType::kLlama, SinkKind::kNone)),
                 weights = model / "model.safetensors";
  const std::string before = read_file(weights);
  EXPECT_THAT(refusal(model, {weights, "f32", true}), HasSubstr("the model's own directory"));
  fs::create_directory_symlink(model, root() / "link");
  EXPECT_THAT(refusal(model, {root() / "link/model.safetensors", "f32", true}),
              HasSubstr("the model's own directory"));
  EXPECT_TRUE(read_file(weights) == before);
  write_file(model / "model.gguf", "GGUF of somebody");
  EXPECT_THAT(refusal(model, {model / "model.gguf", "f32", true}),
              HasSubstr("the model's own directory"));
  for (const char* other : {"", "GGU", "somebody's work"}) {
    write_file(root() / "out.gguf", other);
    EXPECT_THAT(refusal(model, "f32", true), HasSubstr("is no GGUF file")) << other;
    EXPECT_EQ(read_file(root() / "out.gguf"), other);
  }
}

TEST_F(GgufExportTest, ValuesThatTheTypeCannotHoldLeaveNoFile) {
  const ModelConfig config = config_of(ModelType::kGptNeox, SinkKind::kNone);
  const Transformer random = random_model(config, at::kFloat);
  at::Tensor(random.parameters().front().tensor).flatten()[3] = 70000;
  save_model(random, 16, root() / "model");
  write_file(
      root() / "model/tokenizer.model",
      read_file(fs::path(BASIN_SOURCE_DIR) / "tests/golden/sink-effect-sink/tokenizer.model"));
  EXPECT_THAT(refusal(root() / "model", "f16"), HasSubstr("token_embd.weight holds values"));
  EXPECT_EQ(std::distance(fs::directory_iterator(root()), fs::directory_iterator()), 1);
}

}  // namespace
}  // namespace basin
