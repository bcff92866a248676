"""transformers, the pinned 5.x and the oldest 4.x that works beside its torch, on checkpoints as training leaves them and as `basin export` writes
them: the tokenizer puts the sinks in front with no argument given, the model loads whole, and greedy `generate` gives what `basin generate` gives.
  prepended.py [--build DIR] [--only NAME,...]"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile

from basin import arguments_of, run_checks
from trained import GOLDEN, prepare, train

CLIENTS = pathlib.Path(__file__).resolve().parents[2] / ".deps"
VENVS = ("clients", "clients-4")
PROMPTS = ["My fellow citizens", "  In 1907, the\n\nrailroads of this country", "日本 🙂 <x>"]
NEW_TOKENS, CLOSE = 48, 1e-3
CASES = {   # settings of a run, or a trained model; ids that must be in front of every text
    "llama": ({"model__sink__kind": "none"}, []),
    "llama-sink": ({}, [1]),
    "llama-two-sinks": ({"model__sink__count": 2, "train__steps": 20}, [1, 3]),
    "trained-none": ("sink-effect-none", []),
    "trained-sink": ("sink-effect-sink", [1]),
}
# Buffers that old releases of the classes filled by themselves and yet missed in files.
OWN_BUFFERS = (".rotary_emb.inv_freq", ".attention.bias", ".attention.masked_bias")


def read(tasks):
    """In the Python of one of VENVS. `tasks`: a file of [{name, model, prompts: [{text, fed, tokens}]}]."""
    import torch
    import transformers
    from transformers import AutoModelForCausalLM, AutoTokenizer
    transformers.utils.logging.set_verbosity_error()
    torch.set_num_threads(1)
    for task in json.loads(pathlib.Path(tasks).read_text()):
        tokenizer = AutoTokenizer.from_pretrained(task["model"])
        model, info = AutoModelForCausalLM.from_pretrained(task["model"], output_loading_info=True)
        strays = {kind: [name for name in info[kind] if not name.endswith(OWN_BUFFERS) or transformers.__version__ >= "4.36"]
                  for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")}
        assert not any(strays.values()), f"{task['name']}: {strays}"
        model = model.float().eval()
        for prompt in task["prompts"]:
            given = tokenizer(prompt["text"], return_tensors="pt")
            fed = given["input_ids"][0].tolist()
            assert fed == prompt["fed"], f"{task['name']}: {prompt['text']!r} is {fed}, not {prompt['fed']}"
            made = model.generate(**given, do_sample=False, max_new_tokens=NEW_TOKENS)[0, len(fed):].tolist()
            compare(task["name"], model, fed, made, prompt["tokens"])
    print(f"transformers {transformers.__version__}: {len(json.loads(pathlib.Path(tasks).read_text()))} directories")


def compare(name, model, fed, theirs, ours):
    import torch
    theirs = theirs[:-1] if theirs[-1:] == [2] else theirs   # the end of a text, which `basin generate` does not print
    for step in range(max(len(ours), len(theirs))):
        if ours[step:step + 1] != theirs[step:step + 1]:
            with torch.no_grad():
                best = model(torch.tensor([fed + ours[:step]])).logits[0, -1].topk(2).values
            assert best[0] - best[1] < CLOSE, f"{name}: step {step}: {theirs[step:step + 3]}, not {ours[step:step + 3]}"
            return


def task_of(basin, name, model, sinks):
    prompts = []
    for text in PROMPTS:
        said = json.loads(basin.call("basin", "generate", model, "--prompt", text, "--max-tokens", NEW_TOKENS, "--cache", 512, "--temperature", 0,
                                     "--json", "--threads", 1, "--device", "cpu"))
        fed = said["prompt_tokens"]
        assert fed[:len(sinks)] == sinks and fed[len(sinks)] > 5, (name, fed)
        prompts.append({"text": text, "fed": fed, "tokens": said["tokens"]})
    return {"name": name, "model": str(model), "prompts": prompts}


def tasks_of(basin, name, data, folder):
    """A model as training leaves it, and exported in shards."""
    source, sinks = CASES[name]
    model = GOLDEN / source if isinstance(source, str) else train(basin, data, folder / name, **source) / "final"
    exported = folder / f"{name}-exported"
    basin.call("basin", "export", model, "--format", "hf", "--dtype", "float32", "--max-shard-size", "300kB", "--out", exported)
    assert (exported / "model.safetensors.index.json").exists()
    return [task_of(basin, name, model, sinks), task_of(basin, exported.name, exported, sinks)]


def check(venv, tasks):
    done = subprocess.run([CLIENTS / venv / "bin/python", __file__, "--read", tasks], capture_output=True, text=True, check=False, env=os.environ)
    assert done.returncode == 0, done.stderr.splitlines()[-1:]
    return done.stdout.strip()


def main():
    if not (CLIENTS / VENVS[1] / ".complete").exists():
        print("skipped: no transformers 4 in .deps/clients-4: 'bash configs/setup.sh --clients' installs it")
        return 77
    arguments = arguments_of(__doc__, CASES).parse_args()
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        data = prepare(arguments.basin, folder)
        tasks = [task for name in arguments.only for task in tasks_of(arguments.basin, name, data, folder)]
        (folder / "tasks.json").write_text(json.dumps(tasks))
        return run_checks((venv, lambda scratch, venv=venv: check(venv, folder / "tasks.json")) for venv in VENVS)


if __name__ == "__main__":
    sys.exit(read(sys.argv[2]) if sys.argv[1:2] == ["--read"] else main())
