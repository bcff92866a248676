// What the programs of other people check and `basin` has no verb for: logits of a model directory,
// loss token by token, ids of a greedy continuation, and what saving the model writes.
#include <ATen/ATen.h>
#include <c10/core/GradMode.h>
#include <fmt/core.h>
#include <fmt/ranges.h>

#include <CLI/CLI.hpp>
#include <fstream>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "infer/decoder.h"
#include "infer/generator.h"
#include "infer/kv_cache.h"
#include "infer/model_directory.h"
#include "infer/npy.h"
#include "model/checkpoint.h"

namespace basin {
namespace {

std::vector<int32_t> read_ids(const std::string& path) {
  std::ifstream file(path);
  std::vector<int32_t> ids;
  for (int32_t id = 0; file >> id;) ids.push_back(id);
  if (ids.size() < 2) throw std::runtime_error(path + ": expected at least two token ids");
  return ids;
}

void write_tensor(const std::string& path, const at::Tensor& values, int64_t rows) {
  const at::Tensor flat = values.to(at::kCPU, at::kFloat).contiguous();
  write_npy(path, {flat.const_data_ptr<float>(), static_cast<size_t>(flat.numel())}, rows);
}

void write_logits(const Transformer& model,
                  const std::vector<int32_t>& ids,
                  const std::string& path) {
  const auto count = static_cast<int64_t>(ids.size());
  const at::Tensor input = at::tensor(ids, at::kLong).unsqueeze(0);
  write_tensor(
      path, model.logits(model.hidden_states(input, model.causal_attention(count)))[0], count);
}

// One token a step: nll of ids[1..] by the decoder for single streams (where there is one for the
// model), and by Transformer::decode.
void write_steps(const Transformer& model,
                 const CacheShape& shape,
                 const std::vector<int32_t>& ids,
                 const std::string& path) {
  const auto steps = static_cast<int64_t>(ids.size()) - 1, V = model.config().vocab_size;
  const auto nll = [](const at::Tensor& logits, int64_t target) {
    return -at::log_softmax(logits.to(at::kDouble), -1)[target].item<double>();
  };
  std::optional<Decoder> decoder;
  if (Decoder::supports(model)) decoder.emplace(model);
  KvCache plain_cache(model, shape), cache(model, shape);
  KvCache* const caches[] = {&cache};
  at::Tensor result = at::empty({2, steps}, at::kFloat);
  for (int64_t t = 0; t < steps; ++t) {
    const int64_t id = ids[t];
    const at::Tensor plain =
        model.decode(at::full({1, 1}, id, at::kLong), plain_cache.attention())[0];
    plain_cache.advance(1);
    result[0][t] = nll(plain, ids[t + 1]);
    result[1][t] = result[0][t];
    if (!decoder) continue;
    const std::span<const float> logits = decoder->step({&id, 1}, caches);
    result[1][t] =
        nll(at::from_blob(const_cast<float*>(logits.data()), {V}, at::kFloat), ids[t + 1]);
  }
  write_tensor(path, result, 2);
}

void print_greedy(const Transformer& model, const std::vector<int32_t>& ids, int64_t tokens) {
  SamplerConfig greedy;
  greedy.temperature = 0;
  Generator generator(model, {0, static_cast<int64_t>(ids.size()) + tokens}, greedy);
  generator.feed(ids);
  for (int64_t i = 0; i < tokens; ++i) fmt::print("{}\n", generator.next());
}

struct Arguments {
  std::string model, ids, logits, save, steps;
  CacheShape shape;
  int64_t greedy = 0;
};

void run(const Arguments& arguments) {
  const at::NoGradGuard no_grad;
  const LoadedModel loaded = open_model(arguments.model, "float32");
  const Transformer& model = *loaded.model;
  if (!arguments.save.empty()) save_model(model, loaded.trained_tokens, arguments.save);
  if (arguments.ids.empty()) return;
  const std::vector<int32_t> ids = read_ids(arguments.ids);
  if (!arguments.logits.empty()) write_logits(model, ids, arguments.logits);
  if (!arguments.steps.empty()) write_steps(model, arguments.shape, ids, arguments.steps);
  if (arguments.greedy > 0) print_greedy(model, ids, arguments.greedy);
}

}  // namespace
}  // namespace basin

int main(int argc, char** argv) {
  basin::Arguments arguments;
  CLI::App app("what the client tests ask of a model directory");
  app.add_option("MODEL", arguments.model)->required();
  app.add_option("--ids", arguments.ids, "a text file of token ids");
  app.add_option("--logits", arguments.logits, "write dense logits of the ids, .npy (N, V)");
  app.add_option("--save", arguments.save, "write the model into this directory");
  app.add_option("--steps", arguments.steps, "write nll token by token, .npy (2, N - 1)");
  app.add_option("--sinks", arguments.shape.sinks, "kept first entries of the steps' cache");
  app.add_option("--recent", arguments.shape.recent, "recent entries of the steps' cache");
  app.add_option("--greedy", arguments.greedy, "print so many likeliest next ids");
  CLI11_PARSE(app, argc, argv);
  try {
    basin::run(arguments);
  } catch (const std::exception& error) {
    fmt::print(stderr, "error: {}\n", error.what());
    return 1;
  }
  return 0;
}
