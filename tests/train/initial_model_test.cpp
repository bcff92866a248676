// train.init_from: a run starts from a trained model, and may give it a sink.
#include "train/initial_model.h"

#include <ATen/ATen.h>
#include <fmt/format.h>
#include <gmock/gmock.h>

#include <nlohmann/json.hpp>

#include "configs/yaml_config.h"
#include "data/prepare.h"
#include "infer/model_directory.h"
#include "infer/modes.h"
#include "model/checkpoint.h"
#include "tests/data/data_fixture.h"
#include "tests/support/logged.h"
#include "tests/train/train_fixture.h"
#include "train/comm.h"
#include "train/trainer.h"

namespace basin {
namespace {

namespace fs = std::filesystem;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

const fs::path kGolden = BASIN_SOURCE_DIR "/tests/golden/sink-effect-none";

class InitFromTest : public TrainTest {
 protected:
  void SetUp() override {
    TrainTest::SetUp();
    RunConfig config = tiny_config("first");
    config.train.steps = 20;
    config.model.sink.kind = SinkKind::kNone;
    Trainer(config, *comm_, at::kCPU).run();
  }
  /// Runs of the first one's data and of a model section of their own.
  RunConfig continued(const std::string& name,
                      const std::string& model,
                      const std::string& from = "first",
                      int64_t steps = 20) const {
    const fs::path file = root_ / (name + ".yaml");
    write_file(file,
               fmt::format("run: {{dir: {0}/{1}}}\n"
                           "model: {{{2}}}\n"
                           "data: {{train: {0}/train, sequence_length: 16}}\n"
                           "train: {{init_from: {0}/{3}, steps: {4}, global_batch: 8, device: cpu, "
                           "log_every: 1, optimizer: {{lr: 0.003}}, checkpoint: {{every: 10}}}}\n",
                           root_.string(),
                           name,
                           model,
                           from,
                           steps));
    RunConfig config = read_run_config(file, {});
    match_model_to_data(config);
    return config;
  }
  std::string refusal(const std::string& model) const {
    try {
      continued("refused", model);
    } catch (const std::invalid_argument& error) {
      return error.what();
    }
    ADD_FAILURE() << "taken: " << model;
    return "";
  }
  /// What evaluate finds for the first global batch.
  static double evaluated(const Transformer& model, const RunConfig& config) {
    DataLoader loader(config.data, {config.train.global_batch, 0, 1, 1});
    const at::Tensor batch = loader.batch(0);
    double sum = 0;
    for (int64_t i = 0; i < batch.size(0); ++i)
      sum += score_dense(model, batch[i]).mean().item<double>();
    return sum / static_cast<double>(batch.size(0));
  }

  std::unique_ptr<Comm> comm_ = make_single_comm();
};

TEST_F(InitFromTest, TheModelSectionFollowsTheModel) {
  const RunConfig plain = continued("plain", "");
  EXPECT_THAT(differences(plain.model, read_model_config(root_ / "first" / "final")), IsEmpty());
  EXPECT_EQ(plain.model.sink.kind, SinkKind::kNone);
  Trainer trainer(plain, *comm_, at::kCPU);
  const auto loaded = load_model(root_ / "first" / "final", at::kFloat, at::kCPU);
  EXPECT_TRUE(at::equal(trainer.model().flat(), loaded->flat()));
  EXPECT_NEAR(trainer.train_step().loss, evaluated(*loaded, plain), 1e-5);
}

TEST_F(InitFromTest, ASinkIsANewRowAndTheFirstLossIsWhatEvaluateFindsWithIt) {
  const RunConfig config = continued("sink", "sink: {kind: token}", "first", 60);
  EXPECT_EQ(config.model.vocab_size, kTestVocabulary + 1);
  EXPECT_THAT(config.model.sink.ids(), ElementsAre(kTestVocabulary));

  const auto vanilla = load_model(root_ / "first" / "final", at::kFloat, at::kCPU);
  Transformer with_sink(config.model, at::kFloat, at::kCPU);
  for (size_t i = 0; i < vanilla->parameters().size(); ++i) {
    const Parameter &from = vanilla->parameters()[i], to = with_sink.parameters()[i];
    ASSERT_EQ(from.name, to.name);
    at::Tensor(to.tensor).narrow(0, 0, from.tensor.size(0)).copy_(from.tensor);
    if (to.tensor.size(0) > from.tensor.size(0))
      at::Tensor(to.tensor)[kTestVocabulary].copy_(from.tensor.mean(0));
  }
  Trainer trainer(config, *comm_, at::kCPU);
  EXPECT_TRUE(at::allclose(trainer.model().flat(), with_sink.flat(), 1e-6, 1e-7));
  const double first = trainer.train_step().loss;
  EXPECT_NEAR(first, evaluated(with_sink, config), 1e-5);
  EXPECT_GT(std::abs(first - evaluated(*vanilla, config)), 1e-5);  // the sink is read
  ASSERT_EQ(trainer.run(), Trainer::Outcome::kFinished);
  EXPECT_LT(evaluated(trainer.model(), config), first - 0.1);

  const LoadedModel saved = open_model(root_ / "sink", "float32");
  EXPECT_THAT(saved.model->config().sink.ids(), ElementsAre(kTestVocabulary));
  EXPECT_TRUE(at::equal(saved.model->flat(), trainer.model().flat()));
}

TEST_F(InitFromTest, SeveralSinksTakeRowsOneAfterTheOther) {
  const RunConfig config = continued("sinks", "sink: {kind: token, count: 3}");
  EXPECT_EQ(config.model.vocab_size, kTestVocabulary + 3);
  EXPECT_THAT(config.model.sink.ids(),
              ElementsAre(kTestVocabulary, kTestVocabulary + 1, kTestVocabulary + 2));
  const RunConfig named = continued("named", "sink: {kind: token, token_ids: [2]}");
  EXPECT_EQ(named.model.vocab_size, kTestVocabulary);
  EXPECT_THAT(named.model.sink.ids(), ElementsAre(2));
  EXPECT_THAT(refusal("sink: {kind: token, token_ids: [70]}"), HasSubstr("vocabulary of 64"));
  EXPECT_THAT(refusal("vocab_size: 71, sink: {kind: token, token_ids: [70]}"),
              HasSubstr("70 is no row of the 64"));
}

TEST_F(InitFromTest, KeysThatContradictTheModelAreNamedAllAtOnce) {
  const std::string message =
      refusal("hidden_size: 64, num_hidden_layers: 2, num_attention_heads: 4, sink: {kind: zero}");
  EXPECT_THAT(message, HasSubstr("model.hidden_size: 64, but that model has 32"));
  EXPECT_THAT(message, HasSubstr("model.num_attention_heads: 4, but that model has 2"));
  EXPECT_THAT(message, HasSubstr("model.sink.kind: zero, but that model has none"));
  EXPECT_THAT(message, testing::Not(HasSubstr("num_hidden_layers")));
  EXPECT_THAT(refusal("vocab_size: 128"),
              HasSubstr("model.vocab_size: 128, but that model has 64"));
  EXPECT_NO_THROW(continued("same", "hidden_size: 32, vocab_size: 64, num_key_value_heads: 2"));
}

TEST_F(InitFromTest, ADirectoryWithoutAModelIsNamed) {
  for (const char* from : {"absent", "."}) {
    try {
      continued("x", "", from);
      ADD_FAILURE() << from;
    } catch (const std::runtime_error& error) {
      EXPECT_THAT(error.what(), HasSubstr("train.init_from: "));
      EXPECT_THAT(error.what(), HasSubstr(root_.string()));
    }
  }
}

TEST_F(InitFromTest, AResumeDoesNotReadTheDirectoryAgain) {
  // The vocabulary of the model as it was: the sink's row comes on top at the first start and at each one after.
  const std::string model = fmt::format("vocab_size: {}, head_dim: 0, sink: {{kind: token}}", kTestVocabulary);
  for (const std::string name : {"whole", "broken"}) {
    RunConfig config = continued(name, model);
    if (name == "broken") {
      RunConfig session = config;
      session.train.stop_after = "0.001s";
      ASSERT_EQ(Trainer(session, *comm_, at::kCPU).run(), Trainer::Outcome::kStopped);
      fs::rename(root_ / "first", root_ / "gone");
      config = continued(name, model);
    }
    Trainer(config, *comm_, at::kCPU).run();
  }
  const auto read = [this](const char* name) {
    return load_model(root_ / name / "final", at::kFloat, at::kCPU)->flat();
  };
  EXPECT_TRUE(at::equal(read("whole"), read("broken")));
}

TEST_F(InitFromTest, ATokenizerThatAnotherRunLeftIsNotThisOnes) {
  const auto leave = [this](const char* run) {
    const fs::path left = root_ / run / "initial-tokenizer";
    fs::create_directories(left);
    for (const char* name : {"tokenizer.model", "tokenizer_config.json"})
      fs::copy_file(kGolden / name, left / name);
    write_file(left / "generation_config.json", R"({"eos_token_id": 9})");
    return left;
  };
  const auto expect_none = [this](const char* run) {
    EXPECT_FALSE(fs::exists(root_ / run / "final" / "tokenizer.model")) << run;
    EXPECT_EQ(read_file(root_ / run / "final" / "generation_config.json").find('9'),
              std::string::npos);
  };
  const fs::path of_another = leave("anew"), of_none = leave("from");
  RunConfig config = tiny_config("anew");
  config.train.schedule = {.kind = ScheduleKind::kConstant};
  config.train.steps = 3;
  Trainer(config, *comm_, at::kCPU).run();
  expect_none("anew");
  EXPECT_FALSE(fs::exists(of_another));
  leave("anew");
  config.train.steps = 5;  // a resume
  Trainer(config, *comm_, at::kCPU).run();
  expect_none("anew");
  Trainer(continued("from", "sink: {kind: token}"), *comm_, at::kCPU).run();
  expect_none("from");
  EXPECT_FALSE(fs::exists(of_none)) << "the first run has no tokenizer";
}

TEST_F(InitFromTest, RunsInBf16KeepWhatTheModelHad) {
  RunConfig config = continued("bf16", "sink: {kind: token}");
  config.train.precision = Precision::kBf16;
  Trainer trainer(config, *comm_, at::kCPU);
  const auto vanilla = load_model(root_ / "first" / "final", at::kFloat, at::kCPU);
  const at::Tensor master = trainer.optimizer().parts().at(0).master;
  const Parameter& from = vanilla->parameters()[0];
  EXPECT_TRUE(at::equal(master.narrow(0, 0, from.tensor.numel()), from.tensor.flatten()));
}

/// With the tokenizer of the trained pair, and text that is prepared with it.
class InitFromGoldenTest : public TrainTest {
 protected:
  void prepare_with(const fs::path& tokenizer) {
    write_file(root_ / "text.txt", invented_text(3, 4000));
    PrepareOptions options;
    options.inputs = {(root_ / "text.txt").string()};
    options.prefix = root_ / "corpus";
    options.tokenizer = tokenizer;
    options.vocab_size = tokenizer.empty() ? 384 : 0;
    prepare(options);
  }
  RunConfig continued(const std::string& sink,
                      const std::string& more = "",
                      const fs::path& from = kGolden) {
    const fs::path file = root_ / "golden.yaml";
    write_file(file,
               fmt::format("run: {{dir: {0}/run}}\nmodel: {{sink: {1}}}\n"
                           "data: {{train: {0}/corpus_train, sequence_length: 32}}\n"
                           "train: {{init_from: {2}, steps: 3, global_batch: 2, device: cpu{3}}}\n",
                           root_.string(),
                           sink,
                           from.string(),
                           more));
    RunConfig config = read_run_config(file, {});
    match_model_to_data(config);
    return config;
  }
  nlohmann::json saved(const char* file) const {
    return nlohmann::json::parse(read_file(root_ / "run" / "final" / file));
  }
  std::unique_ptr<Comm> comm_ = make_single_comm();
};

TEST_F(InitFromGoldenTest, TheUnusedBosIsTheSinkAndTheTokenizerGoesAlong) {
  prepare_with(kGolden);
  const RunConfig config = continued("{kind: token}");
  EXPECT_EQ(config.model.vocab_size, read_model_config(kGolden).vocab_size);
  EXPECT_THAT(config.model.sink.token_ids, IsEmpty());  // row 1, as in our own runs
  Trainer(config, *comm_, at::kCPU).run();
  const fs::path step = root_ / "run" / "final";
  EXPECT_EQ(read_file(step / "tokenizer.model"), read_file(kGolden / "tokenizer.model"));
  EXPECT_EQ(
      saved("tokenizer.json").at("post_processor").at("single").at(0).at("SpecialToken").at("id"),
      "<sink>");
  EXPECT_EQ(saved("tokenizer_config.json").at("add_bos_token"), true);
  EXPECT_EQ(saved("config.json").at("bos_token_id"), 1);
  EXPECT_EQ(saved("generation_config.json").at("eos_token_id"), 2);
}

TEST_F(InitFromGoldenTest, WhatEndedTextsStillEndsThem) {
  const fs::path chat = root_ / "chat";
  fs::copy(kGolden, chat);
  write_file(chat / "generation_config.json", R"({"eos_token_id": [9, 2]})");
  prepare_with(chat);
  Trainer(continued("{kind: token}", "", chat), *comm_, at::kCPU).run();
  EXPECT_EQ(saved("generation_config.json").at("eos_token_id"), nlohmann::json({2, 9}));
}

TEST_F(InitFromGoldenTest, WhatIsNotReadOfATokenizerIsSaidOnce) {
  const fs::path old = root_ / "old";
  fs::copy(kGolden, old);
  fs::remove(old / "tokenizer.json");
  const int64_t pieces = Tokenizer::load(old / "tokenizer.model").vocab_size();
  auto settings = nlohmann::json::parse(read_file(old / "tokenizer_config.json"));
  settings["added_tokens_decoder"] = {{std::to_string(pieces), {{"content", "<pad>"}}}};
  write_file(old / "tokenizer_config.json", settings.dump());
  prepare_with(old);
  const std::string log = logged_by(
      [&] { Trainer(continued("{kind: token}", "", old), *comm_, at::kCPU).run(); });
  const size_t first = log.find("1 added tokens, the first \"<pad>\"");
  EXPECT_NE(first, std::string::npos) << log;
  EXPECT_EQ(log.find("added tokens", first + 10), std::string::npos) << log;
}

TEST_F(InitFromGoldenTest, SinksOfOurTokenizersTakeTheirReservedRows) {
  prepare_with(kGolden);
  EXPECT_THAT(continued("{kind: token, count: 4}").model.sink.ids(), ElementsAre(1, 3, 4, 5));
  const auto rows = choose_sink_rows(kGolden, 1024, 6);
  ASSERT_EQ(rows.size(), 6u);
  const int64_t pieces = Tokenizer::load(kGolden / "tokenizer.model").vocab_size();
  EXPECT_EQ(rows[0].kind, SinkRow::Kind::kBos);
  EXPECT_EQ(rows[3].kind, SinkRow::Kind::kReserved);
  EXPECT_EQ(rows[4].id, pieces);
  EXPECT_EQ(rows[4].kind, pieces < 1024 ? SinkRow::Kind::kPadding : SinkRow::Kind::kNew);
}

TEST_F(InitFromGoldenTest, WithoutASinkTheFilesAreTheSame) {
  prepare_with(kGolden);
  Trainer(continued("{}"), *comm_, at::kCPU).run();
  for (const char* file : {"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"})
    EXPECT_EQ(read_file(root_ / "run" / "final" / file), read_file(kGolden / file)) << file;
}

/// Letters are its first pieces, and what ends a text is known from tokenizer_config.json only.
void write_tokenizer_of_letters(const fs::path& directory) {
  nlohmann::json vocabulary = {{"Ġ", 26}, {"Ċ", 27}};
  for (int i = 0; i < 26; ++i) vocabulary[std::string(1, static_cast<char>('a' + i))] = i;
  const nlohmann::json end = {
      {"id", 28}, {"content", "<over>"}, {"special", true}, {"normalized", false}};
  fs::create_directories(directory);
  write_file(directory / "tokenizer.json",
             nlohmann::json{{"added_tokens", {end}},
                            {"pre_tokenizer", {{"type", "ByteLevel"}, {"add_prefix_space", false}}},
                            {"decoder", {{"type", "ByteLevel"}}},
                            {"model",
                             {{"type", "BPE"},
                              {"vocab", vocabulary},
                              {"merges", nlohmann::json::array()}}}}
                 .dump());
  write_file(directory / "tokenizer_config.json", R"({"eos_token": "<over>"})");
}

TEST_F(InitFromGoldenTest, AForeignTokenizersPiecesAreNoSinksUnlessTheTextDoesWithoutThem) {
  write_tokenizer_of_letters(root_ / "letters");
  prepare_with(root_ / "letters");
  const fs::path file = root_ / "fresh.yaml";
  const auto begin = [&](const std::string& sink) {
    write_file(file,
               fmt::format("run: {{dir: {0}/run}}\n"
                           "model: {{hidden_size: 32, num_hidden_layers: 1, num_attention_heads: "
                           "2, intermediate_size: 64, sink: {1}}}\n"
                           "data: {{train: {0}/corpus_train, sequence_length: 32}}\n"
                           "train: {{steps: 1, global_batch: 2, device: cpu}}\n",
                           root_.string(),
                           sink));
    RunConfig config = read_run_config(file, {});
    match_model_to_data(config);
    return config;
  };
  EXPECT_THAT(message_of<std::invalid_argument>([&] { begin("{kind: token}"); }),
              HasSubstr("the sink token id 1 occurs in"));
  Trainer(begin("{kind: none}"), *comm_, at::kCPU).run();
  EXPECT_EQ(saved("config.json").at("eos_token_id"), 28);
  EXPECT_EQ(saved("tokenizer_config.json").at("eos_token"), "<over>");
}

TEST_F(InitFromGoldenTest, DataOfAnotherTokenizerIsRefused) {
  prepare_with({});
  try {
    continued("{kind: token}");
    ADD_FAILURE();
  } catch (const std::invalid_argument& error) {
    EXPECT_THAT(error.what(), HasSubstr("--tokenizer " + kGolden.string()));
  }
}

}  // namespace
}  // namespace basin
