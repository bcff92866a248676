"""Every layout of models.py, dense: Basin's logits on 512 tokens are transformers' (1e-4, fp32), and so are the losses of `basin evaluate --mode
dense` and a greedy continuation. What Basin saves and exports is the same model to transformers, and the same bytes when that is saved again.
  families.py [--build DIR] [--only LAYOUT,...]"""

import sys

import torch

import models
from basin import Failed, arguments_of, run_checks, write_dataset

TOKENS, GREEDY, TOLERANCE = 512, 32, 1e-4


def close(found, expected, what):
    """The largest difference; Failed when that is above the tolerance."""
    if tuple(found.shape) != tuple(expected.shape):
        raise Failed(f"{what}: {tuple(found.shape)} instead of {tuple(expected.shape)} numbers")
    differences = (torch.as_tensor(found) - expected).abs().reshape(len(expected), -1).amax(1)
    worst = differences.max().item()
    if not worst <= TOLERANCE:
        first = int((~(differences <= TOLERANCE)).nonzero()[0])
        raise Failed(f"{what}: off by {worst:.2e} at worst, from token {first} on")
    return worst


def same_files(first, second):
    names = sorted(file.name for file in first.iterdir())
    if names != sorted(file.name for file in second.iterdir()):
        raise Failed(f"saving again: other files than {names}")
    for name in names:
        if (first / name).read_bytes() != (second / name).read_bytes():
            raise Failed(f"saving again: {name} differs")


@torch.no_grad()
def logits_of(model, ids):
    return model(torch.tensor([ids])).logits[0]


def save(basin, model, directory):
    basin.call("basin_model_tool", model, "--save", directory)


def export(basin, model, directory):
    basin.call("basin", "export", model, "--format", "hf", "--out", directory)


def check_written(write, basin, source, expected, ids, scratch):
    """What `write` makes of `source` is the same model, and written again the same bytes."""
    first, second = scratch / (write.__name__ + "-1"), scratch / (write.__name__ + "-2")
    write(basin, source, first)
    if not torch.equal(logits_of(models.load(first), ids), expected):
        raise Failed(f"what {write.__name__} wrote has other logits in transformers")
    write(basin, first, second)
    (first / "README.md").unlink(missing_ok=True)   # a model card says where the model came from
    (second / "README.md").unlink(missing_ok=True)
    same_files(first, second)


def check(case, basin, scratch):
    source = scratch / "model"
    models.write(case, source)
    model = models.load(source)
    ids = torch.randint(3, models.VOCABULARY, (TOKENS,), generator=torch.Generator().manual_seed(5)).tolist()
    expected = logits_of(model, ids)
    logits, greedy = basin.dense(source, ids, GREEDY, scratch)
    worst = close(logits, expected, "logits")
    losses = torch.nn.functional.cross_entropy(expected[:-1], torch.tensor(ids[1:]), reduction="none")
    close(basin.evaluate(source, write_dataset(ids, scratch / "tokens"), scratch, "--mode", "dense", "--cache", TOKENS)[0], losses, "evaluate --mode dense")
    continued = model.generate(torch.tensor([ids]), attention_mask=torch.ones(1, TOKENS, dtype=torch.long), do_sample=False,
                               max_new_tokens=GREEDY, eos_token_id=None, pad_token_id=0)[0, TOKENS:].tolist()
    if greedy != continued:
        raise Failed(f"greedy continuation {greedy}, transformers' is {continued}")
    check_written(save, basin, source, expected, ids, scratch)
    if basin.has_verb("export"):
        check_written(export, basin, source, expected, ids, scratch)
    return worst


def main():
    arguments = arguments_of(__doc__, models.LAYOUTS).parse_args()
    torch.set_num_threads(1)
    if not arguments.basin.has_verb("export"):
        print("not checked: basin export (there is no such verb in this build)")

    def named(layout, variant, case):
        return "-".join(filter(None, (layout, variant))), lambda scratch: f"logits within {check(case, arguments.basin, scratch):.1e}"

    return run_checks(named(layout, *variant) for layout in arguments.only for variant in models.LAYOUTS[layout].items())


if __name__ == "__main__":
    sys.exit(main())
