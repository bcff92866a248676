"""Models trained for a few seconds, as `basin train` leaves them, and text for them: part of the demo's corpus (data/demo_corpus.sh)."""

import json
import pathlib
import struct

import numpy

ROOT = pathlib.Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests/golden"
ADDRESSES = ROOT / ".deps/corpus/addresses"
TEXT = ADDRESSES / "1981-Carter-1.txt"   # nothing here was trained on it

# A small demo: Llama with two layers, 128 tokens a sample, 80 steps.
SETTINGS = {"model.hidden_size": 96, "model.num_hidden_layers": 2, "model.num_attention_heads": 4, "model.intermediate_size": 192,
            "data.sequence_length": 128, "train.steps": 80, "train.global_batch": 16, "train.device": "cpu", "train.precision": "bf16",
            "train.optimizer.lr": 0.006, "train.optimizer.min_lr": 0.0006, "train.schedule.warmup_steps": 20, "train.validation.every": 0,
            "train.checkpoint.every": 0}


def prepare(basin, folder, pieces=1024):
    """PREFIX of a token dataset of some addresses, and of its tokenizer."""
    basin.call("basin", "prepare", "--input", *sorted(ADDRESSES.glob("19[0-6]*.txt"))[:60], "--out", folder / "data", "--vocab-size", pieces,
               "--holdout", 0.05)
    return folder / "data"


def train(basin, data, run, **settings):
    """A run directory on what `prepare` made. `settings`: model__sink__kind="none" for model.sink.kind."""
    run.parent.mkdir(exist_ok=True)
    run.with_suffix(".yaml").write_text("{}\n")
    words = SETTINGS | {key.replace("__", "."): value for key, value in settings.items()}
    words |= {"run.dir": run, "data.train": f"{data}_train", "data.heldout": f"{data}_heldout"}
    basin.call("basin", "train", run.with_suffix(".yaml"), *(word for key, value in words.items() for word in ("--set", f"{key}={value}")))
    return run


def encode(basin, tokenizer, texts, folder):
    """Ids of each text, as `basin prepare` stores them, without the end-of-text id behind each."""
    (folder / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    basin.call("basin", "prepare", "--input", folder / "texts.jsonl", "--out", folder / "texts", "--tokenizer", tokenizer)
    return [ids[:-1] for ids in read_dataset(folder / "texts_train")]


def read_dataset(prefix):
    """The documents of a dataset in Megatron-LM's indexed format with 16-bit tokens, one sequence each."""
    index = pathlib.Path(f"{prefix}.idx").read_bytes()
    magic, version, dtype, sequences, _ = struct.unpack_from("<9sQBQQ", index)
    assert (magic, version, dtype) == (b"MMIDIDX\0\0", 1, 8), (magic, version, dtype)
    sizes = numpy.frombuffer(index, "<i4", sequences, offset=34)
    tokens = numpy.fromfile(f"{prefix}.bin", "<u2").tolist()
    ends = numpy.cumsum(sizes)
    return [tokens[end - size:end] for end, size in zip(ends.tolist(), sizes.tolist())]
