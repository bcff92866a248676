"""How cost grows, over three sizes each, and how fast a 160M model starts: `bash tests/long.sh growth`. A Markdown table on stdout."""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
BASIN = ROOT / "build/basin"
MODEL = ROOT / "tests/golden/sink-effect-sink"
CORPUS = ROOT / ".deps/corpus"


def bench(*arguments):
    command = [str(BASIN), "bench", *map(str, arguments), "--json"]
    return json.loads(subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True).stdout)[0]


def timed(*arguments):
    """Seconds and peak bytes of a run of Basin."""
    start = time.perf_counter()
    process = subprocess.Popen([str(BASIN), *map(str, arguments)], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    message = process.stderr.read().decode()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        sys.exit(f"growth: basin {' '.join(map(str, arguments))} failed: {message.splitlines()[-1]}")
    return time.perf_counter() - start, 1024 * usage.ru_maxrss


def row(work, unit, sizes, costs, memory):
    """costs: seconds for one unit of work at each size. The spread says how far from linear."""
    megabytes = " / ".join(f"{m / 1e6:.0f}" for m in memory)
    print(f"| {work} | {' / '.join(f'{s:,}'.replace(',', ' ') for s in sizes)} | {' / '.join(f'{1e6 * c:.3g}' for c in costs)} us a {unit} "
          f"| {max(costs) / min(costs):.2f} | {megabytes} MB |", flush=True)


def rates(work, unit, sizes, rows):
    row(work, unit, sizes, [1 / r["tokens_per_second"] for r in rows], [r["peak_memory_bytes"] for r in rows])


def training():
    sizes = (20, 80, 320)
    rates("training, steps of 2048 tokens", "token", sizes, [
        bench("train", "configs/demo.yaml", "--set", "model.vocab_size=2048", "--steps", n, "--repetitions", 3, "--no-peaks") for n in sizes])


def inference():
    sizes = (65536, 262144, 1048576)
    rates("streaming evaluation of one document", "token", sizes, [
        bench("stream", MODEL, "--cache", 127, "--tokens", n, "--repetitions", 1, "--warmup", 0) for n in sizes])
    sizes = (4096, 16384, 65536)
    rates("prefill", "token", sizes, [bench("prefill", MODEL, "--cache", 127, "--tokens", n, "--repetitions", 3) for n in sizes])
    sizes = (127, 100_000, 1_000_000)
    rates("decoding at position", "token", sizes, [
        bench("decode", MODEL, "--cache", 127, "--position", n, "--tokens", 5000, "--no-peaks") for n in sizes])


def prepare(scratch):
    texts = sorted(CORPUS.rglob("*.txt"))
    size = sum(t.stat().st_size for t in texts)
    tokenizer = MODEL / "tokenizer.model"
    costs, memory, sizes = [], [], []
    for copies in (1, 4, 16):
        folder = scratch / f"text-{copies}"
        folder.mkdir()
        for i in range(copies):
            for n, text in enumerate(texts):
                shutil.copy(text, folder / f"{i:02}-{n:03}.txt")
        seconds, peak = timed("prepare", "--input", folder, "--out", scratch / f"data-{copies}", "--tokenizer", tokenizer)
        sizes.append(copies * size)
        costs.append(seconds / (copies * size))
        memory.append(peak)
    row("prepare, bytes of text", "byte", sizes, costs, memory)


def start(scratch):
    directory = scratch / "160m"
    bench("prefill", "configs/pythia-160m.yaml", "--set", "model.vocab_size=50304", "--tokens", 8, "--repetitions", 1, "--cache", 64, "--save", directory)
    (directory / "tokenizer.model").write_bytes((MODEL / "tokenizer.model").read_bytes())
    for dtype in ("float32", "bfloat16"):
        command = ("generate", directory, "--dtype", dtype, "--prompt", "My", "--cache", 1024, "--max-tokens", 1, "--temperature", 0)
        timed(*command)  # warms the disk's cache
        seconds = min(timed(*command)[0] for _ in range(3))
        print(f"| start of a 162M model, to its first token and out, {dtype} | | {seconds:.2f} s | | |", flush=True)


def main():
    if not CORPUS.exists():
        sys.exit("growth: no .deps/corpus: run bash data/demo_corpus.sh first")
    print("| work | sizes | cost | largest / smallest | peak memory |\n|---|---|---|---:|---|")
    training()
    inference()
    with tempfile.TemporaryDirectory() as scratch:
        prepare(pathlib.Path(scratch))
        start(pathlib.Path(scratch))


if __name__ == "__main__":
    main()
