"""GGUF files of models whose tokenizer is a tokenizer.json alone: llama.cpp cuts a thousand strings into the same tokens as the `tokenizers` package,
greedy continuations agree, and a sink that train.init_from has given to such a model is what llama.cpp puts in front of a text.
  gguf_tokenizers.py [--build DIR] [--only KIND,...]"""

import json
import pathlib
import random
import sys
import unicodedata

import torch
import transformers
from tokenizers import AddedToken, Regex, Tokenizer, normalizers, pre_tokenizers

from basin import Failed, arguments_of, run_checks
from llama_cpp import NEW_TOKENS, PROMPTS, Server, agreed_steps, check_greedy, check_shift, strings
from trained import ADDRESSES, ROOT, SETTINGS

sys.path.insert(0, str(ROOT / "tests/data"))
import make_tokenizers

transformers.utils.logging.disable_progress_bar()


def starcoder():
    pre = pre_tokenizers.Sequence([pre_tokenizers.Digits(True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    return make_tokenizers.byte_level(900, pre, None, make_tokenizers.special("<|endoftext|>"))


def smaug():
    return make_tokenizers.byte_level(1100, make_tokenizers.llama3().pre_tokenizer, None, make_tokenizers.special("<|endoftext|>"))


def llama2():
    """As converted from a SentencePiece model: all ways to make a piece of two others, best piece first."""
    made = make_tokenizers.sentencepiece(None)
    document = json.loads(made.to_str())
    vocabulary = document["model"]["vocab"]
    document["model"]["merges"] = [[piece[:cut], piece[cut:]] for piece in sorted(vocabulary, key=vocabulary.get) for cut in range(1, len(piece))
                                   if piece[:cut] in vocabulary and piece[cut:] in vocabulary]
    document["added_tokens"] = [token for token in document["added_tokens"] if token["special"]]
    single = [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    document["post_processor"]["single"] = single
    return Tokenizer.from_str(json.dumps(document))


def learned_merges():
    """A SentencePiece-like vocabulary with merges in the order of training, which leaves out ways to make a piece."""
    document = json.loads(llama2().to_str())
    document["model"]["merges"] = document["model"]["merges"][::2]
    return Tokenizer.from_str(json.dumps(document))


def own_words():
    return make_tokenizers.byte_level(900, pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(r"\d|\s"), "isolated"),
                                                                    pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]))


def stripping():
    made = make_tokenizers.byte_level(900, pre_tokenizers.ByteLevel(add_prefix_space=False))
    made.add_tokens([AddedToken("<r>", rstrip=True)])
    return made


def lower_case():
    return make_tokenizers.byte_level(900, pre_tokenizers.ByteLevel(add_prefix_space=False), normalizers.Replace("A", "a"))


# A tokenizer and the layout that gets it.
KINDS = {"gpt_neox": (make_tokenizers.gpt_neox, "gpt_neox"), "llama3": (make_tokenizers.llama3, "llama"), "qwen2": (make_tokenizers.qwen2, "llama"),
         "falcon": (make_tokenizers.falcon, "llama"), "llama2": (llama2, "llama"), "starcoder": (starcoder, "llama"), "smaug": (smaug, "llama")}
REFUSED = {"own_words": (own_words, "cuts words in another way"), "stripping": (stripping, 'added token "<r>" has rstrip'),
           "learned_merges": (learned_merges, "merges are not those"), "lower_case": (lower_case, "rewrites text in a way")}


def write(kind, layout, directory):
    """A tiny random model that transformers writes, with the tokenizer; returns the tokenizer."""
    tokenizer, rows = kind(), 0
    rows = (tokenizer.get_vocab_size() + 63) // 64 * 64   # some without a piece, as most published models have
    torch.manual_seed(5)
    shape = {"vocab_size": rows, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
             "max_position_embeddings": 256, "initializer_range": 0.1}
    ends = next((name for name in ("<|end_of_text|>", "<|endoftext|>") if tokenizer.token_to_id(name) is not None), None)
    ids = {"bos_token_id": None, "eos_token_id": tokenizer.token_to_id(ends) if ends else None}
    config = transformers.LlamaConfig(num_key_value_heads=2, **shape, **ids) if layout == "llama" else transformers.GPTNeoXConfig(**shape, **ids)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(directory)
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **({"eos_token": ends} if ends else {})).save_pretrained(directory)
    return tokenizer


def export(basin, model, scratch):
    basin.call("basin", "export", model, "--format", "gguf", "--dtype", "f32", "--out", scratch / "model.gguf")
    return Server(scratch / "model.gguf")


def check_ids(tokenizer, server, front):
    """llama.cpp composes no characters, so the texts are composed where the tokenizer does that."""
    composes = isinstance(tokenizer.normalizer, normalizers.NFC)
    draw, added = random.Random(3), [token.content for token in tokenizer.get_added_tokens_decoder().values() if not token.special]
    for text in strings():
        if any(token in text for token in ("<unk>", "<s>", "</s>")):   # special ones are cut out of the text of one call and not of the other
            continue
        if added and draw.random() < 0.3:
            text = text[:20] + draw.choice(added) + text[20:]
        text = unicodedata.normalize("NFC", text) if composes else text
        ours, theirs = tokenizer.encode(text, add_special_tokens=False).ids, server.tokenize(text)
        assert theirs == ours, f"{text!r}: {theirs} instead of {ours}"
    assert server.tokenize("Hello", special=True) == front + server.tokenize("Hello"), "what begins a text"


def check(basin, kind, layout, scratch):
    model = scratch / "model"
    tokenizer = write(kind, layout, model)
    server = export(basin, model, scratch)
    check_ids(tokenizer, server, tokenizer.encode("").ids)
    silent = [id for id, token in tokenizer.get_added_tokens_decoder().items() if token.special]   # some are ends to llama.cpp, which draws no such one
    reference, shortest = transformers.AutoModelForCausalLM.from_pretrained(model).float().eval(), NEW_TOKENS
    for prompt in PROMPTS:
        fed = tokenizer.encode(prompt).ids
        given = torch.tensor([fed])
        ours = reference.generate(given, attention_mask=torch.ones_like(given), do_sample=False, max_new_tokens=NEW_TOKENS, eos_token_id=None,
                                  pad_token_id=0, suppress_tokens=silent or None)[0, len(fed):].tolist()
        steps, margin = agreed_steps(reference, fed, ours, server.complete(fed, NEW_TOKENS, cache_prompt=False, logit_bias=[[id, False] for id in silent])["tokens"])
        if steps < NEW_TOKENS and (layout == "llama" or margin >= 0.02):
            raise Failed(f"{prompt!r}: step {steps} differs, where the best two logits are {margin:.4f} apart")
        shortest = min(shortest, steps)
    return f"{len(strings())} strings, greedy steps {shortest}"


def check_sink(basin, scratch):
    """GPT-NeoX's kind of tokenizer: a row that no piece has becomes the sink, and the GGUF file's BOS."""
    start = scratch / "start"
    tokenizer = write(make_tokenizers.gpt_neox, "gpt_neox", start)
    basin.call("basin", "prepare", "--input", *sorted(ADDRESSES.glob("19[0-2]*.txt")), "--out", scratch / "data", "--tokenizer", start, "--holdout", 0.05)
    (scratch / "run.yaml").write_text("{}\n")
    words = {key: value for key, value in SETTINGS.items() if not key.startswith("model.")}
    words |= {"run.dir": scratch / "run", "data.train": scratch / "data_train", "data.heldout": scratch / "data_heldout", "train.init_from": start,
              "model.sink.kind": "token"}
    basin.call("basin", "train", scratch / "run.yaml", *(word for key, value in words.items() for word in ("--set", f"{key}={value}")))
    final = scratch / "run/final"
    sink = json.loads((final / "config.json").read_text())["bos_token_id"]
    assert sink == tokenizer.get_vocab_size(), sink
    server = export(basin, final, scratch)
    check_ids(tokenizer, server, [sink])
    reference = transformers.AutoModelForCausalLM.from_pretrained(final).float()
    steps = check_greedy(basin, final, server, "f32", reference)
    return f"{len(strings())} strings, greedy steps {steps}; {check_shift(scratch / 'model.gguf', 1)}"


def check_refusal(basin, kind, sentence, scratch):
    write(kind, "llama", scratch / "model")
    try:
        basin.call("basin", "export", scratch / "model", "--format", "gguf", "--out", scratch / "model.gguf")
    except Failed as refusal:
        assert sentence in str(refusal), refusal
        assert not (scratch / "model.gguf").exists()
        return f"refused: {refusal}"
    raise Failed("not refused")


def main():
    arguments = arguments_of(__doc__, [*KINDS, *REFUSED, "sink"]).parse_args()
    basin = arguments.basin
    torch.set_num_threads(1)

    def case(name):
        if name == "sink":
            return name, lambda scratch: check_sink(basin, scratch)
        if name in REFUSED:
            return name, lambda scratch: check_refusal(basin, *REFUSED[name], scratch)
        return name, lambda scratch: check(basin, *KINDS[name], scratch)

    return run_checks(map(case, arguments.only))


if __name__ == "__main__":
    sys.exit(main())
