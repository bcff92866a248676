#!/usr/bin/env python3
"""What `basin plan` says a step takes against what LibTorch's allocator counted in one.

    python3 tests/bench/plan_memory.py [--basin build/basin]

Each row is a few training steps of a random model (`basin bench train`). Ends with 1 when an estimate is off by more than 10 %."""
import argparse
import json
import os
import subprocess
import sys
import tempfile

# hidden size, layers, heads, MLP, vocabulary, T, global batch, micro-batch, and what else is set
SHAPES = [
    ("llama", 320, 6, 5, 960, 8192, 256, 8, 8, {}),
    ("llama", 320, 6, 5, 960, 8192, 256, 8, 8, {"train.recompute_activations": "true"}),
    ("llama", 512, 8, 8, 1408, 16384, 512, 8, 4, {"train.precision": "bf16"}),
    ("llama", 512, 8, 8, 1408, 16384, 512, 8, 4, {"train.precision": "bf16", "train.recompute_activations": "true"}),
    ("llama", 512, 8, 8, 1408, 16384, 1024, 4, 1, {"train.precision": "bf16", "model.tie_word_embeddings": "true"}),
    ("llama", 512, 12, 8, 1408, 8192, 512, 2, 2, {"model.num_key_value_heads": "2", "model.sink.kind": "logit"}),
    ("llama", 768, 10, 8, 1536, 32000, 512, 4, 2, {"train.precision": "bf16"}),
    ("gpt_neox", 384, 6, 6, 1536, 4096, 128, 16, 8, {"model.partial_rotary_factor": "0.25"}),
    ("gpt_neox", 384, 6, 6, 1536, 4096, 512, 8, 4, {"train.precision": "bf16", "train.recompute_activations": "true"}),
    ("gpt_neox", 512, 6, 8, 2048, 50304, 256, 4, 4, {"model.sink.kind": "none", "model.tie_word_embeddings": "true"}),
    ("gpt_neox", 512, 6, 8, 2048, 50304, 1024, 2, 1, {"train.precision": "bf16"}),
    ("gpt_neox", 512, 10, 8, 2048, 16384, 512, 4, 4, {"train.precision": "bf16", "model.use_parallel_residual": "false"}),
]


def settings(shape):
    family, hidden, layers, heads, mlp, vocab, length, batch, micro, more = shape
    keys = {"model.model_type": family, "model.hidden_size": hidden, "model.num_hidden_layers": layers,
            "model.num_attention_heads": heads, "model.intermediate_size": mlp, "model.vocab_size": vocab,
            "data.sequence_length": length, "train.global_batch": batch, "train.micro_batch": micro, "train.device": "cpu", **more}
    return [part for key, value in keys.items() for part in ("--set", f"{key}={value}")]


def run(basin, *arguments):
    return json.loads(subprocess.run([basin, *arguments, "--json"], check=True, stdout=subprocess.PIPE).stdout)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--basin", default="build/basin")
    basin = parser.parse_args().basin
    worst = 0
    print(f"{'shape':82} {'parameters':>10} {'estimate':>9} {'measured':>9}  ratio  peak")
    with tempfile.TemporaryDirectory() as directory:
        config = os.path.join(directory, "run.yaml")
        with open(config, "w") as file:
            file.write("data: {train: nowhere}\n")
        for shape in SHAPES:
            keys = settings(shape)
            plan = run(basin, "plan", config, *keys)
            row = run(basin, "bench", "train", config, *keys, "--no-peaks", "--warmup", "1", "--repetitions", "1", "--steps", "1")[0]
            estimate, measured = plan["memory_bytes"]["step_total"], row["max_allocated_bytes"]
            ratio = estimate / measured
            worst = max(worst, abs(ratio - 1))
            family, hidden, layers, _, mlp, vocab, length, batch, micro, more = shape
            name = " ".join([family, f"{hidden}x{layers}x{mlp} V{vocab} T{length} {micro} of {batch}"] + [f"{k.split('.')[-1]}={v}" for k, v in more.items()])
            print(f"{name:82} {plan['parameters']['total'] / 1e6:8.1f} M {estimate / 1e6:6.0f} MB {measured / 1e6:6.0f} MB  {ratio:5.3f}  {plan['memory_bytes']['peak_at']}", flush=True)
    print(f"worst: off by {100 * worst:.1f} %")
    sys.exit(worst > 0.1)


if __name__ == "__main__":
    main()
