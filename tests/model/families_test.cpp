// Layouts and config.json of the imported families: rows on disk, both dialects, what is refused.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>
#include <numbers>

#include "configs/files.h"
#include "configs/scratch_folder.h"
#include "model/alibi.h"
#include "model/checkpoint.h"
#include "model/rope.h"
#include "model/safetensors.h"
#include "tests/model/family_variants.h"
#include "tests/model/small_model.h"

namespace basin {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

ModelConfig variant(const std::string& name) {
  for (const FamilyVariant& v : family_variants())
    if (v.name == name) return v.config;
  throw std::out_of_range(name);
}

class Families : public ::testing::Test {
 protected:
  void save(const std::string& name) { save_model(*random_model(variant(name)), 64, path_); }
  json config() { return json::parse(read_file(path_ / "config.json")); }
  void write(const json& config) { write_file(path_ / "config.json", config.dump()); }
  ModelConfig read() { return read_model_config(path_); }
  /// The error of reading config.json with these changes; null removes a key.
  std::string refusal(const json& good, const char* changes) {
    json changed = good;
    changed.merge_patch(json::parse(changes));
    write(changed);
    try {
      read();
      return "nothing";
    } catch (const std::runtime_error& e) {
      return e.what();
    }
  }

  ScratchFolder directory_;
  const fs::path path_ = directory_.path() / "model";
};

TEST_F(Families, SavedLoadedAndSavedAgainIsTheSameBytes) {
  std::vector<FamilyVariant> variants = family_variants();
  for (const char* name : {"falcon_7b", "linear"}) {
    ModelConfig partial = variant(name);
    partial.partial_rotary_factor = 0.5;
    partial.rope_scaling = {.rope_type = RopeType::kLinear, .factor = 4};
    variants.push_back({std::string(name) + "_partial", partial});
  }
  for (const FamilyVariant& v : variants)
    for (const SinkKind kind : {SinkKind::kNone, SinkKind::kToken, SinkKind::kLogit})
      for (const bool other : {false, true}) {
        ModelConfig config = v.config;
        config.sink.kind = kind;
        const bool ties =
            config.model_type == ModelType::kMpt || config.model_type == ModelType::kFalcon;
        config.tie_word_embeddings = ties != other;
        const fs::path again = directory_.path() / "again";
        const auto model = random_model(config);
        save_model(*model, 64, path_);
        const auto read = load_model(path_, at::kFloat, at::kCPU);
        save_model(*read, read_max_positions(path_) - config.sink.tokens(), again);
        for (const char* file : {"config.json", "generation_config.json", "model.safetensors"})
          EXPECT_EQ(read_file(path_ / file), read_file(again / file)) << v.name << " " << file;
        for (const Parameter& p : model->parameters())
          EXPECT_TRUE(at::equal(read->parameter(p.name), p.tensor)) << v.name << " " << p.name;
        EXPECT_EQ(this->config()["model_type"].get<std::string>(),
                  (kind == SinkKind::kLogit || v.name.ends_with("_partial") ? "basin_" : "") +
                      std::string(enum_name(config.model_type)));
      }
}

// Rows are (G, H / G + 2, K): each group's queries, then its key and its value.
TEST_F(Families, FalconRowsGoGroupByGroup) {
  const int64_t H = 6, K = 8;
  for (const char* name : {"falcon_7b", "falcon_new", "falcon_new_one_norm", "falcon_alibi"}) {
    const ModelConfig config = variant(name);
    const int64_t G = config.kv_heads(), each = H / G;
    const auto model = random_model(config);
    save_model(*model, 64, path_);
    const at::Tensor internal = model->parameter("layers.1.qkv.weight"),
                     stored = SafetensorsFile(path_ / "model.safetensors")
                                  .read("transformer.h.1.self_attention.query_key_value.weight");
    for (int64_t g = 0; g < G; ++g)
      for (int64_t part = 0; part < each + 2; ++part) {
        const int64_t head = part < each ? g * each + part : part == each ? H + g : H + G + g;
        EXPECT_TRUE(at::equal(stored.narrow(0, (g * (each + 2) + part) * K, K),
                              internal.narrow(0, head * K, K)))
            << name << " " << g << " " << part;
      }
  }
}

TEST_F(Families, TensorsOfTheNewFamiliesHaveTheirNames) {
  const auto names = [&](const char* name) {
    save(name);
    std::string all;
    const std::string layer = ".0.";
    const SafetensorsFile file(path_ / "model.safetensors");
    for (const auto& [tensor, entry] : file.entries())
      if (const size_t at = tensor.find(layer); at != std::string::npos)
        all += tensor.substr(at + layer.size()) + " ";
    return all;
  };
  EXPECT_EQ(names("mpt"),
            "attn.Wqkv.weight attn.out_proj.weight ffn.down_proj.weight ffn.up_proj.weight "
            "norm_1.weight norm_2.weight ");
  EXPECT_EQ(names("falcon_7b"),
            "input_layernorm.bias input_layernorm.weight mlp.dense_4h_to_h.weight "
            "mlp.dense_h_to_4h.weight self_attention.dense.weight "
            "self_attention.query_key_value.weight ");
  EXPECT_EQ(names("falcon_new"),
            "ln_attn.bias ln_attn.weight ln_mlp.bias ln_mlp.weight mlp.dense_4h_to_h.weight "
            "mlp.dense_h_to_4h.weight self_attention.dense.weight "
            "self_attention.query_key_value.weight ");
  EXPECT_EQ(names("falcon_alibi"),
            "input_layernorm.bias input_layernorm.weight mlp.dense_4h_to_h.bias "
            "mlp.dense_4h_to_h.weight mlp.dense_h_to_4h.bias mlp.dense_h_to_4h.weight "
            "post_attention_layernorm.bias post_attention_layernorm.weight "
            "self_attention.dense.bias self_attention.dense.weight "
            "self_attention.query_key_value.bias self_attention.query_key_value.weight ");
  EXPECT_EQ(names("qwen2"),
            "input_layernorm.weight mlp.down_proj.weight mlp.gate_proj.weight mlp.up_proj.weight "
            "post_attention_layernorm.weight self_attn.k_proj.bias self_attn.k_proj.weight "
            "self_attn.o_proj.weight self_attn.q_proj.bias self_attn.q_proj.weight "
            "self_attn.v_proj.bias self_attn.v_proj.weight ");
}

TEST_F(Families, RopeScalingReadsInBothDialects) {
  save("llama3");
  json good = config();
  EXPECT_EQ(good["rope_scaling"],
            json::parse(R"({"rope_type":"llama3","factor":8.0,"low_freq_factor":1.0,
                            "high_freq_factor":4.0,"original_max_position_embeddings":128})"));
  for (const char* gone : {R"({"rope_scaling":null})",
                           R"({"rope_parameters":null})",
                           R"({"rope_scaling":{"rope_type":null,"type":"llama3"}})"}) {
    EXPECT_EQ(refusal(good, gone), "nothing");
    const RopeScaling scaling = read().rope_scaling;
    EXPECT_EQ(scaling.rope_type, RopeType::kLlama3) << gone;
    EXPECT_EQ(scaling.factor, 8);
    EXPECT_EQ(scaling.original_max_position_embeddings, 128);
  }
  EXPECT_EQ(refusal(good, R"({"rope_scaling":{"original_max_position_embeddings":null}})"),
            "nothing");
  EXPECT_EQ(read().rope_scaling.original_max_position_embeddings, 64) << "max_position_embeddings";
  EXPECT_EQ(refusal(good, R"({"rope_scaling":{"rope_type":"linear","factor":2.0}})"), "nothing");
  EXPECT_EQ(read().rope_scaling.rope_type, RopeType::kLinear)
      << "where they differ, rope_scaling is what transformers 5 takes";
}

TEST_F(Families, OlderFalconFilesSayLess) {
  save("falcon_7b");
  const json good = config();
  EXPECT_EQ(refusal(good, R"({"hidden_size":null,"n_embed":48,"num_hidden_layers":null,
                              "n_layer":2,"num_attention_heads":null,"n_head":6,
                              "num_kv_heads":6,"activation":null,"tie_word_embeddings":null,
                              "rope_parameters":null,"max_position_embeddings":null})"),
            "nothing");
  EXPECT_EQ(read().kv_heads(), 1) << "transformers writes H for multi_query";
  EXPECT_EQ(read().heads(), 6);
  EXPECT_TRUE(read().tie_word_embeddings);
  EXPECT_EQ(read_max_positions(path_), 0);
  EXPECT_EQ(refusal(good, R"({"ffn_hidden_size":null})"), "nothing");
  EXPECT_EQ(read().intermediate_size, 4 * 48);
  save("falcon_new");
  EXPECT_EQ(refusal(config(), R"({"num_ln_in_parallel_attn":null})"), "nothing");
  EXPECT_EQ(read().num_ln_in_parallel_attn, 2);
}

TEST_F(Families, SlidingWindows) {
  save("mistral");
  json mistral = config();
  EXPECT_EQ(refusal(mistral, R"({"sliding_window":128})"), "nothing");
  EXPECT_EQ(read().sliding_window, 128);
  mistral["sliding_window"] = nullptr;
  write(mistral);
  EXPECT_EQ(read().sliding_window, 0);
  mistral.erase("sliding_window");
  write(mistral);
  EXPECT_EQ(read().sliding_window, 4096) << "transformers' default";
  save("qwen2");
  const json qwen2 = config();
  const auto window = [&](const char* changes) {
    EXPECT_EQ(refusal(qwen2, changes), "nothing");
    return read().sliding_window;
  };
  EXPECT_EQ(window(R"({"use_sliding_window":false,"sliding_window":32})"), 0);
  EXPECT_EQ(window(R"({"use_sliding_window":true,"sliding_window":32,"max_window_layers":2})"), 0);
  EXPECT_EQ(window(R"({"use_sliding_window":true,"sliding_window":32,"max_window_layers":0})"), 32);
  EXPECT_EQ(window(R"({"use_sliding_window":true,"sliding_window":32,
                       "layer_types":["sliding_attention","sliding_attention"]})"),
            32);
}

TEST_F(Families, WhatIsNotComputedIsRefusedByName) {
  const struct {
    const char *variant, *changes, *message;
  } cases[] = {
      {"mpt", R"({"attn_config":{"alibi":false}})", "\"attn_config.alibi\": only MPT with ALiBi"},
      {"mpt", R"({"attn_config":{"alibi_bias_max":16}})", "\"attn_config.alibi_bias_max\": only 8"},
      {"mpt", R"({"attn_config":{"clip_qkv":6}})", "\"attn_config.clip_qkv\": only null"},
      {"mpt", R"({"attn_config":{"softmax_scale":0.1}})", "\"attn_config.softmax_scale\""},
      {"mpt", R"({"attn_config":{"qk_ln":true}})", "\"attn_config.qk_ln\": true"},
      {"mpt", R"({"attn_config":{"prefix_lm":true}})", "\"attn_config.prefix_lm\": true"},
      {"mpt", R"({"attn_config":{"kv_n_heads":2}})", "\"attn_config.kv_n_heads\": grouped"},
      {"mpt",
       R"({"attn_config":{"attn_type":"multiquery_attention"}})",
       "\"attn_config.attn_type\": \"multiquery_attention\" is not supported"},
      {"mpt", R"({"expansion_ratio":2})", "\"expansion_ratio\": only 4"},
      {"mpt", R"({"no_bias":false})", "\"no_bias\": biases"},
      {"mpt", R"({"logit_scale":"inv_sqrt_d_model"})", "\"logit_scale\": only null"},
      {"mpt", R"({"norm_type":"rmsnorm"})", "\"norm_type\": \"rmsnorm\" is not supported"},
      {"mpt", R"({"d_model":null})", "\"d_model\": missing"},
      {"falcon_7b", R"({"activation":"relu"})", "\"activation\": \"relu\" is not supported"},
      {"falcon_7b",
       R"({"num_ln_in_parallel_attn":2})",
       "\"num_ln_in_parallel_attn\": 2 norms need"},
      {"falcon_7b", R"({"num_ln_in_parallel_attn":3})", "3 is neither 1 nor 2"},
      {"falcon_7b",
       R"({"apply_residual_connection_post_layernorm":true})",
       "\"apply_residual_connection_post_layernorm\": true"},
      {"falcon_7b", R"({"rope_scaling":{"type":"ntk"}})", "rotary scaling \"ntk\""},
      {"falcon_7b", R"({"partial_rotary_factor":0.5})", "\"partial_rotary_factor\": a falcon"},
      {"falcon_new", R"({"parallel_attn":false})", "\"parallel_attn\": the new decoder"},
      {"falcon_new", R"({"num_kv_heads":4})", "num_key_value_heads 4 does not divide"},
      {"mistral", R"({"num_key_value_heads":null})", "\"num_key_value_heads\": missing"},
      {"mistral", R"({"sliding_window":-1})", "sliding_window -1 is not between"},
      {"qwen2", R"({"hidden_act":"gelu"})", "\"hidden_act\": \"gelu\" is not supported"},
      {"qwen2",
       R"({"use_sliding_window":true,"sliding_window":32,"max_window_layers":1})",
       "\"use_sliding_window\": a sliding window in some of the layers"},
  };
  for (const auto& c : cases) {
    save(c.variant);
    const std::string said = refusal(config(), c.changes);
    EXPECT_NE(said.find(c.message), std::string::npos) << c.variant << ": " << said;
    EXPECT_NE(said.find((path_ / "config.json").string()), std::string::npos) << said;
  }
}

TEST_F(Families, KeysOfOtherFamiliesAreProblems) {
  const auto problem = [](ModelType type, auto&& change) {
    ModelConfig config = variant_base(type, 0);
    change(config);
    const std::vector<std::string> found = config.problems();
    return found.empty() ? "nothing" : found.front();
  };
  const auto alibi = [](ModelConfig& c) { c.alibi = true; };
  EXPECT_EQ(problem(ModelType::kLlama, alibi), "alibi: llama rotates its heads");
  EXPECT_EQ(problem(ModelType::kFalcon, alibi), "nothing");
  const auto bias = [](ModelConfig& c) { c.bias = true; };
  EXPECT_EQ(problem(ModelType::kQwen2, bias), "bias: a key of falcon, not of qwen2");
  EXPECT_EQ(problem(ModelType::kMpt, [](ModelConfig& c) { c.intermediate_size = 80; }),
            "intermediate_size 80: mpt takes 4 times hidden_size, 192");
  EXPECT_EQ(problem(ModelType::kFalcon,
                    [](ModelConfig& c) {
                      c.use_parallel_residual = false;
                      c.num_key_value_heads = 2;
                    }),
            "num_key_value_heads 2: a falcon without parallel residual has 1 or as many as query "
            "heads");
}

// Press et al. (arXiv 2108.12409, get_slopes of their code), as they wrote it.
std::vector<double> published_slopes(int64_t n) {
  const auto of_power = [](int64_t p) {
    std::vector<double> slopes;
    const double start = std::pow(2, -std::pow(2, -(std::log2(p) - 3)));
    for (int64_t i = 0; i < p; ++i) slopes.push_back(start * std::pow(start, i));
    return slopes;
  };
  const double power = std::log2(n);
  if (power == std::floor(power)) return of_power(n);
  const auto below = static_cast<int64_t>(std::pow(2, std::floor(power)));
  std::vector<double> slopes = of_power(below);
  const std::vector<double> more = published_slopes(2 * below);
  for (int64_t i = 0; static_cast<int64_t>(slopes.size()) < n; i += 2)
    slopes.push_back(more[static_cast<size_t>(i)]);
  return slopes;
}

TEST(Alibi, SlopesForEveryNumberOfHeads) {
  for (int64_t heads = 1; heads <= 130; ++heads) {
    const std::vector<double> ours = alibi_slopes(heads), theirs = published_slopes(heads);
    ASSERT_EQ(ours.size(), theirs.size());
    for (size_t h = 0; h < ours.size(); ++h)
      EXPECT_NEAR(ours[h], theirs[h], 1e-12) << heads << " heads, head " << h;
  }
}

TEST(Alibi, FalconRoundsToBf16) {
  const at::Tensor mpt = alibi_table(variant("mpt"), 600),
                   falcon = alibi_table(variant("falcon_alibi"), 600);
  EXPECT_EQ(mpt[4][599].item<double>(), 0.5 * 599);
  EXPECT_EQ(falcon[4][599].item<double>(), 0.5 * 600 / std::sqrt(8.0)) << "8 bits of 599 are 600";
  EXPECT_EQ(falcon[4][200].item<double>(), 0.5 * 200 / std::sqrt(8.0));
}

TEST(RopeScaling, Llama3KeepsShortWavesAndStretchesLongOnes) {
  ModelConfig config = variant("llama3"), plain = config;
  plain.rope_scaling = {};
  const std::vector<double> stretched = rotary_frequencies(config),
                            original = rotary_frequencies(plain);
  ASSERT_EQ(original.size(), 4u);
  EXPECT_EQ(stretched[0], original[0]) << "6 positions";
  EXPECT_DOUBLE_EQ(stretched[2], original[2] / 8) << "628";
  EXPECT_DOUBLE_EQ(stretched[3], original[3] / 8);
  const double waves = 128 * original[1] / (2 * std::numbers::pi), share = (waves - 1) / 3;
  ASSERT_GT(share, 0.3);
  EXPECT_DOUBLE_EQ(stretched[1], share * original[1] + (1 - share) * original[1] / 8);
  config.rope_scaling = {.rope_type = RopeType::kLinear, .factor = 4};
  for (size_t i = 0; i < 4; ++i) EXPECT_DOUBLE_EQ(rotary_frequencies(config)[i], original[i] / 4);
}

}  // namespace
}  // namespace basin
