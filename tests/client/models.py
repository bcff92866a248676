"""Tiny models with random weights, written by transformers itself: every layout that Basin imports, each as transformers 5 writes it and with
the keys of a config.json from the time of transformers 4, with weights in one file, in shards, in bf16 and in a pytorch_model.bin.
Norms and biases are random (fresh ones are 1 and 0 and hide mistakes); numbers of heads are no powers of two where a layout allows that."""

import dataclasses
import json
import pathlib
import typing

import torch
import transformers
from safetensors.torch import load_file
from transformers import FalconConfig, GPTNeoXConfig, LlamaConfig, MistralConfig, MptConfig, Qwen2Config

transformers.utils.logging.disable_progress_bar()
VOCABULARY = 612
SPECIAL = {"bos_token_id": 1, "eos_token_id": 2}
SHAPE = {"vocab_size": VOCABULARY, "hidden_size": 96, "num_hidden_layers": 2, "num_attention_heads": 6, "initializer_range": 0.1,
         "max_position_embeddings": 8192, **SPECIAL}
LLAMA = {**SHAPE, "intermediate_size": 160, "num_key_value_heads": 2}
# Wavelengths of a head of 16: 6, 32, 167, 863, ..: kept below 64, mixed up to 256, stretched above.
LLAMA3_ROPE = {"rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
               "original_max_position_embeddings": 256}
FALCON_NEW = {"new_decoder_architecture": True, "num_kv_heads": 2, "multi_query": False}


def neox(part=0.25, theta=10000.0, **more):
    rope = {"rope_type": "default", "rope_theta": theta, "partial_rotary_factor": part}
    return GPTNeoXConfig(**{**SHAPE, "num_attention_heads": 4}, intermediate_size=160, rope_parameters=rope, **more)


def mpt(heads):
    return MptConfig(vocab_size=VOCABULARY, d_model=96, n_heads=heads, n_layers=2, max_seq_len=8192, initializer_range=0.1, **SPECIAL)


def falcon_with_alibi(heads):
    """transformers rounds slopes, and slope * place of a key, to bf16 in models of any dtype: places from 256 on are not evenly spaced."""
    return FalconConfig(**{**SHAPE, "num_attention_heads": heads}, alibi=True, bias=True, multi_query=False, parallel_attn=False)


@dataclasses.dataclass
class Case:
    config: transformers.PretrainedConfig
    version: int = 5                                   # of transformers, whose keys config.json has
    shard: str | None = None                           # largest size of a file of weights
    bin: bool = False                                  # pytorch_model.bin instead of model.safetensors
    dtype: torch.dtype = torch.float32                 # of the weights in the file
    edit: typing.Callable[[dict], None] | None = None  # what else old files say, or do not say


def old_llama(config):   # the scaling's older spelling
    config["rope_scaling"] = {"type": "linear", "factor": 4.0}


def old_qwen2(config):   # a window that is not in use
    config.update(use_sliding_window=False, sliding_window=64, max_window_layers=1)


def old_falcon(config):  # keys that the first falcon checkpoints did not have
    for key in ("max_position_embeddings", "rope_theta", "rope_scaling", "num_kv_heads", "ffn_hidden_size", "tie_word_embeddings",
                "activation", "num_ln_in_parallel_attn"):
        config.pop(key, None)


def old_falcon_40b(config):
    config.pop("num_ln_in_parallel_attn")


def old_mpt(config):     # mosaicml/mpt-7b's
    config["architectures"] = ["MPTForCausalLM"]
    config["attn_config"] = {"alibi": True, "alibi_bias_max": 8, "attn_impl": "torch", "attn_pdrop": 0, "attn_type": "multihead_attention",
                             "attn_uses_sequence_id": False, "clip_qkv": None, "prefix_lm": False, "qk_ln": False, "softmax_scale": None}
    config.pop("tie_word_embeddings")


# A layout's first case is the one that is streamed.
LAYOUTS = {
    "llama2": {"": Case(LlamaConfig(**{**LLAMA, "num_key_value_heads": 6})),
               "v4-linear-tied-shards": Case(LlamaConfig(**LLAMA, tie_word_embeddings=True), version=4, shard="150KB", edit=old_llama)},
    "llama3": {"": Case(LlamaConfig(**LLAMA, rope_parameters=LLAMA3_ROPE)),
               "v4-tied-bin": Case(LlamaConfig(**LLAMA, rope_parameters=LLAMA3_ROPE, tie_word_embeddings=True), version=4, bin=True)},
    "mistral": {"": Case(MistralConfig(**LLAMA, head_dim=24, sliding_window=None)),
                "v4-bf16": Case(MistralConfig(**LLAMA, sliding_window=None), version=4, dtype=torch.bfloat16)},
    "qwen2": {"": Case(Qwen2Config(**LLAMA, rope_parameters={"rope_type": "default", "rope_theta": 1e6})),
              "v4-tied-shards": Case(Qwen2Config(**LLAMA, tie_word_embeddings=True), version=4, shard="150KB", edit=old_qwen2)},
    "gpt_neox-parallel": {"": Case(neox()),
                          "v4-bin": Case(neox(), version=4, bin=True)},
    "gpt_neox-sequential": {"": Case(neox(use_parallel_residual=False)),
                            "v4-whole-heads-no-bias-tied": Case(neox(1.0, 25000.0, use_parallel_residual=False, attention_bias=False,
                                                                     tie_word_embeddings=True), version=4)},
    "mpt": {"": Case(mpt(6)),
            "v4-8-heads-bin": Case(mpt(8), version=4, bin=True, edit=old_mpt)},
    "falcon-7b": {"": Case(FalconConfig(**SHAPE)),
                  "v4-bf16": Case(FalconConfig(**SHAPE), version=4, dtype=torch.bfloat16, edit=old_falcon)},
    "falcon-new": {"": Case(FalconConfig(**SHAPE, **FALCON_NEW, num_ln_in_parallel_attn=2)),
                   "v4-untied-shards": Case(FalconConfig(**SHAPE, **FALCON_NEW, tie_word_embeddings=False), version=4, shard="150KB",
                                            edit=old_falcon_40b),
                   "one-norm": Case(FalconConfig(**SHAPE, **FALCON_NEW, num_ln_in_parallel_attn=1))},
    "falcon-alibi": {"": Case(falcon_with_alibi(12)),
                     "v4-6-heads": Case(falcon_with_alibi(6), version=4, edit=old_falcon)},
}


def to_version_4(config):
    """config.json with the keys of transformers 4 for those of transformers 5."""
    config["transformers_version"] = "4.36.0"
    config["torch_dtype"] = config.pop("dtype")
    for key in ("layer_types", "head_dim"):   # no such keys then, for models that do not need them
        config.pop(key, None)
    rope = config.pop("rope_parameters", None)
    if rope is None:
        return
    kind, theta, rotated = rope.pop("rope_type"), rope.pop("rope_theta"), rope.pop("partial_rotary_factor", None)
    config["rope_scaling"] = None if kind == "default" else {"rope_type": kind, **rope}
    if config["model_type"] == "gpt_neox":
        config.update(rotary_pct=rotated, rotary_emb_base=int(theta))
    else:
        config["rope_theta"] = theta


def to_bin(directory, model_type):
    """The weights as torch.save writes them, with the buffers that old gpt_neox checkpoints carry along."""
    file = directory / "model.safetensors"
    tensors = load_file(file)
    if model_type == "gpt_neox":
        for layer in range(2):
            name = f"gpt_neox.layers.{layer}.attention."
            tensors[name + "bias"] = torch.ones(1, 1, 64, 64, dtype=torch.bool).tril()
            tensors[name + "masked_bias"] = torch.tensor(-1e9)
            tensors[name + "rotary_emb.inv_freq"] = torch.ones(3)
    torch.save(tensors, directory / "pytorch_model.bin")
    file.unlink()


@torch.no_grad()
def randomise(model):
    for name, parameter in model.named_parameters():
        if parameter.dim() == 1:
            parameter.normal_(0.0 if name.endswith("bias") else 1.0, 0.3)


def write(case, directory):
    """Writes the model of `case` into `directory`."""
    directory = pathlib.Path(directory)
    torch.manual_seed(11)
    model = transformers.AutoModelForCausalLM.from_config(case.config)
    randomise(model)
    model.to(case.dtype).save_pretrained(directory, max_shard_size=case.shard or "1GB")
    if case.bin:
        to_bin(directory, case.config.model_type)
    file = directory / "config.json"
    config = json.loads(file.read_text())
    if case.version == 4:
        to_version_4(config)
    if case.edit:
        case.edit(config)
    file.write_text(json.dumps(config, indent=2))


def load(directory, dtype=torch.float32):
    """What transformers makes of a directory. It fills missing tensors with random numbers and ignores extra ones, unless asked about them."""
    model, said = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=dtype, output_loading_info=True)
    found = {key: sorted(said[key]) for key in ("missing_keys", "unexpected_keys", "mismatched_keys") if said[key]}
    if found:
        raise AssertionError(f"transformers says of {directory.name}: {found}")
    return model.eval()
