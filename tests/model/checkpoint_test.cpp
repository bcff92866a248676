#include "model/checkpoint.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <tuple>

#include "configs/scratch_folder.h"
#include "model/safetensors.h"
#include "tests/model/small_model.h"

namespace basin {
namespace {

namespace fs = std::filesystem;
using Tensors = std::vector<std::pair<std::string, at::Tensor>>;

bool same_weights(const Transformer& a, const Transformer& b) {
  if (a.parameters().size() != b.parameters().size()) return false;
  for (size_t i = 0; i < a.parameters().size(); ++i)
    if (a.parameters()[i].name != b.parameters()[i].name ||
        !at::equal(a.parameters()[i].tensor, b.parameters()[i].tensor))
      return false;
  return true;
}

class Checkpoint : public ::testing::Test {
 protected:
  nlohmann::json config_json() { return nlohmann::json::parse(read_file(path_ / "config.json")); }
  /// Rewrites keys of config.json; null removes a key.
  void patch_config(const nlohmann::json& changes) {
    nlohmann::json json = config_json();
    json.merge_patch(changes);
    write_file(path_ / "config.json", json.dump());
  }
  Tensors tensors() {
    const SafetensorsFile file(path_ / "model.safetensors");
    Tensors all;
    for (const auto& [name, entry] : file.entries()) all.emplace_back(name, file.read(name));
    return all;
  }
  void rewrite(const Tensors& all) { write_safetensors(path_ / "model.safetensors", all); }
  std::unique_ptr<Transformer> load() { return load_model(path_, at::kFloat, at::kCPU); }
  std::string refusal() {
    try {
      load();
      return "";
    } catch (const std::runtime_error& e) {
      return e.what();
    }
  }
  void expect_refusal(const std::string& text) {
    EXPECT_NE(refusal().find(text), std::string::npos) << "found: " << refusal();
  }

  ScratchFolder directory_;
  const fs::path path_ = directory_.path() / "model";
};

TEST_F(Checkpoint, RoundTripOfEveryVariant) {
  for (const ModelType type : {ModelType::kLlama, ModelType::kGptNeox})
    for (const SinkKind kind :
         {SinkKind::kNone, SinkKind::kToken, SinkKind::kZero, SinkKind::kLogit})
      for (const bool variant : {false, true}) {
        ModelConfig config = tiny(type);
        config.sink.kind = kind;
        config.tie_word_embeddings = variant;
        config.attention_bias = config.use_parallel_residual =
            type == ModelType::kLlama || !variant;
        config.norm_eps = 3e-6;
        config.rope_theta = 5000;
        if (kind == SinkKind::kToken && variant)
          config.sink.count = 2, config.sink.token_ids = {9, 7};
        const auto model = random_model(config);
        save_model(*model, 32, path_, {2});
        const auto read = load();
        EXPECT_TRUE(same_weights(*model, *read));
        EXPECT_EQ(config_json()["max_position_embeddings"], 32 + config.sink.tokens());
        const ModelConfig& back = read->config();
        EXPECT_EQ(std::tie(back.model_type,
                           back.num_key_value_heads,
                           back.head_dim,
                           back.norm_eps,
                           back.rope_theta,
                           back.partial_rotary_factor,
                           back.use_parallel_residual,
                           back.attention_bias,
                           back.tie_word_embeddings,
                           back.sink.kind,
                           back.sink.count,
                           back.sink.token_ids),
                  std::tie(config.model_type,
                           config.num_key_value_heads,
                           config.head_dim,
                           config.norm_eps,
                           config.rope_theta,
                           config.partial_rotary_factor,
                           config.use_parallel_residual,
                           config.attention_bias,
                           config.tie_word_embeddings,
                           config.sink.kind,
                           config.sink.count,
                           config.sink.token_ids));
      }
}

TEST_F(Checkpoint, LlamaNamesAndRows) {
  const auto model = random_model(tiny(ModelType::kLlama));
  save_model(*model, 32, path_, {2});
  const SafetensorsFile file(path_ / "model.safetensors");
  const at::Tensor qkv = model->parameter("layers.1.qkv.weight"),
                   up = model->parameter("layers.1.up.weight");
  EXPECT_EQ(file.entries().size(), 2u * 9 + 3);
  EXPECT_TRUE(at::equal(file.read("model.layers.1.self_attn.q_proj.weight"), qkv.slice(0, 0, 24)));
  EXPECT_TRUE(at::equal(file.read("model.layers.1.self_attn.k_proj.weight"), qkv.slice(0, 24, 32)));
  EXPECT_TRUE(at::equal(file.read("model.layers.1.self_attn.v_proj.weight"), qkv.slice(0, 32, 40)));
  EXPECT_TRUE(at::equal(file.read("model.layers.1.mlp.gate_proj.weight"), up.slice(0, 0, 40)));
  EXPECT_TRUE(at::equal(file.read("model.layers.1.mlp.up_proj.weight"), up.slice(0, 40, 80)));
  EXPECT_TRUE(at::equal(file.read("model.norm.weight"), model->parameter("final_norm.weight")));
  EXPECT_TRUE(at::equal(file.read("lm_head.weight"), model->parameter("head.weight")));
}

TEST_F(Checkpoint, GptNeoxRowsGoHeadByHead) {
  const auto model = random_model(tiny(ModelType::kGptNeox));
  save_model(*model, 32, path_, {2});
  const SafetensorsFile file(path_ / "model.safetensors");
  EXPECT_EQ(file.entries().size(), 2u * 12 + 4);
  const int64_t K = 4, H = 6;
  for (const char* suffix : {"weight", "bias"}) {
    const at::Tensor internal = model->parameter(std::string("layers.0.qkv.") + suffix);
    const at::Tensor stored =
        file.read(std::string("gpt_neox.layers.0.attention.query_key_value.") + suffix);
    for (int64_t head = 0; head < H; ++head)
      for (int64_t part = 0; part < 3; ++part)  // q, k, v
        EXPECT_TRUE(at::equal(stored.narrow(0, (head * 3 + part) * K, K),
                              internal.narrow(0, (part * H + head) * K, K)))
            << suffix << head << part;
  }
  EXPECT_TRUE(at::equal(file.read("embed_out.weight"), model->parameter("head.weight")));
}

TEST_F(Checkpoint, ConfigSpeaksBothDialects) {
  ModelConfig config = tiny(ModelType::kGptNeox);
  config.rope_theta = 5000;
  save_model(*random_model(config), 32, path_, {2});
  nlohmann::json json = config_json();
  EXPECT_EQ(json["rotary_pct"], 0.5);
  EXPECT_EQ(json["rope_parameters"],
            nlohmann::json::parse(
                R"({"rope_type":"default","rope_theta":5000.0,"partial_rotary_factor":0.5})"));
  EXPECT_EQ(json["dtype"], "float32");
  EXPECT_EQ(json["torch_dtype"], json["dtype"]);
  EXPECT_TRUE(json["bos_token_id"].is_null());
  for (const nlohmann::json& dialect :
       {nlohmann::json::parse(R"({"rope_parameters":null})"),
        nlohmann::json::parse(R"({"rotary_pct":null,"rotary_emb_base":null})")}) {
    save_model(*random_model(config), 32, path_, {2});
    patch_config(dialect);
    EXPECT_EQ(read_model_config(path_).rope_theta, 5000);
    EXPECT_EQ(read_model_config(path_).partial_rotary_factor, 0.5);
  }
  patch_config({{"rope_parameters", nullptr}, {"num_attention_heads", 3}});
  EXPECT_EQ(read_model_config(path_).partial_rotary_factor, 0.25)
      << "Hugging Face's default for gpt_neox";
  patch_config({{"partial_rotary_factor", 0.75}});
  EXPECT_EQ(read_model_config(path_).partial_rotary_factor, 0.25) << "no key of gpt_neox";
  patch_config({{"rotary_pct", 0.5}});
  EXPECT_EQ(read_model_config(path_).partial_rotary_factor, 0.5);
  EXPECT_EQ(read_model_config(path_).rope_theta, 10000);
}

TEST_F(Checkpoint, SinkTokensAreWhatOthersPrepend) {
  ModelConfig config = tiny(ModelType::kLlama);
  config.sink.kind = SinkKind::kToken;
  config.sink.count = 2;
  save_model(*random_model(config), 32, path_, {2});
  EXPECT_EQ(config_json()["model_type"], "llama");
  EXPECT_EQ(config_json()["bos_token_id"], 1);
  EXPECT_EQ(config_json()["sink"],
            nlohmann::json::parse(R"({"kind":"token","count":2,"token_ids":[1,3]})"));
  const nlohmann::json generation =
      nlohmann::json::parse(read_file(path_ / "generation_config.json"));
  EXPECT_EQ(generation["bos_token_id"], 1);
  EXPECT_EQ(generation["eos_token_id"], 2);
  save_model(*random_model(config), 32, path_, {50});
  EXPECT_TRUE(config_json()["eos_token_id"].is_null()) << "outside the vocabulary";
}

TEST_F(Checkpoint, ModelsThatOthersWouldMiscomputeSaySo) {
  ModelConfig config = tiny(ModelType::kGptNeox);
  config.sink.kind = SinkKind::kZero;
  save_model(*random_model(config), 32, path_);
  EXPECT_EQ(config_json()["model_type"], "basin_gpt_neox");
  config.sink.kind = SinkKind::kLogit;
  const auto logits = random_model(config);
  save_model(*logits, 32, path_);
  EXPECT_TRUE(at::equal(
      SafetensorsFile(path_ / "model.safetensors").read("gpt_neox.layers.1.attention.sink_logit"),
      logits->parameter("layers.1.sink_logit")));
  ModelConfig llama = tiny(ModelType::kLlama);
  llama.partial_rotary_factor = 0.5;
  save_model(*random_model(llama), 32, path_);
  EXPECT_EQ(config_json()["model_type"], "basin_llama");
  EXPECT_EQ(read_model_config(path_).partial_rotary_factor, 0.5);
  patch_config({{"model_type", "llama"}});
  expect_refusal("partial_rotary_factor");
}

TEST_F(Checkpoint, OtherDtypesConvert) {
  const auto model = random_model(tiny(ModelType::kLlama), at::kBFloat16);
  save_model(*model, 32, path_);
  EXPECT_EQ(config_json()["dtype"], "bfloat16");
  EXPECT_EQ(SafetensorsFile(path_ / "model.safetensors").entries().at("model.norm.weight").dtype,
            "BF16");
  EXPECT_TRUE(at::equal(load()->parameter("embedding.weight"),
                        model->parameter("embedding.weight").to(at::kFloat)));
  Tensors halves = tensors();
  for (auto& [name, tensor] : halves) tensor = tensor.to(at::kDouble);
  rewrite(halves);
  EXPECT_TRUE(same_weights(*load_model(path_, at::kBFloat16, at::kCPU), *model));
}

TEST_F(Checkpoint, MissingExtraAndMisshapenTensorsAreNamed) {
  save_model(*random_model(tiny(ModelType::kLlama)), 32, path_);
  const Tensors whole = tensors();
  Tensors changed(whole);
  std::erase_if(changed,
                [](const auto& t) { return t.first == "model.layers.1.mlp.up_proj.weight"; });
  rewrite(changed);
  expect_refusal("missing tensors: model.layers.1.mlp.up_proj.weight");
  changed = whole;
  changed.emplace_back("model.layers.2.mlp.up_proj.weight", at::zeros({40, 24}));
  rewrite(changed);
  expect_refusal("does not have: model.layers.2.mlp.up_proj.weight");
  rewrite(whole);
  patch_config({{"vocab_size", 64}});
  expect_refusal("model.embed_tokens.weight has (50, 24), expected (64, 24)");
  patch_config({{"vocab_size", 50}, {"num_key_value_heads", 3}});
  expect_refusal("self_attn.k_proj.weight has (8, 24), expected (12, 24)");
  patch_config({{"num_key_value_heads", 2}});
  EXPECT_EQ(refusal(), "");
  fs::remove(path_ / "model.safetensors");
  expect_refusal("no weights here");
}

TEST_F(Checkpoint, LegacyBuffersAndTheOtherHeadNameAreRead) {
  const auto model = random_model(tiny(ModelType::kGptNeox));
  save_model(*model, 32, path_);
  Tensors old = tensors();
  for (auto& [name, tensor] : old)
    if (name == "embed_out.weight") name = "lm_head.weight";
  old.emplace_back("gpt_neox.layers.0.attention.bias", at::ones({1, 1, 8, 8}, at::kBool));
  old.emplace_back("gpt_neox.layers.0.attention.masked_bias", at::scalar_tensor(-1e9));
  old.emplace_back("gpt_neox.layers.0.attention.rotary_emb.inv_freq", at::ones({2}));
  rewrite(old);
  EXPECT_TRUE(same_weights(*load(), *model));
}

TEST_F(Checkpoint, ATiedHeadMayBeThereIfItIsTheEmbedding) {
  ModelConfig config = tiny(ModelType::kLlama);
  config.tie_word_embeddings = true;
  const auto model = random_model(config);
  save_model(*model, 32, path_);
  Tensors all = tensors();
  all.emplace_back("lm_head.weight", model->parameter("embedding.weight"));
  rewrite(all);
  EXPECT_EQ(refusal(), "");
  all.back().second = all.back().second + 1;
  rewrite(all);
  expect_refusal("\"lm_head.weight\" differs from the embedding");
}

TEST_F(Checkpoint, ShardsWithAnIndex) {
  const auto model = random_model(tiny(ModelType::kLlama));
  save_model(*model, 32, path_);
  const Tensors all = tensors();
  fs::remove(path_ / "model.safetensors");
  const Tensors first(all.begin(), all.begin() + 7), second(all.begin() + 7, all.end());
  nlohmann::json index;
  for (const auto& [name, tensor] : first)
    index["weight_map"][name] = "model-00001-of-00002.safetensors";
  for (const auto& [name, tensor] : second)
    index["weight_map"][name] = "model-00002-of-00002.safetensors";
  write_safetensors(path_ / "model-00001-of-00002.safetensors", first);
  write_safetensors(path_ / "model-00002-of-00002.safetensors", second);
  write_file(path_ / "model.safetensors.index.json", index.dump());
  EXPECT_TRUE(same_weights(*load(), *model));
  index["weight_map"][first[0].first] = "model-00002-of-00002.safetensors";
  write_file(path_ / "model.safetensors.index.json", index.dump());
  expect_refusal("is not in model-00002-of-00002.safetensors but in");
  index["weight_map"][first[0].first] = "../model-00001-of-00002.safetensors";
  write_file(path_ / "model.safetensors.index.json", index.dump());
  expect_refusal("is no file name");
}

TEST_F(Checkpoint, UnsupportedConfigurationsAreNamed) {
  save_model(*random_model(tiny(ModelType::kLlama)), 32, path_);
  const nlohmann::json good = config_json();
  const struct {
    const char *patch, *message;
  } cases[] = {
      {R"({"model_type":"mamba"})",
       "\"model_type\": \"mamba\" is not supported; supported: llama, gpt_neox, mistral, qwen2, mpt, "
       "falcon"},
      {R"({"model_type":"gpt2"})",
       "\"model_type\": \"gpt2\" has learned absolute positions, which cannot stream"},
      {R"({"model_type":"opt"})", "\"opt\" has learned absolute positions, which cannot stream"},
      {R"({"model_type":null})", "\"model_type\": missing"},
      {R"({"model_type":"two\nlines"})", "\"two\\x0alines\" is not supported"},
      {R"({"rope_scaling":{"type":"yarn","factor":2.0}})",
       "\"rope_scaling\": rotary scaling \"yarn\""},
      {R"({"rope_parameters":{"rope_type":"dynamic"}})",
       "\"rope_parameters\": rotary scaling \"dynamic\""},
      {R"({"rope_parameters":{"rope_type":"llama3"}})", "\"rope_parameters.factor\": missing"},
      {R"({"rope_scaling":{"rope_type":"llama3","factor":2,"low_freq_factor":4,"high_freq_factor":4}})",
       "high_freq_factor 4 must exceed low_freq_factor 4"},
      {R"({"rope_scaling":{"rope_type":"linear","factor":0.5}})", "factor 0.5 is not between 1"},
      {R"({"rope_parameters":{"full_attention":{"rope_theta":1e4}}})",
       "\"rope_parameters.full_attention\": rotary parameters of single layers"},
      {R"({"hidden_act":"relu"})", "\"hidden_act\": \"relu\""},
      {R"({"attention_bias":true})", "\"attention_bias\": biases"},
      {R"({"mlp_bias":true})", "\"mlp_bias\": biases"},
      {R"({"hidden_size":24.5})", "\"hidden_size\": expected an integer, found 24.5"},
      {R"({"hidden_size":null})", "\"hidden_size\": missing"},
      {R"({"num_attention_heads":0})", "num_attention_heads 0 is not between"},
      {R"({"num_attention_heads":5})", "num_attention_heads 5 does not divide hidden_size 24"},
      {R"({"vocab_size":0})", "\"vocab_size\": must be positive"},
      {R"({"tie_word_embeddings":"no"})", "expected true or false"},
      {R"({"rms_norm_eps":"x"})", "expected a number"},
      {R"({"quantization_config":{"bits":4}})", "\"quantization_config\": quantized"},
      {R"({"sink":{"kind":"many"}})",
       "\"sink.kind\": \"many\" is none of none, token, zero, logit"},
      {R"({"sink":{"kind":"token","count":2,"token_ids":[7,7]}})", "7 occurs twice"},
      {R"({"sink":{"kind":"token","count":1,"token_ids":[50]}})",
       "sink token id 50 lies outside the vocabulary of 50"},
      {R"({"sink":{"kind":"token","count":1,"token_ids":1}})",
       "\"sink.token_ids\": expected a list of integers"},
      {R"({"sink":3})", "\"sink\": expected an object"},
  };
  for (const auto& c : cases) {
    write_file(path_ / "config.json", good.dump());
    patch_config(nlohmann::json::parse(c.patch));
    EXPECT_NE(refusal().find((path_ / "config.json").string()), std::string::npos) << refusal();
    expect_refusal(c.message);
  }
  write_file(path_ / "config.json", "{");
  expect_refusal("no valid JSON");
  fs::remove(path_ / "config.json");
  expect_refusal("config.json");
}

}  // namespace
}  // namespace basin
