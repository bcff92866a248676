"""Streaming of every layout of models.py: loss per token of `basin evaluate --mode stream`, and of its decoders token by token, against the literal
implementation in reference.py (1e-4). The reference itself is first checked to be transformers' forward pass where nothing is evicted.
  streaming.py [--build DIR] [--only LAYOUT,...] [--tokens N] [--cache C,...]"""

import argparse
import itertools
import pathlib
import sys
import tempfile
import time

import torch

import models
import reference
from basin import Basin, Failed, write_dataset
from families import close

SINKS = (0, 1, 4)
WIRING, STEPS = 96, 300   # tokens of the check of the reference, and of the decoders


@torch.no_grad()
def check_reference(model, ids):
    """Nothing is evicted: the method is the model's own forward pass."""
    stream = reference.Stream(model, [(len(ids), 0)], len(ids))
    ours = torch.cat([stream.step(t, id) for t, id in enumerate(ids)])
    close(ours, model(torch.tensor([ids])).logits[0], "the reference's logits, nothing evicted, against transformers'")


def check(layout, tokens, caches, basin, scratch):
    source = scratch / "model"
    models.write(models.LAYOUTS[layout][""], source)
    model = models.load(source, torch.float64)
    ids = torch.randint(3, models.VOCABULARY, (tokens,), generator=torch.Generator().manual_seed(7)).tolist()
    check_reference(model, ids[:WIRING])
    dataset = write_dataset(ids, scratch / "tokens")
    found = {C: basin.evaluate(source, dataset, scratch, "--cache", C, "--sinks", ",".join(map(str, SINKS))) for C in caches}   # before the reference, which takes longer
    shapes = list(itertools.product(caches, SINKS))
    expected = reference.nll(model, shapes, ids)
    worst = 0.0
    for row, (C, S) in enumerate(shapes):
        ours = torch.as_tensor(found[C][SINKS.index(S)]).double()
        worst = max(worst, close(ours, expected[row], f"nll with C {C}, S {S}"))
    few = min(STEPS, tokens)
    for C, S in ((caches[0], 0), (caches[0], 4)):
        steps = torch.as_tensor(basin.steps(source, ids[:few], S, C - S, scratch)).double()
        for ours, how in zip(steps, ("plain", "by the decoder")):
            worst = max(worst, close(ours, expected[shapes.index((C, S)), :few - 1], f"nll token by token, {how}, with C {C}, S {S}"))
    return worst


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", default=pathlib.Path(__file__).resolve().parents[2] / "build", help="where Basin's programs lie")
    parser.add_argument("--only", default=",".join(models.LAYOUTS), help="layouts, separated by commas")
    parser.add_argument("--tokens", type=int, default=500, help="length of the stream")
    parser.add_argument("--cache", default="32,128", help="entries of the caches, separated by commas")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    failures = 0
    for layout in arguments.only.split(","):
        started = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            try:
                worst = check(layout, arguments.tokens, [int(C) for C in arguments.cache.split(",")], Basin(arguments.build), pathlib.Path(folder))
                said = f"{arguments.tokens} tokens, C {arguments.cache}, S 0,1,4: nll within {worst:.1e}"
            except (Failed, AssertionError) as failure:
                failures += 1
                said = f"FAILED: {failure}"
        print(f"{layout:<20} {said} ({time.perf_counter() - started:.1f} s)", flush=True)
    return min(failures, 1)


if __name__ == "__main__":
    sys.exit(main())
