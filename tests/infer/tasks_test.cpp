// Zero-shot tasks: examples from .jsonl, their tokens, their log-likelihoods and what is made of
// these. lm-eval itself is asked in tests/client.
#include "configs/scratch_folder.h"
#include "infer/tasks.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <gmock/gmock.h>

#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "configs/files.h"
#include "infer/modes.h"
#include "infer/score_tasks.h"
#include "infer/tasks_output.h"
#include "tests/infer/tiny_model.h"

namespace basin {
namespace {

namespace fs = std::filesystem;
using testing::DoubleNear;
using testing::HasSubstr;

class Tasks : public testing::Test {
 protected:
  std::string write(const std::string& lines, const std::string& name = "quiz.jsonl") const {
    write_file(folder_ / name, lines);
    return (folder_ / name).string();
  }
  std::string refusal(const std::string& lines) const {
    try {
      read_task(write(lines));
    } catch (const std::runtime_error& error) {
      return error.what();
    }
    ADD_FAILURE() << "read: " << lines;
    return "";
  }

  const ScratchFolder scratch_;
  const fs::path folder_ = scratch_.path();
};

const char* const kChoices =
    R"({"context": "A b", "choices": [" c", " d e"], "answer": 1, "id": 7})";

LoadedModel golden(const std::string& name) {
  return open_model(fs::path(BASIN_SOURCE_DIR) / "tests/golden" / name, "float32");
}

TEST_F(Tasks, ReadsEveryForm) {
  const Task own = read_task(write(std::string(kChoices) + "\n\n" + kChoices + "\n"));
  EXPECT_EQ(own.name, "quiz");
  EXPECT_TRUE(own.is_choice);
  ASSERT_EQ(own.examples.size(), 2u);
  EXPECT_EQ(own.examples[0].context, "A b");
  EXPECT_THAT(own.examples[0].continuations, testing::ElementsAre(" c", " d e"));
  EXPECT_EQ(own.examples[0].answer, 1);
  EXPECT_EQ(own.examples[1].line, 3);
  EXPECT_THAT(own.examples[1].name, testing::EndsWith("quiz.jsonl:3"));

  const Task word = read_task(write(R"({"context": "A b", "target": " c"})", "a.b.jsonl"));
  EXPECT_EQ(word.name, "a.b");
  EXPECT_FALSE(word.is_choice);
  EXPECT_THAT(word.examples.at(0).continuations, testing::ElementsAre(" c"));

  const Task piqa = read_task(write(R"({"goal": "Open.", "sol1": "x", "sol2": "y", "label": 1})"));
  EXPECT_TRUE(piqa.is_choice);
  EXPECT_EQ(piqa.examples.at(0).context, "Question: Open.\nAnswer:");
  EXPECT_THAT(piqa.examples[0].continuations, testing::ElementsAre(" x", " y"));
  EXPECT_EQ(piqa.examples[0].answer, 1);

  const Task lambada = read_task(write(R"({"text": "one  two three"})"));
  EXPECT_FALSE(lambada.is_choice);
  EXPECT_EQ(lambada.examples.at(0).context, "one  two");
  EXPECT_THAT(lambada.examples[0].continuations, testing::ElementsAre(" three"));
}

TEST_F(Tasks, NamesFileLineAndKeyOfWhatIsNoExample) {
  const auto good = std::string(kChoices) + "\n";
  for (const auto& [line, reason] : std::vector<std::pair<std::string, std::string>>{
           {"[1]", "not a JSON object"},
           {"{\"text\": \"a b", "not a JSON object"},
           {"{}", "no example"},
           {R"({"context": "a"})", "no example"},
           {R"({"choices": [" a", " b"], "answer": 0})", "key \"context\": expected a text"},
           {R"({"context": "a", "choices": [" a"], "answer": 0})", "key \"choices\""},
           {R"({"context": "a", "choices": [" a", 3], "answer": 0})", "key \"choices\""},
           {R"({"context": "a", "choices": " a", "answer": 0})", "key \"choices\""},
           {R"({"context": "a", "choices": [" a", " b"]})", "key \"answer\""},
           {R"({"context": "a", "choices": [" a", " b"], "answer": 2})", "2 is none of the 2"},
           {R"({"goal": "a", "sol1": "b", "sol2": "c", "label": -1})", "has no label"},
           {R"({"goal": "a", "sol1": "b", "label": 0})", "key \"sol2\""},
           {R"({"context": "a", "target": 3})", "key \"target\""},
           {R"({"text": "word"})", "a single word"},
           {R"({"text": "two words"})", "keep each kind in a file of its own"}}) {
    const std::string message = refusal(good + line + "\n");
    EXPECT_THAT(message, HasSubstr("quiz.jsonl:2: ")) << line;
    EXPECT_THAT(message, HasSubstr(reason)) << line;
  }
  EXPECT_THAT(refusal("\n"), HasSubstr("no example in it"));
  EXPECT_THROW(read_task((folder_ / "absent.jsonl").string()), std::runtime_error);
  write("text", "plain.txt");
  EXPECT_THROW(read_task((folder_ / "plain.txt").string()), std::runtime_error);
}

TEST_F(Tasks, WhiteSpaceIsPythons) {
  EXPECT_EQ(trailing_space_bytes("a b"), 0u);
  EXPECT_EQ(trailing_space_bytes("a \t\n"), 3u);
  EXPECT_EQ(trailing_space_bytes("a\xC2\xA0 \xE3\x80\x80"), 6u);
  EXPECT_EQ(trailing_space_bytes("\xE2\x80\x8B"), 0u);  // zero width space is none
  EXPECT_EQ(trailing_space_bytes("  "), 2u);
}

TEST_F(Tasks, TokensSplitWhereTheContextEndsAndItsSpacesMove) {
  const LoadedModel model = golden("sink-effect-sink");
  const Tokenizer& tokenizer = model.require_tokenizer();
  const auto ids = [&](const std::string& text) { return tokenizer.encode(text); };
  const TokenPair plain = encode_pair(model, "The people of", " the nation", "x");
  EXPECT_EQ(plain.context, ids("The people of"));
  std::vector<int32_t> whole = plain.context;
  whole.insert(whole.end(), plain.continuation.begin(), plain.continuation.end());
  EXPECT_EQ(whole, ids("The people of the nation"));

  const TokenPair moved = encode_pair(model, "The people of ", "the nation", "x");
  EXPECT_EQ(moved.context, plain.context);
  EXPECT_EQ(moved.continuation, plain.continuation);

  // A word that goes on inside a piece: what the context has for its own stays, and counts.
  const TokenPair inside = encode_pair(model, "The peop", "le of the nation", "x");
  EXPECT_EQ(inside.context, ids("The peop"));
  std::vector<int32_t> rest = ids("The people of the nation");
  ASSERT_NE(std::vector<int32_t>(rest.begin(), rest.begin() + std::ssize(inside.context)),
            inside.context);
  rest.erase(rest.begin(), rest.begin() + std::ssize(inside.context));
  EXPECT_EQ(inside.continuation, rest);
  EXPECT_THROW(encode_pair(model, "The people", "", "x"), std::runtime_error);
  std::string longer;
  for (int i = 0; i < 130; ++i) longer += " of";
  try {
    encode_pair(model, "The people", longer, "quiz.jsonl:7");
    ADD_FAILURE() << "taken";
  } catch (const std::runtime_error& error) {
    EXPECT_THAT(error.what(),
                HasSubstr("quiz.jsonl:7: a choice or target of 130 tokens cannot be scored as a "
                          "whole: the model was trained on 128"));
  }
}

TEST_F(Tasks, AnEmptyContextIsTheSinkOrTheEndOfATextBefore) {
  EXPECT_TRUE(encode_pair(golden("sink-effect-sink"), "", "The", "x").context.empty());
  EXPECT_EQ(encode_pair(golden("sink-effect-none"), "", "The", "x").context,
            std::vector<int32_t>{kEosId});
  EXPECT_EQ(encode_pair(golden("sink-effect-none"), " ", "The", "x").context,
            std::vector<int32_t>{kEosId});
}

TEST_F(Tasks, AModelWithoutASinkReadsTheBosThatItsTokenizerPrepends) {
  fs::copy(fs::path(BASIN_SOURCE_DIR) / "tests/golden/sink-effect-none", folder_ / "bos");
  const fs::path settings = folder_ / "bos" / "tokenizer_config.json";
  auto json = nlohmann::json::parse(read_file(settings));
  json["add_bos_token"] = true;
  write_file(settings, json.dump());
  const LoadedModel model = open_model(folder_ / "bos", "float32");
  const TokenPair with = encode_pair(model, "The people", " of", "x"),
                  without = encode_pair(golden("sink-effect-none"), "The people", " of", "x");
  ASSERT_EQ(with.context.size(), without.context.size() + 1);
  EXPECT_EQ(with.context.front(), 1);
  EXPECT_EQ(with.continuation, without.continuation);
  EXPECT_EQ(encode_pair(model, "", "The", "x").context, std::vector<int32_t>{1});
}

// Against one dense pass per pair, the path of `evaluate --mode dense`.
class ScoredPairs : public testing::TestWithParam<SinkKind> {};

TEST_P(ScoredPairs, AreSumsOfWhatEvaluateScores) {
  const ModelConfig config = tiny_config(ModelType::kLlama, GetParam(), 2);
  const Transformer model = random_model(config, at::kFloat, 2.5);
  std::vector<TokenPair> pairs;
  for (int64_t i = 0; i < 70; ++i) {
    const at::Tensor tokens = random_tokens(config, 3 + i * 7 % 41, 100 + static_cast<uint64_t>(i));
    TokenPair pair;
    const int64_t split = 1 + i * 5 % (tokens.numel() - 1);
    for (int64_t t = 0; t < tokens.numel(); ++t)
      (t < split ? pair.context : pair.continuation)
          .push_back(static_cast<int32_t>(tokens[t].item<int64_t>()));
    pairs.push_back(pair);
  }
  const std::vector<ContinuationScore> scores = score_continuations(model, pairs, 0);
  ASSERT_EQ(scores.size(), pairs.size());
  for (size_t i = 0; i < pairs.size(); ++i) {
    std::vector<int64_t> all(pairs[i].context.begin(), pairs[i].context.end());
    all.insert(all.end(), pairs[i].continuation.begin(), pairs[i].continuation.end());
    const auto n = std::ssize(pairs[i].continuation);
    const at::Tensor nll = score_dense(model, at::tensor(all, at::kLong));
    EXPECT_NEAR(
        scores[i].log_likelihood, -nll.narrow(0, nll.numel() - n, n).sum().item<double>(), 2e-3)
        << i;
    EXPECT_EQ(scores[i].tokens, n);
    EXPECT_FALSE(scores[i].truncated);
  }
}

TEST_P(ScoredPairs, GreedyIsWhatTheModelWouldWrite) {
  const at::NoGradGuard no_grad;
  const ModelConfig config = tiny_config(ModelType::kLlama, GetParam());
  const Transformer model = random_model(config, at::kFloat, 2.5);
  at::Tensor written = random_tokens(config, 6).unsqueeze(0);
  for (int i = 0; i < 4; ++i) {
    const at::Tensor input = model.with_sinks(written);
    const at::Tensor next =
        model.decode(input, model.causal_attention(input.size(1))).argmax(1, true);
    written = at::cat({written, next}, 1);
  }
  const int64_t* id = written.const_data_ptr<int64_t>();
  TokenPair greedy{{id, id + 6}, {id + 6, id + 10}}, other = greedy;
  other.continuation[2] = (other.continuation[2] + 1) % 61;
  const auto scores = score_continuations(model, std::vector{greedy, other}, 0);
  EXPECT_TRUE(scores[0].greedy);
  EXPECT_FALSE(scores[1].greedy);
}

TEST_P(ScoredPairs, LongContextsKeepTheirNewestTokensBehindTheSinks) {
  const ModelConfig config = tiny_config(ModelType::kLlama, GetParam());
  const Transformer model = random_model(config, at::kFloat, 2.5);
  const at::Tensor tokens = random_tokens(config, 30);
  const int64_t* id = tokens.const_data_ptr<int64_t>();
  const std::vector<TokenPair> pairs = {{{id, id + 26}, {id + 26, id + 30}},
                                        {{id + 19, id + 26}, {id + 26, id + 30}}};
  const auto scores = score_continuations(model, pairs, 10);  // 10 are read, 11 remain
  EXPECT_TRUE(scores[0].truncated);
  EXPECT_FALSE(scores[1].truncated);
  EXPECT_NEAR(scores[0].log_likelihood, scores[1].log_likelihood, 1e-4);
  EXPECT_THROW(score_continuations(model, pairs, 3), std::runtime_error);
}

INSTANTIATE_TEST_SUITE_P(Sinks,
                         ScoredPairs,
                         testing::Values(SinkKind::kNone, SinkKind::kToken),
                         [](const auto& parameter) {
                           return std::string(enum_name(parameter.param));
                         });

TEST_F(Tasks, MeansAndTheirErrors) {
  const Metric mean = mean_metric("acc", std::vector<double>{1, 0, 0, 1, 1});
  EXPECT_DOUBLE_EQ(mean.value, 0.6);
  EXPECT_NEAR(mean.standard_error.value(), std::sqrt(0.3 / 5), 1e-12);
  EXPECT_FALSE(mean_metric("acc", std::vector<double>{1}).standard_error);
}

TEST_F(Tasks, ChoicesAreJudgedByTheWholeAndByLength) {
  const LoadedModel model = golden("sink-effect-none");
  const Task task = read_task(write(
      "{\"context\": \"The people of the United\", \"choices\": [\" States\", \" qz\\u00e9\"], "
      "\"answer\": 0}\n"
      "{\"context\": \"The\", \"choices\": [\" people of the United States and the nations of the "
      "world have peace\", \" x\"], "
      "\"answer\": 1}\n"));
  const TaskResult result = score_task(model, task);
  ASSERT_EQ(result.examples.size(), 2u);
  for (size_t e = 0; e < 2; ++e) {
    std::vector<double> whole, per_character, per_byte;
    for (size_t i = 0; i < 2; ++i) {
      const std::string choice = task.examples[e].continuations[i].substr(1);
      const double ll = result.examples[e].scores[i].log_likelihood;
      const bool accented = choice == "qz\xC3\xA9";
      whole.push_back(ll);
      per_byte.push_back(ll / static_cast<double>(choice.size()));
      per_character.push_back(ll / static_cast<double>(choice.size() - accented));
    }
    const auto best = [](const std::vector<double>& of) { return of[1] > of[0] ? 1 : 0; };
    EXPECT_EQ(result.examples[e].likeliest, best(whole));
    EXPECT_EQ(result.examples[e].likeliest_norm, best(per_character));
    EXPECT_EQ(result.examples[e].likeliest_bytes, best(per_byte));
  }
  EXPECT_EQ(result.examples[1].likeliest, 1);       // the shorter one is likelier as a whole,
  EXPECT_EQ(result.examples[1].likeliest_norm, 0);  // and less so per character
  EXPECT_EQ(result.metrics.at(0).name, "acc");
  EXPECT_DOUBLE_EQ(result.metrics[0].value, 1);
  EXPECT_EQ(result.metrics.at(1).name, "acc_norm");
  EXPECT_DOUBLE_EQ(result.metrics[1].value, 0.5);
}

TEST_F(Tasks, WritesWhatItFound) {
  const LoadedModel model = golden("sink-effect-sink");
  const Task words = read_task(write(R"({"text": "The people of the United States"})"
                                     "\n"
                                     R"({"text": "We hold these truths"})"
                                     "\n"));
  const std::vector<ScoredTask> scored = {{words, score_task(model, words)}};
  const TasksHeader header{"DIR", model.model->config().sink, "float32"};
  const auto json = nlohmann::json::parse(json_text(header, scored));
  const auto& task = json.at("tasks").at(0);
  EXPECT_EQ(task.at("kind"), "last_word");
  EXPECT_EQ(task.at("examples"), 2);
  const double mean = (scored[0].result.examples[0].scores[0].log_likelihood +
                       scored[0].result.examples[1].scores[0].log_likelihood) /
                      2;
  EXPECT_NEAR(task.at("perplexity").get<double>(), std::exp(-mean), 1e-9);
  EXPECT_GT(task.at("perplexity_stderr"), 0);
  EXPECT_EQ(json.at("sink").at("kind"), "token");
  EXPECT_THAT(to_table(header, scored), HasSubstr("quiz"));

  write_per_example(folder_ / "each.jsonl", scored);
  const std::string each = read_file(folder_ / "each.jsonl");
  EXPECT_EQ(std::count(each.begin(), each.end(), '\n'), 2);
  const auto first = nlohmann::json::parse(each.substr(0, each.find('\n')));
  EXPECT_EQ(first.at("line"), 1);
  EXPECT_EQ(first.at("log_likelihood"), scored[0].result.examples[0].scores[0].log_likelihood);

  const auto paths = save_tasks(folder_, "step-00000010", header, scored);
  EXPECT_EQ(paths.at(0).filename(), "tasks-quiz-step-00000010.json");
  EXPECT_EQ(nlohmann::json::parse(read_file(paths[0])), json);
  const TasksHeader rounded{"DIR", model.model->config().sink, "bfloat16"};
  EXPECT_EQ(save_tasks(folder_, "", rounded, scored).at(0).filename(), "tasks-quiz-bfloat16.json");
}

}  // namespace
}  // namespace basin
