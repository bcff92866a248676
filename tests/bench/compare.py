"""Basin against what a user would pick instead, on this machine, in one run: `bash tests/long.sh compare [CASE...]`.

Competitors take turns (A B A B ..), so that what else the machine does hits all; a case counts only when both computed the same thing.
Cases: train-demo train-llama train-gpt2 decode prefill stream prepare, and where there is a GPU train-gpu-neox train-gpu-llama (tests/gpu.sh).
Results: compare.json in runs/bench or --out, and a Markdown table on stdout."""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
OUT = ROOT / "runs/bench"
BASIN = pathlib.Path(os.environ.get("BASIN", ROOT / "build/basin"))
HERE = pathlib.Path(__file__).parent
THREADS = len(os.sched_getaffinity(0))

LLAMA_160M = ["configs/llama-60m.yaml", "--set", "model.num_hidden_layers=12", "--set", "model.num_attention_heads=12",
              "--set", "model.intermediate_size=2048", "--set", "model.vocab_size=32000", "--set", "model.sink.kind=none"]


def say(text):
    print(text, file=sys.stderr, flush=True)


def basin(*arguments):
    """Rows of a `basin bench`."""
    command = [str(BASIN), "bench", *map(str, arguments), "--json"]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"compare: {' '.join(command)} failed with {done.returncode}")
    return json.loads(done.stdout)


# What Basin sets for itself (train/main.cpp): malloc in huge pages that stay, threads that spin briefly. What the user has set stays.
BASINS_ENVIRONMENT = {"GOMP_SPINCOUNT": "2000", "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1:glibc.malloc.mmap_threshold=4294967296:glibc.malloc.trim_threshold=4294967296"}


class Worker:
    """A program that answers each line of its input with a line of JSON."""

    def __init__(self, *command, environment=None):
        self.process = subprocess.Popen(list(map(str, command)), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT,
                                        env={**(environment or {}), **os.environ})

    def ask(self, line):
        self.process.stdin.write((line if isinstance(line, str) else json.dumps(line)) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            sys.exit(f"compare: {self.process.args} ended with {self.process.wait()}")
        return json.loads(answer)

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def python_worker(script, environment=None):
    return Worker(sys.executable, HERE / script, environment=environment)


def take_turns(rounds, competitors):
    """{name: rates of all rounds}; each competitor is a function that runs once and returns a rate."""
    rates = {name: [] for name in competitors}
    for i in range(rounds):
        for name, run in competitors.items():
            rates[name].append(run())
        say("  round %d: %s" % (i + 1, ", ".join(f"{name} {r[-1]:.4g}" for name, r in rates.items())))
    return rates


def result(case, unit, rates, checked, **more):
    """Medians, and Basin's ratio to the best of the others."""
    medians = {name: statistics.median(r) for name, r in rates.items()}
    best = max((name for name in medians if name != "basin"), key=medians.get)
    return {"case": case, "unit": unit, "basin": medians["basin"], "best_other": best, "other": medians[best],
            "ratio": medians["basin"] / medians[best], "medians": medians, "rates": rates, "checked": checked, **more}


def require(condition, message):
    if not condition:
        sys.exit(f"compare: the competitors did not compute the same: {message}")


# --- training -------------------------------------------------------------------------------------------------------------------------

TOLERANCE = 1e-3  # of a loss, relative; bf16 against fp32 too
HOPELESS = 3  # times slower than the best so far
CHECKED_STEPS = 6  # that all take before the clock starts, from the same weights, with the run file's learning rate


def train_case(case, config, steps, rounds, variants):
    """variants: (None for eager or torch.compile's mode, precision, environment)."""
    directory = OUT / case
    constant = ["--set", "train.schedule.kind=constant", "--set", "train.schedule.warmup_steps=0"]
    arguments = ["train", *config, *constant, "--steps", steps, "--warmup", 1]
    first = basin(*arguments, "--repetitions", 1)[0]
    ours = basin("train", *config, *constant, "--steps", CHECKED_STEPS, "--warmup", 0, "--repetitions", 1, "--no-peaks", "--save", directory)[0]["losses"]
    # Otherwise the optimizers' steps would not be compared.
    require(min(ours) < (1 - 5 * TOLERANCE) * ours[0], f"Basin's losses {ours} hardly move")
    settings = json.loads((directory / "bench.json").read_text())
    best, hopeless = {}, set()
    for mode, precision, environment in variants:
        if (mode, precision) in hopeless:
            continue
        name = f"PyTorch {'eager' if mode is None else 'torch.compile' if mode == 'default' else mode} {precision}{' as Basin' if environment else ''}"
        worker = python_worker("torch_model.py", environment)
        worker.ask({"do": "train", "directory": str(directory), "compile": mode, "precision": precision, "threads": THREADS,
                    "device": first["device"].split(":")[0], **settings})
        losses = worker.ask({"do": "run", "steps": 1})["losses"]  # compiles
        second = worker.ask({"do": "run", "steps": 1})
        fastest = min((s for s, _, _ in best.values()), default=float("inf")) / steps
        # bf16 where the processor has no instructions for it: minutes a step. (On a GPU a second step may record a graph.)
        if first["device"] == "cpu" and second["seconds"] > HOPELESS * fastest:
            say(f"  {name}: left out, {second['seconds']:.1f} s a step against {fastest:.1f} s")
            worker.close()
            hopeless.add((mode, precision))
            continue
        losses += second["losses"] + worker.ask({"do": "run", "steps": CHECKED_STEPS - 2})["losses"]
        worst = max(abs(a - b) / abs(b) for a, b in zip(ours, losses, strict=True))
        say(f"  {name}: losses {losses[0]:.5f} .. {losses[-1]:.5f}, Basin {ours[0]:.5f} .. {ours[-1]:.5f}, relative difference {worst:.1e}")
        require(worst < TOLERANCE, f"{name}: losses {losses} against {ours}")
        seconds = worker.ask({"do": "run", "steps": steps})["seconds"]
        slower, kept = (seconds, name, worker), best.get((mode, precision))
        if kept is None or seconds < kept[0]:  # of the environments the better one
            best[mode, precision], slower = slower, kept
        if slower:
            slower[2].close()
    workers = {name: worker for _, name, worker in best.values()}
    tokens = steps * first["global_batch"] * first["sequence_length"]
    competitors = {"basin": lambda: basin(*arguments, "--repetitions", 1, "--no-peaks")[0]["tokens_per_second"]}
    for name, worker in workers.items():
        competitors[name] = lambda w=worker: tokens / w.ask({"do": "run", "steps": steps})["seconds"]
    rates = take_turns(rounds, competitors)
    for worker in workers.values():
        worker.close()
    more = {k: first[k] for k in ("parameters", "precision", "mfu", "mfu_of_gemm", "gemm_flops_per_second", "peak_memory_bytes") if k in first}
    return [result(case, "tokens/s", rates, f"losses of {CHECKED_STEPS} steps within {TOLERANCE:g}", **more)]


# torch.compile as it comes, and in Basin's environment, which helps or hurts it.
COMPILED = [("default", precision, environment) for precision in ("fp32", "bf16") for environment in (None, BASINS_ENVIRONMENT)]


def train_demo(rounds):
    config = ["configs/demo.yaml", "--set", "data.sequence_length=256", "--set", "model.vocab_size=2048"]
    return train_case("train-demo", config, 20, rounds, [(None, "fp32", None), *COMPILED])


def train_llama(rounds):
    config = ["configs/llama-60m.yaml", "--set", "data.sequence_length=512", "--set", "model.vocab_size=32000", "--set", "train.global_batch=8"]
    return train_case("train-llama", config, 1, rounds, COMPILED)


def train_gpt2(rounds):
    config = ["configs/pythia-160m.yaml", "--set", "data.sequence_length=512", "--set", "model.tie_word_embeddings=true", "--set", "train.global_batch=8"]
    return train_case("train-gpt2", config, 1, rounds, COMPILED)


def train_gpu(case, config, rounds):
    # No padding tokens, one sink, 131 072 tokens a step in micro-batches of 16.
    settings = ["data.sequence_length=2048", "train.global_batch=64", "train.micro_batch=16", "train.precision=bf16", "train.device=cuda"]
    arguments = [config[0], *config[1:], *(x for s in settings for x in ("--set", s))]
    return train_case(case, arguments, 10, rounds, [("default", "bf16", None), ("reduce-overhead", "bf16", None)])


def train_gpu_neox(rounds):
    return train_gpu("train-gpu-neox", ["configs/pythia-160m.yaml"], rounds)


def train_gpu_llama(rounds):
    return train_gpu("train-gpu-llama", [*LLAMA_160M[:-2], "--set", "model.vocab_size=50304"], rounds)


# --- inference ------------------------------------------------------------------------------------------------------------------------

def random_ids(vocab_size, count):
    """The text that `basin bench` reads."""
    import torch
    return torch.randint(6, vocab_size, (count,), generator=torch.Generator().manual_seed(1)).tolist()


def llama_workers(types):
    """{Basin's name of a type: {llama.cpp's name: worker}} for the 160M Llama, saved by Basin."""
    import gguf
    from gguf_file import write_gguf
    directory = OUT / "llama-160m"
    basin("prefill", *LLAMA_160M, "--tokens", 8, "--repetitions", 1, "--cache", 64, "--save", directory)
    program = OUT / "llama_cpp_bench"
    tree = ROOT / ".deps/llama.cpp"
    libraries = [tree / "build" / p for p in ("src/libllama.a", "ggml/src/libggml.a", "ggml/src/libggml-cpu.a", "ggml/src/libggml-base.a")]
    subprocess.run(["g++", "-O2", "-std=c++17", "-fopenmp", HERE / "llama_cpp_bench.cpp", "-I", tree / "include", "-I", tree / "ggml/include",
                    *libraries, "-lpthread", "-ldl", "-o", program], check=True)
    workers = {}
    for ours, theirs in types.items():
        workers[ours] = {}
        for kind in theirs:
            path = OUT / f"llama-160m-{kind}.gguf"
            write_gguf(directory, path, gguf.GGMLQuantizationType[kind])
            for flash in (0, 1):
                workers[ours][f"llama.cpp {kind}{' flash' if flash else ''}"] = Worker(program, path, THREADS, flash)
    return directory, workers


TYPES = {"float32": ["F32"], "bfloat16": ["F16", "BF16"], "q8_0": ["Q8_0"]}


BOUNDS = {"float32": 5e-3, "bfloat16": 0.03, "q8_0": 0.05}  # of a token's nll, in nats; llama.cpp caches keys and values in F16


def differences(ours, workers, ids, dtype):
    """{worker: how far its nll of the last ids is from Basin's, at most}; a token that only one side finds likely is off by nats."""
    off = {}
    for name, worker in workers.items():
        nll = worker.ask(f"score {len(ours)} " + " ".join(map(str, ids)))["nll"]
        off[name] = max(abs(a - b) for a, b in zip(ours, nll, strict=True))
        require(off[name] < BOUNDS[dtype], f"{dtype}: nll of the same tokens: {name} {nll}, Basin {ours}")
    return off


def decode(rounds):
    directory, workers = llama_workers(TYPES)
    prompt = random_ids(32000, 64)
    out = []
    for dtype, theirs in workers.items():
        tokens = 32 if dtype == "float32" else 64
        arguments = ["decode", directory, "--dtype", dtype, "--cache", 1024, "--position", len(prompt), "--tokens", tokens, "--repetitions", 1, "--warmup", 1]
        first = basin(*arguments)[0]
        ask = f"decode {tokens} " + " ".join(map(str, prompt))
        same = {}
        for name, worker in theirs.items():
            answer = worker.ask(ask)["tokens"]
            same[name] = next((i for i, (a, b) in enumerate(zip(first["first_tokens"], answer)) if a != b), len(answer))
        require(dtype != "float32" or min(same.values()) == 16, f"fp32 greedy tokens: {same}")
        off = differences(first["first_nll"], theirs, [*prompt, first["next_token"], *first["first_tokens"]], dtype)
        say(f"  decode {dtype}: leading greedy tokens in common: {same}; nll off by {off}")
        competitors = {"basin": lambda a=arguments: basin(*a, "--no-peaks")[0]["tokens_per_second"]}
        for name, worker in theirs.items():
            competitors[name] = lambda w=worker, n=tokens, line=ask: n / w.ask(line)["seconds"]
        out.append(result(f"decode {dtype}", "tokens/s", take_turns(rounds, competitors), f"leading greedy tokens in common: {same}; nll of Basin's tokens off by {off}",
                          share_of_bandwidth=first["share_of_bandwidth"], read_bandwidth=first["read_bandwidth"], bytes_per_step=first["bytes_per_step"]))
    close(workers)
    return out


def prefill(rounds):
    directory, workers = llama_workers(TYPES)
    prompt = random_ids(32000, 512)
    ask = "prefill " + " ".join(map(str, prompt))
    out = []
    for dtype, theirs in workers.items():
        arguments = ["prefill", directory, "--dtype", dtype, "--cache", 1024, "--tokens", len(prompt), "--repetitions", 3, "--warmup", 1]
        first = basin(*arguments)[0]
        answers = {name: worker.ask(ask)["tokens"][0] for name, worker in theirs.items()}
        require(dtype != "float32" or set(answers.values()) == {first["next_token"]}, f"fp32 next token {first['next_token']}, {answers}")
        off = differences([first["next_nll"]], theirs, [*prompt, first["next_token"]], dtype)
        competitors = {"basin": lambda a=arguments: basin(*a)[0]["tokens_per_second"]}
        for name, worker in theirs.items():
            competitors[name] = lambda w=worker: len(prompt) / min(w.ask(ask)["seconds"] for _ in range(3))
        out.append(result(f"prefill {dtype}", "tokens/s", take_turns(rounds, competitors), f"next token {first['next_token']}, others {answers}; its nll off by {off}"))
    close(workers)
    return out


def close(workers):
    for theirs in workers.values():
        for worker in theirs.values():
            worker.close()


def stream(rounds):
    directory = OUT / "llama-160m"
    basin("prefill", *LLAMA_160M, "--tokens", 8, "--repetitions", 1, "--cache", 64, "--save", directory)
    tokens, cache, steps = 4096, 1024, 20
    ids = random_ids(32000, tokens + 1)
    workers, theirs = {}, {}
    for method, dtype in (("reference", "float32"), ("reference", "bfloat16"), ("lean", "float32")):
        name = f"transformers {dtype}, {'the paper' if method == 'reference' else 'lean'}"
        workers[name] = python_worker("transformers_stream.py")
        workers[name].ask({"do": "open", "directory": str(directory), "dtype": dtype, "method": method, "threads": THREADS, "sinks": 4, "cache": cache, "ids": ids})
        theirs[name] = statistics.fmean(workers[name].ask({"do": "run", "steps": cache + 50})["losses"])  # fills the cache and goes on with it full
    out = []
    for dtype in ("float32", "bfloat16"):
        common = ["stream", directory, "--dtype", dtype, "--cache", cache, "--sinks", 4, "--repetitions", 1, "--warmup", 0, "--tokens"]
        first = basin(*common, cache + 50)[0]["nll"]
        for name, nll in theirs.items():
            require(abs(first - nll) < (2e-4 if dtype == "float32" and "float32" in name else 2e-2), f"nll {first} against {name}'s {nll}")
        competitors = {"basin": lambda c=common: basin(*c, tokens)[0]["tokens_per_second"]}
        for name, worker in workers.items():
            competitors[name] = lambda w=worker: steps / w.ask({"do": "run", "steps": steps})["seconds"]
        rates = take_turns(rounds, competitors)
        checked = f"nll of {cache + 50} tokens {first:.5f}; theirs {theirs}"
        out.append(result(f"stream {dtype}, the paper's method", "tokens/s", {k: v for k, v in rates.items() if "lean" not in k}, checked))
        out.append(result(f"stream {dtype}, a leaner method", "tokens/s", {k: v for k, v in rates.items() if "paper" not in k}, checked))
    for worker in workers.values():
        worker.close()
    return out


def prepare(rounds):
    """The demo's text through the demo's tokenizer, against SentencePiece's Python package on one thread and tokenizers on all."""
    import time

    import sentencepiece
    from tokenizers import Tokenizer
    model, texts_in = ROOT / "runs/demo/data/demo.model", ROOT / ".deps/corpus"
    if not model.exists():
        sys.exit(f"compare: {model} is not there: run bash train/demo.sh first")
    texts = [p.read_bytes().decode("utf-8-sig") for p in sorted(texts_in.rglob("*.txt"))]
    megabytes = sum(len(t.encode()) for t in texts) / 1e6
    processor = sentencepiece.SentencePieceProcessor(model_file=str(model))
    directory = next(iter(sorted(ROOT.glob("tests/golden/*sink"))))
    fast = Tokenizer.from_file(str(directory / "tokenizer.json"))
    arguments = ["prepare", "--text", texts_in, "--tokenizer", model, "--max-bytes", 100_000_000, "--repetitions", 1, "--warmup", 0]
    rows = basin(*arguments)
    ids = processor.encode(texts)
    theirs = sum(map(len, ids))
    require(rows[0]["tokens"] == theirs, f"{rows[0]['tokens']} tokens against SentencePiece's {theirs}")
    require([e.ids for e in fast.encode_batch_fast(texts, add_special_tokens=False)] == ids, "tokenizers' ids are not SentencePiece's")

    def timed(run):
        start = time.perf_counter()
        run()
        return megabytes / (time.perf_counter() - start)

    out = []
    for row, threads in enumerate((1, THREADS)):
        competitors = {"basin": lambda r=row: basin(*arguments)[r]["mb_per_second"],
                       "SentencePiece": lambda n=threads: timed(lambda: processor.encode(texts, num_threads=n))}
        if threads > 1:
            competitors["tokenizers"] = lambda: timed(lambda: fast.encode_batch_fast(texts, add_special_tokens=False))
        out.append(result(f"prepare, {threads} thread(s)", "MB/s", take_turns(rounds, competitors), f"{theirs} tokens"))
    return out


CASES = {"train-demo": train_demo, "train-llama": train_llama, "train-gpt2": train_gpt2, "decode": decode, "prefill": prefill, "stream": stream, "prepare": prepare,
         "train-gpu-neox": train_gpu_neox, "train-gpu-llama": train_gpu_llama}
GPU_CASES = ("train-gpu-neox", "train-gpu-llama")


def markdown(results):
    lines = ["| work | Basin | best alternative | | ratio | spread of the ratio |", "|---|---:|---|---:|---:|---|"]
    for r in results:
        pairs = sorted(a / b for a, b in zip(r["rates"]["basin"], r["rates"][r["best_other"]]))
        share = f", {r['basin'] * r['bytes_per_step'] / r['read_bandwidth']:.0%} of the read bandwidth" if "read_bandwidth" in r else ""
        lines.append(f"| {r['case']}{share} | {r['basin']:.4g} {r['unit']} | {r['best_other']} | {r['other']:.4g} | {r['ratio']:.2f} | {pairs[0]:.2f} to {pairs[-1]:.2f} |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"any of {', '.join(CASES)}; default: all that need no GPU")
    parser.add_argument("--out", type=pathlib.Path, default=OUT, help="directory for compare.json")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    unknown = [c for c in arguments.cases if c not in CASES]
    if unknown:
        parser.error(f"no case {unknown[0]}: there are {', '.join(CASES)}")
    OUT.mkdir(parents=True, exist_ok=True)
    results = []
    for case in arguments.cases or [c for c in CASES if c not in GPU_CASES]:
        say(f"== {case}")
        results += CASES[case](arguments.rounds)
        arguments.out.mkdir(parents=True, exist_ok=True)
        (arguments.out / "compare.json").write_text(json.dumps(results, indent=1))
    print(markdown(results))


if __name__ == "__main__":
    main()
