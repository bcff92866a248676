// The same work as `basin bench prefill` and `decode`, done by llama.cpp: a prompt of given ids, then
// greedy tokens from a context that holds `depth` of them. Reads commands from stdin, one a line, and
// answers each with one line of JSON, so that a driver can take turns with other programs.
//   llama_cpp_bench MODEL.gguf THREADS FLASH_ATTENTION(0|1)
//   prefill ID...              -> {"seconds": s, "tokens": [next]}
//   decode COUNT ID...         -> {"seconds": s, "tokens": [first 16]}: feeds the ids, then times COUNT greedy tokens
//   score COUNT ID...          -> {"nll": [..]}: -log of the last COUNT ids' probabilities, fed one by one after the others
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <iostream>
#include <sstream>
#include <string>
#include <vector>

#include "llama.h"

namespace {

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

struct Engine {
  llama_context* context;
  int vocab_size;

  bool feed(std::vector<llama_token> ids) { return llama_decode(context, llama_batch_get_one(ids.data(), static_cast<int>(ids.size()))) == 0; }
  llama_token likeliest() {
    const float* logits = llama_get_logits_ith(context, -1);
    return static_cast<llama_token>(std::max_element(logits, logits + vocab_size) - logits);
  }
  double nll(llama_token id) {
    const float* logits = llama_get_logits_ith(context, -1);
    const double largest = *std::max_element(logits, logits + vocab_size);
    double sum = 0;
    for (int i = 0; i < vocab_size; ++i) sum += std::exp(logits[i] - largest);
    return largest + std::log(sum) - logits[id];
  }
};

void answer(double seconds, const std::vector<llama_token>& tokens) {
  std::printf("{\"seconds\": %.9f, \"tokens\": [", seconds);
  for (size_t i = 0; i < tokens.size(); ++i) std::printf("%s%d", i > 0 ? ", " : "", tokens[i]);
  std::printf("]}\n");
  std::fflush(stdout);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 4) return std::fprintf(stderr, "usage: llama_cpp_bench MODEL.gguf THREADS FLASH_ATTENTION\n"), 2;
  llama_log_set([](ggml_log_level level, const char* text, void*) { if (level == GGML_LOG_LEVEL_ERROR) std::fputs(text, stderr); }, nullptr);
  llama_backend_init();
  llama_model* model = llama_model_load_from_file(argv[1], llama_model_default_params());
  if (model == nullptr) return std::fprintf(stderr, "llama_cpp_bench: cannot load %s\n", argv[1]), 1;
  llama_context_params params = llama_context_default_params();
  params.n_ctx = 2048;
  params.n_batch = params.n_ubatch = 512;
  params.n_threads = params.n_threads_batch = std::atoi(argv[2]);
  params.flash_attn_type = argv[3][0] == '1' ? LLAMA_FLASH_ATTN_TYPE_ENABLED : LLAMA_FLASH_ATTN_TYPE_DISABLED;
  params.no_perf = true;
  Engine engine{llama_init_from_model(model, params), llama_vocab_n_tokens(llama_model_get_vocab(model))};
  if (engine.context == nullptr) return std::fprintf(stderr, "llama_cpp_bench: no context\n"), 1;
  for (std::string line; std::getline(std::cin, line);) {
    std::istringstream words(line);
    std::string command;
    int count = 0;
    words >> command;
    if (command != "prefill") words >> count;
    std::vector<llama_token> ids;
    for (llama_token id; words >> id;) ids.push_back(id);
    llama_memory_clear(llama_get_memory(engine.context), true);
    if (command == "score") {
      const std::vector<llama_token> scored(ids.end() - count, ids.end());
      ids.resize(ids.size() - scored.size());
      std::printf("{\"nll\": [");
      for (size_t i = 0; i < scored.size(); ++i) {
        if (!engine.feed(i == 0 ? ids : std::vector{scored[i - 1]})) return std::fprintf(stderr, "llama_cpp_bench: decoding failed\n"), 1;
        std::printf("%s%.9g", i > 0 ? ", " : "", engine.nll(scored[i]));
      }
      std::printf("]}\n");
      std::fflush(stdout);
      continue;
    }
    double start = now();
    if (!engine.feed(ids)) return std::fprintf(stderr, "llama_cpp_bench: decoding failed\n"), 1;
    llama_token next = engine.likeliest();
    if (command == "prefill") {
      answer(now() - start, {next});
      continue;
    }
    std::vector<llama_token> made;
    start = now();
    for (int i = 0; i < count; ++i) {
      if (!engine.feed({next})) return std::fprintf(stderr, "llama_cpp_bench: decoding failed\n"), 1;
      next = engine.likeliest();
      if (made.size() < 16) made.push_back(next);
    }
    answer(now() - start, made);
  }
  return 0;
}
