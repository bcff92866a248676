"""llama.cpp (xllamacpp) on what `basin export --format gguf` writes, vanilla and sink models, trained: the same token ids on a thousand strings, BOS
in front exactly for the sink model, the same greedy continuation, the same perplexity; its context shift keeps one slot for the sink.
  llama_cpp.py [--build DIR] [--only NAME,...]    a name with a / is the directory of a model of one's own"""

import json
import math
import os
import pathlib
import random
import re
import subprocess
import sys
import tempfile
import urllib.request

import numpy
import torch
import transformers
import xllamacpp

from basin import Failed, arguments_of, run_checks, write_dataset
from trained import GOLDEN, ROOT, TEXT, encode, prepare, train

transformers.utils.logging.disable_progress_bar()
STRINGS, NEW_TOKENS, CLOSE = 1000, 64, 0.01
PROMPTS = ["My fellow citizens", "The Congress of the United States", "  In  1907, the\nrailroads", "We hold"]
WINDOWS, WINDOW = 2, 120   # of text, for perplexity: as long as the models' samples
CASES = {   # name: (settings of a run, or a trained model, number of sinks)
    "llama": ({"model__sink__kind": "none", "model__num_key_value_heads": 2}, 0),
    "llama-sink": ({"model__num_key_value_heads": 2}, 1),
    "trained-none": (GOLDEN / "sink-effect-none", 0),
    "trained-sink": (GOLDEN / "sink-effect-sink", 1),
}


class Server:
    """A GGUF file served without rounding: fp32 cache, no flash attention."""

    def __init__(self, path, shift=False):
        p = xllamacpp.CommonParams()
        p.model.path = str(path)
        p.n_ctx, p.n_parallel, p.warmup, p.verbosity = 256, 1, False, 4 if shift else 0
        p.ctx_shift, p.n_keep = shift, 0
        p.cpuparams.n_threads = p.cpuparams_batch.n_threads = 1
        p.cache_type_k = p.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
        p.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        try:
            self.server = xllamacpp.Server(p)
        except RuntimeError as error:   # the reason went to stderr
            raise Failed(f"llama.cpp does not load {path}") from error

    def post(self, path, **body):
        request = urllib.request.Request(self.server.listening_address + path, json.dumps(body).encode(), {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)

    def tokenize(self, text, special=False):
        return self.post("/tokenize", content=text, add_special=special, parse_special=False)["tokens"]

    def complete(self, ids, count, **more):
        return self.post("/completion", prompt=ids, n_predict=count, temperature=0, ignore_eos=True, return_tokens=True, **more)

    def next_log_probabilities(self, ids, vocabulary):
        """(V), or None where the likeliest token is part of a character: then the server says nothing."""
        said = self.complete(ids, 1, n_probs=vocabulary).get("completion_probabilities")
        if not said:
            return None
        values = numpy.full(vocabulary, -numpy.inf)
        for entry in said[0]["top_logprobs"]:
            values[entry["id"]] = entry["logprob"]
        return values


def strings():
    """Lines of an address, whole and cut anywhere, and what tokenizers stumble over."""
    hostile = [" ", "  ", "\t", "\n", "\n\n \n", " a", "a ", "  a  b  ", "a\tb\r\nc", "<sink>", "</s>x", "x<unk>", "<0x41>", "<sink1> <sink2>", "日本語のテキスト",
               "naïve café", "e\u0301", "🙂", "👩‍👩‍👧", "\u00a0x\u2003y", "\u200b", "1234567890", "3.14159e-10", "ﬁ ½", "\ufffd", "\x01\x7f", "ab" * 300, " " * 70,
               "Привет, мир", "العربية", "हिन्दी", "\u2581x\u2581", "\U0010fffd", "{\"a\": [1, 2]}", "C:\\x\\y", "'s 'll", "…—“”"]
    draw = random.Random(11)
    lines = [line for path in (TEXT, ROOT / "README.md") for line in path.read_text().split("\n") if line]
    made = list(hostile)
    while len(made) < STRINGS:
        line = draw.choice(lines)
        begin = draw.randrange(len(line))
        piece = line[begin:begin + draw.randrange(1, 200)]
        if draw.random() < 0.3:
            piece = draw.choice(["", " ", "\n"]) + piece + draw.choice(hostile) + draw.choice(hostile)
        made.append(piece)
    return made


def check_ids(basin, model, server, sinks, scratch):
    texts = strings()
    ours = encode(basin, model / "tokenizer.model", texts, scratch)
    assert len(ours) == len(texts)
    for text, ids in zip(texts, ours):
        theirs = server.tokenize(text)
        assert theirs == ids, f"{text!r}: {theirs} instead of {ids}"
    begin = [1] if sinks else []
    assert server.tokenize("Hello", special=True) == begin + server.tokenize("Hello"), "BOS"


def generated(basin, model, prompt):
    said = basin.call("basin", "generate", model, "--prompt", prompt, "--max-tokens", NEW_TOKENS, "--cache", 512, "--temperature", 0, "--ignore-eos",
                      "--json", "--threads", 1, "--device", "cpu")
    said = json.loads(said)
    return said["prompt_tokens"], said["tokens"]


@torch.no_grad()
def agreed_steps(reference, prompt, tokens, theirs):
    """Steps before the first difference, and how much likelier the best token was than the second there, in the reference's logits."""
    assert tokens, "nothing to compare"
    if len(theirs) < len(tokens):
        raise Failed(f"llama.cpp gives {len(theirs)} tokens instead of {len(tokens)}")
    for step, (ours, other) in enumerate(zip(tokens, theirs)):
        if ours != other:
            best = reference(torch.tensor([prompt + tokens[:step]])).logits[0, -1].topk(2).values
            return step, (best[0] - best[1]).item()
    return len(tokens), math.inf


def check_greedy(basin, model, server, kind, reference):
    """llama.cpp's GELU on CPUs is a table with errors of 1e-3: of all F32 files, only a llama's must agree to the end."""
    shortest = NEW_TOKENS
    for prompt in PROMPTS:
        fed, ours = generated(basin, model, prompt)
        assert server.tokenize(prompt, special=True) == fed, (prompt, fed)
        steps, margin = agreed_steps(reference, fed, ours, server.complete(fed, NEW_TOKENS, cache_prompt=False)["tokens"])
        exact = kind == "f32" and reference.config.model_type == "llama"
        if steps < NEW_TOKENS and (exact or margin >= CLOSE):
            raise Failed(f"{kind}, {prompt!r}: step {steps} differs, where the best two logits are {margin:.4f} apart")
        shortest = min(shortest, steps)
    return shortest


def log_losses(server, ids, sinks, vocabulary):
    """-log p of ids[1:], NaN where the server does not say."""
    losses = []
    for end in range(1, len(ids)):
        known = server.next_log_probabilities(([1] if sinks else []) + ids[:end], vocabulary)
        losses.append(math.nan if known is None else -known[ids[end]])
    return numpy.array(losses)


def check_perplexity(basin, model, servers, sinks, scratch):
    """Q8_0 within 0.5 % of ours in fp32, F32 within 0.1 %, on the same tokens."""
    ids = encode(basin, model / "tokenizer.model", [TEXT.read_text()[:20000]], scratch)[0][:WINDOWS * WINDOW]
    vocabulary = json.loads((model / "config.json").read_text())["vocab_size"]
    ours, theirs = [], {kind: [] for kind in servers}
    for begin in range(0, len(ids), WINDOW):
        window = ids[begin:begin + WINDOW]
        dataset = write_dataset(window, scratch / "window")
        ours.append(basin.evaluate(model, dataset, scratch, "--mode", "dense", "--cache", 512)[0])
        for kind, server in servers.items():
            theirs[kind].append(log_losses(server, window, sinks, vocabulary))
    ours, said = numpy.concatenate(ours), []
    for kind, allowed in (("q8_0", 0.005), ("f32", 0.001)):
        values = numpy.concatenate(theirs[kind])
        known = ~numpy.isnan(values)
        assert known.sum() > 0.9 * len(values), "llama.cpp says too little"
        off = math.exp(values[known].mean() - ours[known].mean()) - 1
        assert abs(off) <= allowed, f"perplexity with {kind} is off by {100 * off:.2f} %"
        said.append(f"{kind} {100 * off:+.3f} %")
    return ", ".join(said)


def shift(path):
    """What a process of its own does: more tokens than fit, so that llama.cpp shifts its context and says so."""
    server = Server(path, shift=True)
    print(len(server.complete(server.tokenize("My fellow citizens", special=True), 300)["tokens"]))


def check_shift(path, sinks):
    done = subprocess.run([sys.executable, __file__, "--shift", path], capture_output=True, text=True, check=True, env=os.environ)
    kept = re.findall(r"n_keep = (\d+), n_left", done.stderr)
    assert done.stdout.strip() == "300" and kept and set(kept) == {str(1 if sinks else 0)}, (done.stdout, kept)
    return f"{len(kept)} shifts kept {kept[0]}"


def check(basin, model, sinks, scratch):
    reference = transformers.AutoModelForCausalLM.from_pretrained(model).float()
    servers = {}
    for kind in ("f32", "f16", "q8_0"):
        path = scratch / f"{kind}.gguf"
        basin.call("basin", "export", model, "--format", "gguf", "--dtype", kind, "--out", path)
        servers[kind] = Server(path)
    check_ids(basin, model, servers["f32"], sinks, scratch)
    greedy = [f"{kind} {check_greedy(basin, model, servers[kind], kind, reference)}" for kind in ("f32", "f16")]
    perplexity = check_perplexity(basin, model, {kind: servers[kind] for kind in ("q8_0", "f32")}, sinks, scratch)
    return f"greedy steps {', '.join(greedy)}; perplexity {perplexity}; {check_shift(scratch / 'f32.gguf', sinks)}"


def of_directory(model):
    return model, 0 if json.loads((model / "config.json").read_text())["bos_token_id"] is None else 1


def main():
    if sys.argv[1:2] == ["--shift"]:
        return shift(sys.argv[2])
    arguments = arguments_of(__doc__, CASES).parse_args()
    basin = arguments.basin
    torch.set_num_threads(1)

    def case(name, data):
        source, sinks = CASES[name] if name in CASES else of_directory(pathlib.Path(name).resolve())
        return name, lambda scratch: check(basin, source if isinstance(source, pathlib.Path)
                                           else train(basin, data, scratch / "run", **source) / "final", sinks, scratch)

    with tempfile.TemporaryDirectory() as folder:
        data = prepare(basin, pathlib.Path(folder))
        return run_checks(case(name, data) for name in arguments.only)


if __name__ == "__main__":
    sys.exit(main())
