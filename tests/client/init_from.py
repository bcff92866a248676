"""A Hugging Face directory that transformers wrote, and the checkpoint in which Basin has gone on with it.

  init_from.py write DIR VOCABULARY    a tiny random Llama
  init_from.py check DIR STEP HELDOUT LENGTH SAMPLES    prints the loss that transformers finds for STEP on SAMPLES of LENGTH tokens, spread
                                       as in validation, its sink in front; STEP has DIR's weights and one row more, their mean
  init_from.py tokenizer DIR TEXT PIECES    a byte-level tokenizer of its own for DIR, trained on a text file
  init_from.py encode STEP TEXT SINK        STEP's tokenizer puts SINK in front of a text, and nothing else; prints the ids of TEXT's lines
"""
import os
import sys

os.environ |= {"OMP_NUM_THREADS": "1", "TRANSFORMERS_VERBOSITY": "error", "HF_HUB_OFFLINE": "1"}

import numpy as np
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM


def write(directory, vocabulary):
    torch.manual_seed(7)
    model = LlamaForCausalLM(LlamaConfig(vocab_size=vocabulary, hidden_size=48, intermediate_size=80, num_hidden_layers=2, num_attention_heads=4,
                                         num_key_value_heads=2, max_position_embeddings=64, initializer_range=0.12))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1:
                parameter.add_(0.2 * torch.randn(parameter.shape))
    model.save_pretrained(directory)


def load(directory):
    model, info = AutoModelForCausalLM.from_pretrained(directory, output_loading_info=True, dtype=torch.float32)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
    return model


def check(directory, step, heldout, length, samples):
    before, after = load(directory), load(step)
    sink = after.config.bos_token_id
    assert sink == before.config.vocab_size, after.config
    for (name, a), (other, b) in zip(before.state_dict().items(), after.state_dict().items(), strict=True):
        assert name == other and torch.equal(a, b[:len(a)]), name
        if len(b) > len(a):
            assert torch.allclose(a.mean(0), b[sink], atol=1e-6), name
    tokens = torch.from_numpy(np.fromfile(heldout, np.uint16).astype(np.int64))
    losses, available = [], (len(tokens) - 1) // length
    for i in range(samples):
        begin = i * available // samples * length
        sample = tokens[begin:begin + length + 1]
        logits = after(torch.cat((torch.tensor([sink]), sample[:-1]))[None]).logits[0, 1:]
        losses.append(torch.nn.functional.cross_entropy(logits, sample[1:]).item())
    print(sum(losses) / len(losses))


def tokenizer(directory, text, pieces):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast
    made = Tokenizer(models.BPE())
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    made.post_processor = processors.ByteLevel(trim_offsets=True)
    made.train([text], trainers.BpeTrainer(vocab_size=pieces, special_tokens=["<|end|>"], show_progress=False,
                                           initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    assert made.get_vocab_size() == pieces
    PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<|end|>", eos_token="<|end|>").save_pretrained(directory)


def encode(step, text, sink):
    from transformers import AutoTokenizer
    loaded = AutoTokenizer.from_pretrained(step)
    for line in open(text, encoding="utf-8").read().splitlines():
        first, *ids = loaded.encode(line)
        assert first == sink and sink not in ids and ids == loaded.encode(line, add_special_tokens=False)
        assert loaded.decode(ids) == line
        print(*ids)


if sys.argv[1] == "write":
    write(sys.argv[2], int(sys.argv[3]))
elif sys.argv[1] == "tokenizer":
    tokenizer(*sys.argv[2:4], int(sys.argv[4]))
elif sys.argv[1] == "encode":
    encode(*sys.argv[2:4], int(sys.argv[4]))
else:
    with torch.no_grad():
        check(*sys.argv[2:5], int(sys.argv[5]), int(sys.argv[6]))
