// What an evaluation leaves behind: its table, its JSON, its files.
#include "infer/evaluate_output.h"

#include <cstring>
#include <nlohmann/json.hpp>

#include "configs/files.h"
#include "tests/infer/evaluate_fixture.h"

namespace basin {
namespace {

using testing::HasSubstr;
using testing::Not;

TEST_F(Evaluate, SavedResultsAreNotReplacedByOtherOrFewer) {
  const LoadedModel model = tiny_model(SinkKind::kToken);
  const auto docs = documents(model);
  EvaluateConfig config = config_of({Mode::kStream, Mode::kDense}, {0, 4});
  EvaluationHeader header{
      "runs/x", model.model->config().sink, 16, "float32", "data/y_heldout", "y_heldout"};
  const auto refusal = [&](const std::vector<TokenDocument>& now,
                           int64_t max_tokens) -> std::string {
    try {
      refuse_to_replace(folder_, header, config, now, max_tokens);
    } catch (const std::invalid_argument& error) {
      return error.what();
    }
    return "";
  };
  EXPECT_EQ(refusal(docs, 0), "") << "nothing there yet";
  save_evaluation(folder_, header, evaluate(model, docs, config));
  EXPECT_EQ(refusal(docs, 0), "") << "the same again";
  const std::vector<TokenDocument> fewer = {docs[0]};
  EXPECT_EQ(refusal(fewer, 0), "") << "the text has changed";
  EXPECT_THAT(refusal(fewer, 50),
              HasSubstr("holds results of 151 tokens, not 90: move it away first"));
  header.source = "elsewhere/y_heldout";
  EXPECT_EQ(refusal(docs, 0), "") << "the same text, spelled in another way";
  EXPECT_THAT(refusal(fewer, 0), HasSubstr("holds results of data/y_heldout"));
  header.source = "data/y_heldout";
  config.sinks = {0, 1};
  EXPECT_THAT(refusal(docs, 0), HasSubstr("holds a row with 4 initial tokens kept"));
  config = config_of({Mode::kStream}, {0, 1, 4});
  EXPECT_THAT(refusal(docs, 0), HasSubstr("holds a row of mode dense"));
  header.dtype = "bfloat16";
  EXPECT_EQ(saved_path(folder_, header).filename(), "evaluate-y_heldout-C16-bfloat16.json");
  EXPECT_EQ(refusal(docs, 0), "");
}

TEST_F(Evaluate, TheTableExplainsADifferenceOnlyWhereThereIsOne) {
  const LoadedModel model = tiny_model(SinkKind::kToken);
  const EvaluationHeader header{"x", model.model->config().sink, 16, "float32", "y", "y"};
  const auto table = [&](std::vector<int64_t> sinks) {
    return to_table(
        header, evaluate(model, documents(model), config_of({Mode::kStream}, std::move(sinks))));
  };
  EXPECT_THAT(table({1, 4}), HasSubstr("delta is nll minus that of stream with 4 kept"));
  EXPECT_THAT(table({0, 1}), Not(HasSubstr("delta is nll")));
}

TEST_F(Evaluate, WritesJsonAndNpy) {
  const LoadedModel model = tiny_model(SinkKind::kToken);
  const Evaluation e =
      evaluate(model, documents(model), config_of({Mode::kStream, Mode::kDense}, {0, 4}));
  const EvaluationHeader header{
      "runs/x", model.model->config().sink, 16, "float32", "data/y_heldout", "y_heldout"};
  const fs::path path = save_evaluation(folder_ / "eval", header, e);
  EXPECT_EQ(path, folder_ / "eval" / "evaluate-y_heldout-C16.json");
  const auto json = nlohmann::json::parse(read_file(path));
  EXPECT_EQ(json["sink"], (nlohmann::json{{"kind", "token"}, {"count", 1}}));
  EXPECT_EQ(json["cache"], 16);
  EXPECT_EQ(json["documents"][0],
            (nlohmann::json{{"name", "a"}, {"tokens", 90}, {"scored", 89}, {"bytes", nullptr}}));
  EXPECT_EQ(json["rows"].size(), 3u);
  EXPECT_EQ(json["rows"][0].size(), 10u);
  EXPECT_EQ(json["rows"][0]["mode"], "stream");
  EXPECT_EQ(json["rows"][0]["recent"], 16);
  EXPECT_TRUE(json["rows"][2]["recent"].is_null());
  EXPECT_NEAR(json["rows"][0]["nll"].get<double>(), e.rows[0].nll, 1e-12);
  EXPECT_FALSE(json["rows"][0]["nll_delta"].is_null());

  const std::string npy = read_file(folder_ / "eval" / "evaluate-y_heldout-C16.npy");
  const size_t data = npy.size() - 3 * 148 * sizeof(float);
  EXPECT_EQ(data % 64, 0u);
  EXPECT_EQ(npy.substr(0, 8), std::string("\x93NUMPY\x01\x00", 8));
  EXPECT_EQ(static_cast<size_t>(static_cast<unsigned char>(npy[8])) + 10, data);
  EXPECT_NE(npy.find("'shape': (3, 148), "), std::string::npos);
  float value = 0;
  std::memcpy(&value, npy.data() + data + 148 * sizeof(float), sizeof value);
  EXPECT_EQ(value, e.rows[1].token_nll[0]);

  EvaluationHeader of_a_step = header;
  of_a_step.step = named_step("runs/x/step-00000500/");
  EXPECT_EQ(save_evaluation(folder_ / "eval", of_a_step, e).filename(),
            "evaluate-y_heldout-C16-step-00000500.json");
  EXPECT_EQ(eval_files(folder_, "evaluate-"),
            (std::vector{folder_ / "eval/evaluate-y_heldout-C16-step-00000500.json",
                         folder_ / "eval/evaluate-y_heldout-C16.json"}));
  EXPECT_TRUE(eval_files(folder_, "tasks-").empty());
  EXPECT_TRUE(eval_files(folder_ / "none", "").empty());
  EXPECT_EQ(named_step("runs/x"), "");
  EXPECT_EQ(named_step("runs/x/final"), "");

  const std::string table = to_table(header, e);
  EXPECT_NE(table.find("1 sink token, cache 16"), std::string::npos);
  EXPECT_NE(table.find("\nstream        4      12        148"), std::string::npos) << table;
}

}  // namespace
}  // namespace basin
