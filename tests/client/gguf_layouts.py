"""GGUF files of models from elsewhere: random weights of every layout of models.py, with a SentencePiece tokenizer of fewer pieces than there are rows.
llama.cpp gives transformers' log-probabilities and its greedy continuation; what it would compute otherwise is refused.
  gguf_layouts.py [--build DIR] [--only LAYOUT,...]"""

import pathlib
import shutil
import sys
import tempfile

import numpy
import torch

import models
from basin import Failed, arguments_of, run_checks
from llama_cpp import Server, agreed_steps
from trained import prepare

PROMPTS, LENGTH, NEW_TOKENS, END = 3, 40, 32, 2   # llama.cpp, told to ignore the end of a text, never draws it
REFUSED = {"falcon-alibi": "falcon rotates", "falcon-alibi-v4-6-heads": "falcon rotates", "falcon-7b-v4-bf16": "for how many positions"}
# Its GELU on CPUs is a table.
EXACT, TABLE, CLOSE = 1e-4, 1e-2, 2e-2


def check(basin, case, tokenizer, scratch):
    model = scratch / "model"
    models.write(case, model)
    shutil.copy(tokenizer, model / "tokenizer.model")
    basin.call("basin", "export", model, "--format", "gguf", "--dtype", "f32", "--out", scratch / "model.gguf")
    server, reference = Server(scratch / "model.gguf"), models.load(model).float()
    gelu = case.config.model_type in ("gpt_neox", "mpt", "falcon")
    worst, shortest, known = 0.0, NEW_TOKENS, 0
    for seed in range(PROMPTS):
        prompt = torch.randint(6, 512, (1, LENGTH), generator=torch.Generator().manual_seed(seed))
        with torch.no_grad():
            expected = reference(prompt).logits[0, -1].log_softmax(-1).numpy()
            ours = reference.generate(prompt, attention_mask=torch.ones_like(prompt), do_sample=False, max_new_tokens=NEW_TOKENS, eos_token_id=None,
                                      suppress_tokens=[END], pad_token_id=0)[0, LENGTH:].tolist()
        found = server.next_log_probabilities(prompt[0].tolist(), models.VOCABULARY)
        if found is not None:   # else the token is part of a character
            known, worst = known + 1, max(worst, numpy.abs(found - expected).max())
        steps, margin = agreed_steps(reference, prompt[0].tolist(), ours, server.complete(prompt[0].tolist(), NEW_TOKENS, cache_prompt=False)["tokens"])
        if steps < NEW_TOKENS and not (gelu and margin < CLOSE):
            raise Failed(f"step {steps} differs, where the best two logits are {margin:.4f} apart")
        shortest = min(shortest, steps)
    assert known, "llama.cpp says nothing"
    assert worst <= (TABLE if gelu else EXACT), f"log-probabilities are off by {worst:.2e}"
    return f"log-probabilities within {worst:.1e}, greedy steps {shortest}"


def check_refusal(basin, case, tokenizer, sentence, scratch):
    models.write(case, scratch / "model")
    shutil.copy(tokenizer, scratch / "model/tokenizer.model")
    try:
        basin.call("basin", "export", scratch / "model", "--format", "gguf", "--out", scratch / "model.gguf")
    except Failed as refusal:
        assert sentence in str(refusal), refusal
        return f"refused: {refusal}"
    raise Failed("not refused")


def main():
    arguments = arguments_of(__doc__, models.LAYOUTS).parse_args()
    basin = arguments.basin
    torch.set_num_threads(1)

    def case(layout, variant, made, tokenizer):
        name = "-".join(filter(None, (layout, variant)))
        if name in REFUSED:
            return name, lambda scratch: check_refusal(basin, made, tokenizer, REFUSED[name], scratch)
        return name, lambda scratch: check(basin, made, tokenizer, scratch)

    with tempfile.TemporaryDirectory() as folder:
        tokenizer = prepare(basin, pathlib.Path(folder), 512).with_suffix(".model")
        return run_checks(case(layout, variant, made, tokenizer) for layout in arguments.only for variant, made in models.LAYOUTS[layout].items()
                          if not made.bin)


if __name__ == "__main__":
    sys.exit(main())
