// basin bench: the command line of the benchmarks.
#include <ATen/Parallel.h>
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <memory>

#include "configs/files.h"
#include "configs/json_text.h"
#include "configs/signals.h"
#include "infer/command_options.h"
#include "train/bench.h"
#include "train/commands.h"
#include "train/set_option.h"

namespace basin {
namespace {

struct BenchArguments {
  BenchOptions options;
  int threads = 0;
  bool json = false, no_peaks = false;
  TrainBench train;
  InferBench infer;
  PrepareBench prepare;
  CheckpointBench checkpoint;
  LoadBench load;
};

// Options of every benchmark. `run` gives the rows.
template <class Run>
void add_common(CLI::App* verb, const std::shared_ptr<BenchArguments>& a, Run run) {
  verb->add_option("--repetitions",
                   a->options.repetitions,
                   "timed runs; the median counts, the spread is shown")
      ->capture_default_str()
      ->check(at_least(1));
  verb->add_option("--warmup", a->options.warmup, "runs before them")
      ->capture_default_str()
      ->check(at_least(0));
  verb->add_option("--threads", a->threads, "CPU threads; 0: all cores")
      ->check(CLI::Range(0, 4096));
  verb->add_flag("--json", a->json, "one JSON document instead of a table");
  verb->callback([a, run] {
    if (a->threads > 0) at::set_num_threads(a->threads);
    a->options.peaks = !a->no_peaks;
    const std::vector<BenchRow> rows = run(*a);
    check_interrupt();  // a run that was stopped is no measurement
    write_stdout(a->json ? to_text(BenchRow(rows)) : bench_table(rows));
  });
}

template <class Run>
void add_infer_bench(CLI::App* bench,
                     const char* name,
                     const char* about,
                     const char* footer,
                     int64_t tokens,
                     Run run) {
  const auto a = std::make_shared<BenchArguments>();
  a->infer.tokens = tokens;
  CLI::App* verb = bench->add_subcommand(name, about);
  verb->add_option("SUBJECT",
                   a->infer.subject,
                   "a model directory, or a run file (.yaml) for random weights of its shape")
      ->required();
  add_set_option(*verb, a->infer.overrides);
  verb->add_option("--dtype",
                   a->infer.dtype,
                   "weights: float32, bfloat16, or q8_0 (8 bits; prompts run in bfloat16)")
      ->capture_default_str()
      ->check(CLI::IsMember({"float32", "bfloat16", "q8_0"}));
  add_device_option(*verb, a->infer.device);
  add_numbers_option(*verb,
                     "--cache",
                     a->infer.caches,
                     "entries of the cache, sinks included; several give a table: 256,1024,4096");
  verb->add_option("--sinks", a->infer.sinks, "initial tokens kept")
      ->capture_default_str()
      ->check(at_least(0));
  verb->add_option("--tokens", a->infer.tokens, "tokens of one timed run")
      ->capture_default_str()
      ->check(at_least(1));
  verb->add_option("--save",
                   a->infer.save,
                   "also write the run file's random model here, as a Hugging Face directory");
  if (std::string(name) == "decode") {
    verb->add_option("--streams", a->infer.streams, "independent streams decoded in one batch")
        ->capture_default_str()
        ->check(CLI::Range(1, 4096));
    verb->add_option("--position",
                     a->infer.position,
                     "tokens that went through the cache before; 0: as many as fill it")
        ->capture_default_str()
        ->check(at_least(0));
    verb->add_flag(
        "--recompute", a->infer.recompute, "the sliding window with recomputation beside it");
    verb->add_flag("--no-peaks", a->no_peaks, "do not measure the read bandwidth");
  }
  verb->footer(footer);
  add_common(verb, a, [run](const BenchArguments& b) { return run(b.infer, b.options); });
}

void add_train_bench(CLI::App* bench) {
  const auto a = std::make_shared<BenchArguments>();
  CLI::App* verb = bench->add_subcommand("train", "training steps of a run file, on random tokens");
  verb->add_option("CONFIG", a->train.config_path, "run file (YAML)")->required();
  add_set_option(*verb, a->train.overrides);
  verb->add_option("--steps", a->train.steps, "steps of one timed run")
      ->capture_default_str()
      ->check(at_least(1));
  verb->add_option(
      "--save", a->train.save, "also write the initial model and all batches (batches.npy) here");
  verb->add_flag("--no-peaks", a->no_peaks, "do not measure the peak of the matrix product");
  verb->add_option("--peak-flops",
                   a->options.peak_flops,
                   "the data sheet's peak in FLOP/s, for mfu: 989e12 for bf16 on an H100")
      ->check(at_least(1));
  verb->footer(
      "Example: basin bench train configs/demo.yaml --set model.vocab_size=2048 --steps 20");
  add_common(verb, a, [](const BenchArguments& b) {
    return std::vector<BenchRow>{bench_train(b.train, b.options)};
  });
}

void add_checkpoint_bench(CLI::App* bench) {
  const auto a = std::make_shared<BenchArguments>();
  a->options.repetitions = 3;
  CLI::App* verb = bench->add_subcommand(
      "checkpoint", "what saving costs a training run, and what resuming takes");
  verb->add_option("CONFIG", a->checkpoint.config_path, "run file (YAML)")->required();
  add_set_option(*verb, a->checkpoint.overrides);
  verb->add_option("--every", a->checkpoint.every, "steps between saves")
      ->capture_default_str()
      ->check(at_least(1));
  verb->add_option("--saves", a->checkpoint.saves, "saves of one run, beside its last")
      ->capture_default_str()
      ->check(at_least(1));
  verb->footer(
      "Example: basin bench checkpoint configs/demo.yaml --set model.vocab_size=2048 --every 20");
  add_common(verb, a, [](const BenchArguments& b) {
    return std::vector<BenchRow>{bench_checkpoint(b.checkpoint, b.options)};
  });
}

void add_load_bench(CLI::App* bench) {
  const auto a = std::make_shared<BenchArguments>();
  a->options.repetitions = 3;
  CLI::App* verb = bench->add_subcommand(
      "load", "opening a model directory against reading its files, and the memory that it takes");
  verb->add_option("MODEL", a->load.model, "a model directory, a run or one of its steps")
      ->required();
  verb->add_option("--dtype", a->load.dtype, "weights in memory: float32 or bfloat16")
      ->capture_default_str()
      ->check(CLI::IsMember({"float32", "bfloat16"}));
  add_device_option(*verb, a->load.device);
  verb->footer("Example: basin bench load runs/demo-token --dtype bfloat16 --json");
  add_common(verb, a, [](const BenchArguments& b) {
    return std::vector<BenchRow>{bench_load(b.load, b.options)};
  });
}

void add_prepare_bench(CLI::App* bench) {
  const auto a = std::make_shared<BenchArguments>();
  CLI::App* verb =
      bench->add_subcommand("prepare", "tokenising text in memory, on one thread and on all");
  verb->add_option("--text", a->prepare.text, "text files, folders or globs")->required();
  verb->add_option(
          "--tokenizer", a->prepare.tokenizer, "PREFIX.model of prepare, or a tokenizer.json")
      ->required();
  verb->add_option("--text-key", a->prepare.text_key, "which key of a .jsonl line holds its text")
      ->capture_default_str();
  verb->add_option("--max-bytes", a->prepare.max_bytes, "of text, at most")
      ->capture_default_str()
      ->check(at_least(1));
  verb->footer(
      "Example: basin bench prepare --text .deps/corpus/plays --tokenizer "
      "runs/demo/data/demo.model");
  add_common(verb, a, [](const BenchArguments& b) { return bench_prepare(b.prepare, b.options); });
}

}  // namespace

void add_bench(CLI::App& app) {
  CLI::App* bench = app.add_subcommand(
      "bench",
      "how fast this machine trains, saves, loads, prefills, decodes, streams and prepares");
  bench->require_subcommand(1);
  bench->footer(
      "Example: basin bench decode configs/llama-60m.yaml --set model.vocab_size=32000 --dtype "
      "bfloat16");
  add_train_bench(bench);
  add_infer_bench(
      bench,
      "prefill",
      "a prompt through the layers in parallel",
      "Example: basin bench prefill configs/pythia-160m.yaml --tokens 512 --dtype bfloat16",
      512,
      bench_prefill);
  add_infer_bench(
      bench,
      "decode",
      "token by token with a full cache; the likeliest token is fed back",
      "Example: basin bench decode configs/pythia-160m.yaml --cache 256,1024,4096 --dtype bfloat16",
      64,
      bench_decode);
  add_infer_bench(
      bench,
      "stream",
      "streaming perplexity of one long text, in parallel",
      "Example: basin bench stream configs/pythia-160m.yaml --cache 1024 --tokens 16384",
      8192,
      bench_stream);
  add_checkpoint_bench(bench);
  add_load_bench(bench);
  add_prepare_bench(bench);
}

}  // namespace basin
