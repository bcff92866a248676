#include <ATen/ATen.h>
#include <fmt/core.h>
#include <gmock/gmock.h>

#include <nlohmann/json.hpp>

#include "configs/files.h"
#include "configs/scratch_folder.h"
#include "infer/export_hf.h"
#include "infer/model_directory.h"
#include "model/checkpoint.h"
#include "model/safetensors.h"
#include "tests/infer/tiny_model.h"
#include "tests/model/torch_archive.h"

namespace basin {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;
using testing::Not;

const fs::path kTokenizer =
    fs::path(BASIN_SOURCE_DIR) / "tests/golden/sink-effect-sink/tokenizer.model";

class ExportTest : public testing::Test {
 protected:
  /// A run of one step in `root_ / name`, as training leaves it.
  fs::path make_run(const std::string& name, SinkKind kind, at::ScalarType dtype = at::kFloat) {
    ModelConfig config = tiny_config(ModelType::kLlama, kind);
    config.vocab_size = 1024;
    const fs::path step = root() / name / "step-00000020";
    save_model(random_model(config, dtype), 16, step);
    write_tokenizer_files(
        Tokenizer::load(kTokenizer), config.sink.ids(), 16 + config.sink.tokens(), step);
    fs::create_directories(step / "trainer");
    write_file(step / "trainer/state.json", "{}");
    Manifest().write(step);
    return root() / name;
  }
  fs::path exported(const fs::path& model, HfExport options = {}) {
    if (options.out.empty()) options.out = root() / "exported";
    export_hugging_face(model, options);
    return options.out;
  }
  static std::vector<std::string> names_in(const fs::path& directory) {
    std::vector<std::string> names;
    for (const auto& entry : fs::directory_iterator(directory))
      names.push_back(entry.path().filename().string());
    std::sort(names.begin(), names.end());
    return names;
  }
  template <class Error>
  static std::string refusal(const std::function<void()>& action) {
    try {
      action();
    } catch (const Error& error) {
      return error.what();
    }
    return "nothing was refused";
  }
  fs::path root() const { return directory_.path(); }

  ScratchFolder directory_;
};

TEST_F(ExportTest, AStepLosesItsTrainingAndNothingElse) {
  const fs::path run = make_run("run", SinkKind::kToken), out = exported(run);
  EXPECT_THAT(names_in(out),
              testing::ElementsAre("README.md",
                                   "config.json",
                                   "generation_config.json",
                                   "model.safetensors",
                                   "special_tokens_map.json",
                                   "tokenizer.json",
                                   "tokenizer.model",
                                   "tokenizer_config.json"));
  for (const std::string& name : names_in(out)) {
    if (name == "README.md") continue;
    EXPECT_EQ(read_file(out / name), read_file(run / "step-00000020" / name)) << name;
  }
  EXPECT_THAT(names_in(root()), testing::ElementsAre("exported", "run"));  // nothing left aside
  HfExport again;
  again.out = root() / "again";
  exported(out, again);
  for (const std::string& name : names_in(out))
    EXPECT_EQ(read_file(out / name), read_file(again.out / name)) << name;
}

TEST_F(ExportTest, ShardsHoldTheSameWeights) {
  const fs::path run = make_run("run", SinkKind::kNone);
  HfExport options;
  options.max_shard_bytes = 20'000;
  const fs::path out = exported(run, options);
  const auto index = nlohmann::json::parse(read_file(out / "model.safetensors.index.json"));
  const auto whole = load_model(run / "step-00000020", at::kFloat, at::kCPU),
             shards = load_model(out, at::kFloat, at::kCPU);
  EXPECT_TRUE(at::equal(whole->flat(), shards->flat()));
  int64_t elements = 0;
  for (const Parameter& p : whole->parameters()) elements += p.tensor.numel();
  EXPECT_EQ(index["metadata"]["total_parameters"], elements);
  EXPECT_EQ(index["metadata"]["total_size"], elements * 4);
  // Embedding and head, 131 kB each, have files of their own; two layers of 30 kB take two each.
  EXPECT_EQ(index["weight_map"]["model.embed_tokens.weight"], "model-00001-of-00006.safetensors");
  EXPECT_EQ(index["weight_map"]["lm_head.weight"], "model-00006-of-00006.safetensors");
  for (int i = 2; i < 6; ++i)
    EXPECT_LE(fs::file_size(out / fmt::format("model-0000{}-of-00006.safetensors", i)), 22'000u);
}

TEST_F(ExportTest, ConvertsTheDtypeOnceAndSaysSo) {
  const fs::path run = make_run("run", SinkKind::kNone);
  const auto exact = load_model(run / "step-00000020", at::kFloat, at::kCPU);
  for (const auto& [name, type] : {std::pair("float16", at::kHalf), {"bfloat16", at::kBFloat16}}) {
    HfExport options;
    options.dtype = name;
    options.out = root() / name;
    exported(run, options);
    const auto config = nlohmann::json::parse(read_file(options.out / "config.json"));
    EXPECT_EQ(config["dtype"], name);
    EXPECT_EQ(config["torch_dtype"], name);
    EXPECT_TRUE(at::equal(load_model(options.out, at::kFloat, at::kCPU)->flat(),
                          exact->flat().to(type).to(at::kFloat)));
    auto lying = config;  // without being asked for another one it stays as it is
    lying["dtype"] = lying["torch_dtype"] = "float32";
    write_file(options.out / "config.json", lying.dump());
    HfExport kept;
    kept.out = root() / (std::string(name) + "-again");
    exported(options.out, kept);
    EXPECT_EQ(read_file(kept.out / "model.safetensors"),
              read_file(options.out / "model.safetensors"));
  }
}

// torch.save's files, too, are what they hold: config.json often says what a model was trained in.
TEST_F(ExportTest, WeightsOfTorchKeepTheirDtype) {
  const fs::path model = root() / "model";
  ModelConfig config = tiny_config(ModelType::kLlama, SinkKind::kNone);
  save_model(random_model(config, at::kFloat), 16, model);
  const auto exact = load_model(model, at::kFloat, at::kCPU);
  std::vector<ZipMember> members = {{"m/data.pkl", ""}};
  std::vector<std::pair<std::string, std::string>> tensors;
  const SafetensorsFile file(model / "model.safetensors");
  for (const auto& [name, entry] : file.entries()) {
    const at::Tensor t = file.read(name);
    const std::string key = std::to_string(tensors.size());
    tensors.emplace_back(name,
                         pickled::tensor(pickled::storage("FloatStorage", key, t.numel()),
                                         0,
                                         t.sizes().vec(),
                                         t.strides().vec()));
    members.push_back({"m/data/" + key, {static_cast<const char*>(t.data_ptr()), t.nbytes()}});
  }
  members.front().data = pickled::dict(tensors);
  write_file(model / "pytorch_model.bin", zip(members));
  fs::remove(model / "model.safetensors");
  auto json = nlohmann::json::parse(read_file(model / "config.json"));
  json["dtype"] = json["torch_dtype"] = "float16";
  write_file(model / "config.json", json.dump());
  const fs::path out = exported(model);
  EXPECT_EQ(nlohmann::json::parse(read_file(out / "config.json"))["dtype"], "float32");
  EXPECT_TRUE(at::equal(load_model(out, at::kFloat, at::kCPU)->flat(), exact->flat()));
}

TEST_F(ExportTest, RefusesWeightsThatTheDtypeCannotHold) {
  ModelConfig config = tiny_config(ModelType::kGptNeox, SinkKind::kNone);
  const Transformer model = random_model(config, at::kFloat);
  at::Tensor(model.parameters().front().tensor).flatten()[3] = 70000;
  save_model(model, 16, root() / "model");
  HfExport options;
  options.dtype = "float16";
  EXPECT_THAT(refusal<std::runtime_error>([&] { exported(root() / "model", options); }),
              AllOf(HasSubstr("not finite as float16"), HasSubstr("65504")));
  EXPECT_THAT(names_in(root()), testing::ElementsAre("model"));
}

TEST_F(ExportTest, ReplacesOnlyAnEarlierExportAndOnlyWhenAsked) {
  const fs::path run = make_run("run", SinkKind::kNone), out = exported(run);
  const auto refused = [&](const fs::path& target, bool force) {
    return refusal<std::invalid_argument>([&] {
      HfExport options;
      options.out = target;
      options.force = force;
      exported(run, options);
    });
  };
  EXPECT_THAT(refused(out, false), HasSubstr("--force"));
  write_file(out / "config.json", "{}");
  EXPECT_EQ(refused(out / "", true), "nothing was refused");
  EXPECT_NE(read_file(out / "config.json"), "{}");
  EXPECT_THAT(refused(run / "step-00000020", true), HasSubstr("is the model itself"));
  EXPECT_THAT(refused(run, true), HasSubstr("holds no model"));
  fs::create_directory(out / "trainer");
  EXPECT_THAT(refused(out, true), HasSubstr("holds trainer"));
  EXPECT_THAT(names_in(root()), testing::ElementsAre("exported", "run"));
  fs::remove(out / "trainer");
  write_file(out / "optimizer.pt", "somebody's work");
  EXPECT_THAT(refused(out, true), HasSubstr("holds optimizer.pt"));
  EXPECT_TRUE(fs::exists(out / "optimizer.pt"));
}

TEST_F(ExportTest, KeepsWhatAModelFromElsewhereSays) {
  const fs::path model = root() / "model";
  save_model(random_model(tiny_config(ModelType::kLlama, SinkKind::kNone), at::kFloat), 16, model);
  auto config = nlohmann::json::parse(read_file(model / "config.json"));
  config["bos_token_id"] = 7;
  config["eos_token_id"] = {8, 9};
  config["pad_token_id"] = 10;
  config.erase("max_position_embeddings");
  write_file(model / "config.json", config.dump());
  for (const char* name :
       {"generation_config.json", "tokenizer_config.json", "chat_template.jinja"})
    write_file(model / name, "{\"eos_token_id\": [8, 9]}");
  write_file(model / "README.md", "its own card");
  write_file(model / "pytorch_model.bin.bak", "not a part of it");
  const fs::path out = exported(model);
  const auto written = nlohmann::json::parse(read_file(out / "config.json"));
  for (const char* key : {"bos_token_id", "eos_token_id", "pad_token_id"})
    EXPECT_EQ(written[key], config[key]) << key;
  EXPECT_FALSE(written.contains("max_position_embeddings"));
  for (const char* name :
       {"generation_config.json", "tokenizer_config.json", "chat_template.jinja"})
    EXPECT_EQ(read_file(out / name), "{\"eos_token_id\": [8, 9]}") << name;
  EXPECT_EQ(read_file(out / "README.md"), "its own card");
  EXPECT_FALSE(fs::exists(out / "pytorch_model.bin.bak"));

  // Ours would say that others sample, where they were greedy.
  fs::remove(model / "generation_config.json");
  HfExport without;
  without.out = root() / "without";
  EXPECT_FALSE(fs::exists(exported(model, without) / "generation_config.json"));
}

TEST_F(ExportTest, SinksThatNobodyElseComputesAreRefusedElsewhere) {
  const fs::path out = exported(make_run("run", SinkKind::kLogit));
  EXPECT_EQ(nlohmann::json::parse(read_file(out / "config.json"))["model_type"], "basin_llama");
  EXPECT_THAT(read_file(out / "README.md"),
              AllOf(HasSubstr("only Basin reads"), Not(HasSubstr("AutoModelForCausalLM"))));
}

TEST_F(ExportTest, TheCardOfAHeadThatRotatesInPartNamesBasinAlone) {
  ModelConfig config = tiny_config(ModelType::kLlama, SinkKind::kNone);
  config.partial_rotary_factor = 0.5;
  save_model(random_model(config, at::kFloat), 16, root() / "model");
  const fs::path out = exported(root() / "model");
  EXPECT_EQ(nlohmann::json::parse(read_file(out / "config.json"))["model_type"], "basin_llama");
  EXPECT_THAT(read_file(out / "README.md"),
              AllOf(HasSubstr("With Basin only"), Not(HasSubstr("transformers"))));
}

TEST_F(ExportTest, TheCardSaysWhatIsKnownOfTheStepAndWhatIsNot) {
  const fs::path run = make_run("run", SinkKind::kToken);
  EXPECT_THAT(read_file(exported(run) / "README.md"),
              AllOf(HasSubstr("## Data\n\nNot known"),
                    HasSubstr("## Losses\n\nNot known"),
                    HasSubstr("## Streaming perplexity\n\nNot measured"),
                    HasSubstr("1 learned sink token (id 1 `<sink>`)")));
  write_file(
      run / "config.yaml",
      "data:\n  train:\n    - path: data/books_train\ntrain:\n  init_from: /models/pythia-70m/\n"
      "  optimizer:\n    lr: 0.003\n");
  write_file(run / "metrics.jsonl",
             R"({"step":10,"tokens":1000,"loss":3.0,"val_loss":2.5})"
             "\n"
             R"({"step":20,"tokens":1234567,"loss":2.0,"val_loss":null})"
             "\n"
             R"({"step":30,"tokens":3000,"loss":1.0,"val_loss":1.5})"
             "\n");
  fs::create_directory(run / "eval");
  const auto evaluation = [](int64_t step, const char* perplexity) {
    return fmt::format(
        R"({{"source":"data/held","cache":15,"step":{},"rows":[)"
        R"({{"mode":"dense","sinks":0,"tokens":9,"nll":1.0,"perplexity":2.71}},)"
        R"({{"mode":"stream","sinks":1,"tokens":9000,"nll":1.5,"perplexity":{}}}]}})",
        step,
        perplexity);
  };
  write_file(run / "eval/evaluate-held-C15.json", evaluation(20, "4.48"));
  write_file(run / "eval/evaluate-held-C15-step-00000030.json", evaluation(30, "5.55"));
  write_file(run / "eval/evaluate-torn-C15.json", "{");
  HfExport options;
  options.out = root() / "known";
  std::string card = read_file(exported(run, options) / "README.md");
  EXPECT_THAT(card,
              AllOf(HasSubstr("Started from the weights of `pythia-70m`, whose own training comes on "
                              "top. Trained on 1 234 567 tokens"),
                    HasSubstr("Every training sample of the run described below began with"),
                    HasSubstr("`books_train` (its size is not known"),
                    HasSubstr("| peak learning rate | 0.003 |"),
                    HasSubstr("| training, last logged | 20 | 2.0000 | 7.39 |"),
                    HasSubstr("| 10 | 2.5000 | 12.18 |"),
                    HasSubstr("| 1 | 9 000 | 1.5000 | 4.48 |")));
  EXPECT_THAT(card,
              AllOf(Not(HasSubstr("5.55")), Not(HasSubstr("2.71")), Not(HasSubstr("/known"))));
  // The step itself was not logged.
  write_file(run / "metrics.jsonl", R"({"step":16,"tokens":16000,"loss":2.0})" "\n"
                                    R"({"step":24,"tokens":24000,"loss":1.0})" "\n");
  options.force = true;
  card = read_file(exported(run, options) / "README.md");
  EXPECT_THAT(card,
              AllOf(HasSubstr("Trained on 20 000 tokens"),
                    HasSubstr("| training, last logged | 16 | 2.0000 | 7.39 |")));
}

}  // namespace
}  // namespace basin
