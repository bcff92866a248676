#include "infer/evaluate.h"

#include <ATen/ATen.h>

#include <cmath>
#include <numbers>
#include <numeric>

#include "configs/files.h"
#include "data/indexed_dataset.h"
#include "infer/modes.h"
#include "model/checkpoint.h"
#include "tests/infer/evaluate_fixture.h"

namespace basin {
namespace {

TEST_F(Evaluate, ScoresEveryTokenButTheFirstOfEachDocument) {
  const LoadedModel model = tiny_model(SinkKind::kToken);
  const auto docs = documents(model);
  const Evaluation e =
      evaluate(model, docs, config_of({Mode::kStream, Mode::kDense, Mode::kRecompute}, {0, 1, 4}));
  ASSERT_EQ(e.rows.size(), 5u);
  const at::Tensor expected = at::cat({score_stream(*model.model, {1, 15}, docs[0].tokens),
                                       score_stream(*model.model, {1, 15}, docs[2].tokens)});
  EXPECT_EQ(e.rows[1].sinks, 1);
  EXPECT_EQ(e.rows[1].recent, 15);
  for (const EvaluationRow& row : e.rows) {
    EXPECT_EQ(row.tokens, 89 + 59);
    EXPECT_EQ(row.token_nll.size(), 89u + 59u);
  }
  for (int64_t i = 0; i < expected.numel(); ++i)
    EXPECT_EQ(e.rows[1].token_nll[i], expected[i].item<float>());
  EXPECT_NEAR(e.rows[1].nll, expected.to(at::kDouble).mean().item<double>(), 1e-9);
  EXPECT_NEAR(e.rows[1].perplexity(), std::exp(e.rows[1].nll), 1e-9);
  EXPECT_FALSE(e.rows[3].recent);         // dense
  EXPECT_EQ(e.rows[4].sinks, 1);          // recompute: the model's own
  EXPECT_FALSE(e.rows[0].bits_per_byte);  // no tokenizer
  EXPECT_EQ(e.documents[1].scored, 0);
  EXPECT_EQ(*e.rows[2].nll_delta, 0);
  EXPECT_NEAR(*e.rows[0].nll_delta, e.rows[0].nll - e.rows[2].nll, 1e-6);
}

TEST_F(Evaluate, WindowAppearsOnce) {
  const LoadedModel model = tiny_model(SinkKind::kNone);
  const auto docs = documents(model);
  const auto rows = [&](std::vector<Mode> modes, std::vector<int64_t> sinks) {
    std::string names;
    for (const EvaluationRow& row :
         evaluate(model, docs, config_of(std::move(modes), std::move(sinks))).rows)
      names += std::string(enum_name(row.mode)) + std::to_string(row.sinks) + " ";
    return names;
  };
  EXPECT_EQ(rows({Mode::kWindow, Mode::kStream}, {0, 4}), "stream0 stream4 ");
  EXPECT_EQ(rows({Mode::kWindow, Mode::kStream}, {1}), "window0 stream1 ");
  EXPECT_EQ(rows({Mode::kWindow}, {0, 1}), "window0 ");
  EXPECT_EQ(rows({Mode::kStream, Mode::kStream}, {2}), "stream2 ");
}

TEST_F(Evaluate, LimitSpreadsRecomputeOverAllDocuments) {
  const LoadedModel model = tiny_model(SinkKind::kToken);
  const auto docs = documents(model);
  const Evaluation all = evaluate(model, docs, config_of({Mode::kRecompute, Mode::kStream}, {4})),
                   some = evaluate(
                       model, docs, config_of({Mode::kRecompute, Mode::kStream}, {4}, 16, 10));
  EXPECT_EQ(some.rows[0].tokens, 10);
  EXPECT_EQ(some.rows[1].tokens, 148);  // only recompute is limited
  double delta = 0;
  int64_t seen = 0, first = -1, last = -1;
  for (size_t i = 0; i < some.rows[0].token_nll.size(); ++i) {
    if (std::isnan(some.rows[0].token_nll[i])) continue;
    EXPECT_NEAR(some.rows[0].token_nll[i], all.rows[0].token_nll[i], 1e-5);
    delta += some.rows[0].token_nll[i] - some.rows[1].token_nll[i];
    if (first < 0) first = static_cast<int64_t>(i);
    last = static_cast<int64_t>(i);
    ++seen;
  }
  EXPECT_EQ(seen, 10);
  EXPECT_EQ(first, 7);                                     // 148 / 20
  EXPECT_EQ(last, 140);                                    // 19 * 148 / 20
  EXPECT_NEAR(*some.rows[0].nll_delta, delta / 10, 1e-6);  // paired on the common tokens
}

TEST_F(Evaluate, ComparesInBlocksWithinDocuments) {
  std::vector<EvaluationRow> rows(2);
  rows[0].sinks = 0;
  rows[1].sinks = 4;
  const auto compare = [&](const std::vector<int64_t>& sizes, size_t better) {
    const auto total = static_cast<size_t>(std::accumulate(sizes.begin(), sizes.end(), int64_t{0}));
    for (EvaluationRow& row : rows) row.nll_delta_ci95.reset();
    rows[0].token_nll.assign(total, 3);
    rows[1].token_nll.assign(total, 2);  // and where row 0 is the better one:
    std::fill_n(rows[1].token_nll.rbegin(), better, 4.f);
    compare_to_four_sinks(rows, sizes);
  };
  compare({9 * 512}, 0);
  EXPECT_TRUE(rows[0].nll_delta);
  EXPECT_FALSE(rows[0].nll_delta_ci95) << "nine blocks";
  compare({9 * 512 + 1}, 0);
  EXPECT_TRUE(rows[0].nll_delta_ci95);
  compare({8 * 512 + 2}, 0);
  EXPECT_FALSE(rows[0].nll_delta_ci95);
  compare({8 * 512 + 1, 1}, 0);
  EXPECT_TRUE(rows[0].nll_delta_ci95) << "blocks end with their document";
  // Blocks of 512 and 88 at +1, eight of 100 at -1: neither of the first two in 0.8^10 of the draws.
  compare({600, 100, 100, 100, 100, 100, 100, 100, 100}, 800);
  EXPECT_DOUBLE_EQ(*rows[0].nll_delta, -200.0 / 1400);
  EXPECT_DOUBLE_EQ(rows[0].nll_delta_ci95->low, -1);
  EXPECT_GT(rows[0].nll_delta_ci95->high, 0.3);
  EXPECT_EQ(first_token_sentence(rows).substr(0, 38), "No use of the first tokens was measure");
  rows[0].nll_delta_ci95 = Interval{0.01, 0.02};
  EXPECT_NE(first_token_sentence(rows).find("uses its first tokens"), std::string::npos);
  rows[0].nll_delta_ci95 = Interval{-0.02, -0.01};
  EXPECT_NE(first_token_sentence(rows).find("does better without"), std::string::npos);
  rows[0].sinks = 1;
  EXPECT_EQ(first_token_sentence(rows), "");
}

// A row with evicted tokens and one that keeps them differ where something has left the cache, and
// nowhere else; where nothing does, nothing is said of it.
TEST_F(Evaluate, CountsTokensBehindTheFirstEviction) {
  const LoadedModel model = tiny_model(SinkKind::kToken);
  const auto docs = documents(model);  // the longest: 1 + 89 queries
  const auto scored = [&](int64_t cache) {
    return evaluate(model, docs, config_of({Mode::kStream}, {0, 4}, cache));
  };
  for (const auto& [cache, expected] : {std::pair(88, 1), {80, 9}, {16, 73 + 43}}) {
    const Evaluation e = scored(cache);
    EXPECT_EQ(e.after_eviction, expected);
    int64_t different = 0;
    for (size_t i = 0; i < e.rows[0].token_nll.size(); ++i)
      different += std::abs(e.rows[0].token_nll[i] - e.rows[1].token_nll[i]) > 1e-5;
    EXPECT_EQ(different, expected) << "cache " << cache;
    EXPECT_TRUE(e.rows[0].nll_delta);
  }
  EXPECT_EQ(scored(89).after_eviction, 0);
  EXPECT_FALSE(scored(89).rows[0].nll_delta);
  EXPECT_EQ(first_token_sentence(scored(89).rows), "");
}

TEST_F(Evaluate, RefusesImpossibleCaches) {
  EXPECT_THROW(config_of({Mode::kStream}, {0}, 0).validate({}), std::invalid_argument);
  EXPECT_THROW(config_of({Mode::kStream}, {16}).validate({}), std::invalid_argument);
  EXPECT_THROW(config_of({Mode::kStream}, {17}).validate({}), std::invalid_argument);
  EXPECT_THROW(config_of({Mode::kStream}, {1, 1}).validate({}), std::invalid_argument);
  EXPECT_THROW(config_of({Mode::kStream}, {}).validate({}), std::invalid_argument);
  ModelConfig two_sinks;
  two_sinks.sink.count = 2;
  EXPECT_THROW(config_of({Mode::kRecompute}, {0}, 2).validate(two_sinks), std::invalid_argument);
  EXPECT_THROW(config_of({}, {0}).validate({}), std::invalid_argument);
  EXPECT_THROW(config_of({Mode::kStream}, {0}, 16, -1).validate({}), std::invalid_argument);
  EXPECT_THROW(config_of({Mode::kStream}, {0}, 16, 5).validate({}), std::invalid_argument)
      << "nothing that it would limit";
  EXPECT_NO_THROW(config_of({Mode::kDense}, {}, 0).validate({}));
  EXPECT_THROW(parse_mode("dens"), std::invalid_argument);
  EXPECT_EQ(parse_mode("recompute"), Mode::kRecompute);
}

// Before anything is scored, and by each mode as by the others: a row of 16 entries and the query.
TEST_F(Evaluate, RefusesMoreThanTheSlidingWindow) {
  LoadedModel model = tiny_model(SinkKind::kNone);
  ModelConfig config = variant_base(ModelType::kMistral, 2);
  config.sliding_window = 17;
  for (const Mode mode : {Mode::kStream, Mode::kWindow, Mode::kRecompute}) {
    EXPECT_NO_THROW(config_of({mode}, {1}, 16).validate(config)) << enum_name(mode);
    EXPECT_THROW(config_of({mode}, {1}, 17).validate(config), std::invalid_argument)
        << enum_name(mode);
  }
  EXPECT_NO_THROW(config_of({Mode::kDense}, {}, 17).validate(config));

  model.model = std::make_unique<Transformer>(random_model(config, at::kFloat));
  model.model->flat().fill_(std::nan(""));  // what is scored throws something else
  const std::vector<TokenDocument> fits = {{"a", random_tokens(config, 18)}},
                                   too_long = {fits[0], {"b", random_tokens(config, 19)}};
  EXPECT_THROW(evaluate(model, fits, config_of({Mode::kDense}, {})), std::runtime_error);
  EXPECT_THROW(evaluate(model, too_long, config_of({Mode::kStream, Mode::kDense}, {1})),
               std::invalid_argument);
}

// The default cache is one that the window takes, the model's own sinks included.
TEST_F(Evaluate, DefaultCacheFitsTheSlidingWindow) {
  ModelConfig config = variant_base(ModelType::kMistral, 2);
  config.sliding_window = 16;
  config.sink = {SinkKind::kToken, 2, {}};
  save_model(random_model(config, at::kFloat), 64, folder_);
  const LoadedModel model = open_model(folder_, "float32");
  EXPECT_EQ(model.trained_tokens, 14);
  EXPECT_NO_THROW(config_of({Mode::kStream, Mode::kRecompute}, {2}, model.default_cache())
                      .validate(model.model->config()));
}

TEST_F(Evaluate, ModelThatIsNotANumberIsNotScored) {
  const LoadedModel model = tiny_model(SinkKind::kNone);
  model.model->flat().fill_(std::nan(""));
  EXPECT_THROW(evaluate(model, documents(model), config_of({Mode::kStream}, {1})),
               std::runtime_error);
}

// A run with one step, opened by the run's path, and the data that it may read.
TEST_F(Evaluate, OpensARunAndChecksItsData) {
  const fs::path run = folder_ / "run", step = run / "step-00000010";
  fs::create_directories(step);
  save_model(random_model(tiny_config(ModelType::kLlama, SinkKind::kToken), at::kFloat), 32, step);
  const LoadedModel model = open_model(step, "float32");
  EXPECT_EQ(model.trained_tokens, 32);
  EXPECT_EQ(model.default_cache(), 31);
  EXPECT_EQ(model.eos_ids, std::vector<int64_t>{2});
  EXPECT_FALSE(model.tokenizer);
  EXPECT_THROW(model.require_tokenizer(), std::invalid_argument);
  EXPECT_EQ(eval_directory(step), run / "eval");
  EXPECT_THROW(open_model(step, "float8"), std::invalid_argument);

  const auto write = [&](const char* name, const std::vector<std::vector<int32_t>>& docs) {
    IndexedDatasetWriter writer(folder_ / name, 61);
    for (const auto& d : docs) writer.add_document(d);
    writer.commit();
    DocumentSource source;
    source.dataset = (folder_ / name).string();
    return source;
  };
  DocumentSource good = write("good", {{7, 8, 9, 2}, {10, 2}});
  const auto docs = read_documents(good, model);
  ASSERT_EQ(docs.size(), 2u);
  EXPECT_TRUE(at::equal(docs[0].tokens, at::tensor({7, 8, 9, 2}, at::kLong)));
  good.max_tokens = 3;
  EXPECT_EQ(read_documents(good, model)[0].tokens.numel(), 3);
  EXPECT_EQ(good.stem(), "good");
  EXPECT_THROW(read_documents(write("beyond", {{7, 61}}), model), std::invalid_argument);
  EXPECT_THROW(read_documents(write("sink", {{7, 1, 8}}), model), std::invalid_argument);
  EXPECT_THROW(read_documents(write("short", {{7}, {}}), model), std::runtime_error);
  DocumentSource text;
  text.text = {(folder_ / "nothing.txt").string()};
  EXPECT_THROW(read_documents(text, model), std::invalid_argument);  // no tokenizer
}

TEST_F(Evaluate, ReadsTextAndCountsItsBytes) {
  std::vector<std::string> lines;
  for (int i = 0; i < 400; ++i)
    lines.push_back("the quick brown fox " + std::string(1, 'a' + i % 26) +
                    std::string(1, 'a' + i / 26) + "ing jumps over the lazy dog\n");
  const std::string bytes = train_tokenizer(lines, 384);
  ModelConfig config = tiny_config(ModelType::kGptNeox, SinkKind::kToken);
  config.vocab_size = 384;
  save_model(random_model(config, at::kFloat), 64, folder_);
  write_file(folder_ / "tokenizer.model", bytes);
  const LoadedModel model = open_model(folder_, "float32");
  const std::string written = "the lazy dog jumps over the \u20ac fox";
  write_file(folder_ / "text.txt", written);
  DocumentSource source;
  source.text = {(folder_ / "text.txt").string()};
  EXPECT_EQ(source.stem(), "text");
  const auto docs = read_documents(source, model);
  ASSERT_EQ(docs.size(), 1u);
  const Evaluation e = evaluate(model, docs, config_of({Mode::kStream}, {1}));
  const int64_t scored = static_cast<int64_t>(written.size()) -
                         model.tokenizer->piece_bytes(docs[0].tokens[0].item<int64_t>());
  EXPECT_EQ(*e.documents[0].bytes, scored);
  EXPECT_NEAR(*e.rows[0].bits_per_byte,
              e.rows[0].nll * e.rows[0].tokens / std::numbers::ln2 / scored,
              1e-9);
}

// A model from elsewhere: its tokenizer.json puts a token in front of each text, which counts; with
// a sink of its own a model gets none.
TEST_F(Evaluate, PrependsWhatATokenizerJsonPrepends) {
  write_file(folder_ / "tokenizer.json",
             R"({"added_tokens": [{"id": 3, "content": "<s>", "special": true}],
                 "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false},
                 "decoder": {"type": "ByteLevel"},
                 "post_processor": {"type": "TemplateProcessing",
                   "single": [{"SpecialToken": {"id": "<s>"}}, {"Sequence": {"id": "A"}}],
                   "special_tokens": {"<s>": {"ids": [3]}}},
                 "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": ["a b"]}})");
  write_file(folder_ / "text.txt", "abba");
  DocumentSource source;
  source.text = {(folder_ / "text.txt").string()};
  for (const SinkKind kind : {SinkKind::kNone, SinkKind::kToken}) {
    ModelConfig config = tiny_config(ModelType::kGptNeox, kind);
    if (kind == SinkKind::kToken) config.sink.token_ids = {3};
    save_model(random_model(config, at::kFloat), 64, folder_);
    std::filesystem::remove(folder_ / "generation_config.json");
    const LoadedModel model = open_model(folder_, "float32");
    const at::Tensor tokens = read_documents(source, model)[0].tokens;
    const at::Tensor expected = kind == SinkKind::kNone ? at::tensor({3, 2, 1, 0}, at::kLong)
                                                        : at::tensor({2, 1, 0}, at::kLong);
    EXPECT_TRUE(at::equal(tokens, expected)) << tokens;
    EXPECT_EQ(model.eos_ids, std::vector<int64_t>{kEosId});
  }
  write_file(folder_ / "generation_config.json", R"({"eos_token_id": [0, 1]})");
  const LoadedModel model = open_model(folder_, "float32");
  EXPECT_EQ(model.eos_ids, (std::vector<int64_t>{0, 1}));
  write_file(folder_ / "text.txt", "abb<s>a");  // which would be the sink, in mid-stream
  try {
    read_documents(source, model);
    FAIL() << "not refused";
  } catch (const std::invalid_argument& e) {
    EXPECT_EQ(std::string(e.what()).find((folder_ / "text.txt").string() +
                                         ": token 3 is \"<s>\" (id 3), a sink token of "),
              0u)
        << e.what();
  }
  source.max_tokens = 2;
  EXPECT_EQ(read_documents(source, model)[0].tokens.numel(), 2);
}

}  // namespace
}  // namespace basin
