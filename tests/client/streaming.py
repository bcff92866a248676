"""Streaming of every layout of models.py, and of a trained model with a sink token: loss per token of `basin evaluate --mode stream`, and of Basin's
decoders token by token, against the literal implementation in reference.py (1e-4). That one is first checked to be transformers' forward pass
where nothing is evicted. With nothing kept, streaming is a Mistral's own sliding window, which transformers compute by themselves.
  streaming.py [--build DIR] [--only LAYOUT,...] [--tokens N] [--cache C,...]"""

import functools
import itertools
import json
import pathlib
import sys

import torch

import models
import reference
from basin import arguments_of, run_checks, write_dataset
from families import close

SINKS = (0, 1, 4)
GOLDEN = pathlib.Path(__file__).resolve().parents[1] / "golden/sink-effect-sink"
TRAINED, WINDOW = "trained-sink", "mistral-window"
WIRING, STEPS = 96, 300   # tokens of the check of the reference, and of the decoders


@torch.no_grad()
def check_reference(model, ids):
    """Nothing is evicted: the method is the model's own forward pass."""
    stream = reference.Stream(model, [(len(ids), 0)], len(ids))
    ours = torch.cat([stream.step(t, id) for t, id in enumerate(ids)])
    close(ours, model(torch.tensor([ids])).logits[0], "the reference's logits, nothing evicted, against transformers'")


def check(source, sink, tokens, caches, basin, scratch):
    """`sink`: ids of the model's own sink tokens, which Basin puts in front of a dataset's tokens and transformers is given."""
    model = models.load(source, torch.float64)
    ids = torch.randint(6, model.config.vocab_size, (tokens,), generator=torch.Generator().manual_seed(7)).tolist()
    stream, first = sink + ids, len(sink)
    check_reference(model, stream[:WIRING])
    dataset = write_dataset(ids, scratch / "tokens")
    sinks = ",".join(map(str, SINKS))
    found = {C: basin.evaluate(source, dataset, scratch, "--cache", C, "--sinks", sinks) for C in caches}
    shapes = list(itertools.product(caches, SINKS))
    expected = reference.nll(model, shapes, stream)[:, first:]
    worst = max(close(found[C][SINKS.index(S)], nll, f"nll with C {C}, S {S}") for (C, S), nll in zip(shapes, expected))
    few = min(STEPS, tokens)
    for C, S in ((caches[0], 0), (caches[0], 4)):
        for ours, how in zip(basin.steps(source, stream[:first + few], S, C - S, scratch)[:, first:], ("plain", "by the decoder")):
            worst = max(worst, close(ours, expected[shapes.index((C, S)), :few - 1], f"nll token by token, {how}, with C {C}, S {S}"))
    return worst


@torch.no_grad()
def check_window(basin, tokens, window, scratch):
    """A cache of `window` - 1 entries and the query are what the model's own window lets a token see. transformers rotate by true positions in fp32,
    whose angles are off by 1e-4 at position 2000."""
    source = scratch / "model"
    models.write(models.LAYOUTS["mistral"][""], source)
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps(config | {"sliding_window": window}))
    ids = torch.randint(6, models.VOCABULARY, (tokens,), generator=torch.Generator().manual_seed(7))
    found = basin.evaluate(source, write_dataset(ids.tolist(), scratch / "tokens"), scratch, "--mode", "window", "--cache", window - 1)
    expected = -models.load(source)(ids.unsqueeze(0), use_cache=False).logits[0].log_softmax(-1)
    return close(found[0], expected[:-1].gather(1, ids[1:].unsqueeze(1)).squeeze(1), f"nll with a sliding window of {window}")


def main():
    parser = arguments_of(__doc__, [*models.LAYOUTS, TRAINED, WINDOW])
    parser.add_argument("--tokens", type=int, default=500, help="length of the stream")
    parser.add_argument("--cache", type=lambda sizes: [int(C) for C in sizes.split(",")], default=[32, 128], help="entries of the caches, separated by commas")
    arguments = parser.parse_args()
    torch.set_num_threads(1)

    def run(layout, scratch):
        if layout == WINDOW:
            tokens = min(arguments.tokens, 1000)
            worst = max(check_window(arguments.basin, tokens, C + 1, scratch / str(C)) for C in arguments.cache)
            return f"{tokens} tokens, C {arguments.cache}: nll within {worst:.1e}"
        source, sink = GOLDEN, [1]
        if layout != TRAINED:
            source, sink = scratch / "model", []
            models.write(models.LAYOUTS[layout][""], source)
        worst = check(source, sink, arguments.tokens, arguments.cache, arguments.basin, scratch)
        return f"{arguments.tokens} tokens, C {arguments.cache}, S {list(SINKS)}: nll within {worst:.1e}"

    return run_checks((layout, functools.partial(run, layout)) for layout in arguments.only)


if __name__ == "__main__":
    sys.exit(main())
