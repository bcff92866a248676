"""What `basin export --format gguf` writes, read by the `gguf` package: every key that llama.cpp looks at, the vocabulary as SentencePiece has it,
and every tensor bit for bit what the package itself makes of the weights in model.safetensors.
  gguf_files.py [--build DIR]"""

import json
import pathlib
import sys
import tempfile

import gguf
import numpy
import sentencepiece
import torch
from gguf import GGMLQuantizationType as Type
from safetensors.torch import load_file

from basin import Failed, arguments_of, run_checks
from trained import GOLDEN, prepare, train

LLAMA = {"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
         "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm",
         "post_attention_layernorm": "ffn_norm", "model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
NEOX = {"attention.query_key_value": "attn_qkv", "attention.dense": "attn_output", "mlp.dense_h_to_4h": "ffn_up", "mlp.dense_4h_to_h": "ffn_down",
        "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "gpt_neox.embed_in": "token_embd",
        "gpt_neox.final_layer_norm": "output_norm", "embed_out": "output"}
TYPES = {"f32": Type.F32, "f16": Type.F16, "bf16": Type.BF16, "q8_0": Type.Q8_0}
FILE_TYPES = {"f32": 0, "f16": 1, "bf16": 32, "q8_0": 7}
CASES = {   # settings of a run that is saved after its first step, or a trained model
    "llama": {"model__num_key_value_heads": 2, "model__head_dim": 32},
    "llama-tied": {"model__tie_word_embeddings": "true", "model__sink__kind": "none", "model__rope_theta": 50000},
    "neox-tied": {"model__model_type": "gpt_neox", "model__tie_word_embeddings": "true", "model__attention_bias": "false",
                  "model__partial_rotary_factor": 0.5, "model__use_parallel_residual": "false",
                  "model__hidden_size": 80},   # rows that are no whole blocks of Q8_0
    "neox-two-sinks": {"model__model_type": "gpt_neox", "model__sink__count": 2},
    "trained-sink": None, "trained-none": None,
}


def expected_tensors(model, config):
    """name -> fp32 array, from transformers' names and layouts."""
    neox = config["model_type"] == "gpt_neox"
    heads, groups = config["num_attention_heads"], config.get("num_key_value_heads", config["num_attention_heads"])
    tensors = {}
    for name, tensor in load_file(model / "model.safetensors").items():
        x = tensor.to(torch.float32)
        module, part = name.rsplit(".", 1)
        if neox and "query_key_value" in name:   # (H, 3, K, ..) -> (3, H, K, ..)
            x = x.reshape(heads, 3, -1, *x.shape[1:]).transpose(0, 1).reshape(x.shape)
        if "q_proj" in name or "k_proj" in name:   # halves that rotate together become neighbours
            h = heads if "q_proj" in name else groups
            x = x.reshape(h, 2, -1, *x.shape[1:]).transpose(1, 2).reshape(x.shape)
        parts = module.split(".", 3)
        layer = parts[2] if parts[1:2] == ["layers"] else None
        short = (NEOX if neox else LLAMA)[parts[3] if layer else module]
        tensors[f"blk.{layer}.{short}.{part}" if layer else f"{short}.{part}"] = x.numpy()
    if neox and "output.weight" not in tensors:
        tensors["output.weight"] = tensors["token_embd.weight"]
    if neox and not config["attention_bias"]:
        for layer in range(config["num_hidden_layers"]):
            tensors[f"blk.{layer}.attn_qkv.bias"] = numpy.zeros(3 * config["hidden_size"], "f")
            tensors[f"blk.{layer}.attn_output.bias"] = numpy.zeros(config["hidden_size"], "f")
    return tensors


def expected_keys(model, config, kind):
    """All keys but the vocabulary."""
    neox = config["model_type"] == "gpt_neox"
    arch = "gptneox" if neox else "llama"
    rope, size = config["rope_parameters"], config.get("head_dim", config["hidden_size"] // config["num_attention_heads"])
    keys = {"vocab_size": config["vocab_size"], "context_length": config["max_position_embeddings"], "embedding_length": config["hidden_size"],
            "block_count": config["num_hidden_layers"], "feed_forward_length": config["intermediate_size"],
            "attention.head_count": config["num_attention_heads"], "attention.key_length": size, "attention.value_length": size,
            "attention.head_count_kv": config.get("num_key_value_heads", config["num_attention_heads"]),
            "rope.dimension_count": int(size * rope.get("partial_rotary_factor", 1)), "rope.freq_base": rope["rope_theta"]}
    if neox:
        keys |= {"use_parallel_residual": config["use_parallel_residual"], "attention.layer_norm_epsilon": config["layer_norm_eps"]}
    else:
        keys |= {"attention.layer_norm_rms_epsilon": config["rms_norm_eps"]}
    sink = "sink" in config
    return {f"{arch}.{key}": value for key, value in keys.items()} | {
        "general.architecture": arch, "general.type": "model", "general.name": f"model-{kind}", "general.file_type": FILE_TYPES[kind],
        "general.quantization_version": 2, "tokenizer.ggml.model": "llama", "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.bos_token_id": 1, "tokenizer.ggml.eos_token_id": 2, "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.ggml.add_bos_token": sink, "tokenizer.ggml.add_eos_token": False, "tokenizer.ggml.add_space_prefix": False}


def check_vocabulary(model, keys):
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(model / "tokenizer.model"))
    types = {"unknown": 2, "control": 3, "unused": 5, "byte": 6}
    for id in range(pieces.vocab_size()):
        kind = next((number for name, number in types.items() if getattr(pieces, f"is_{name}")(id)), 1)
        found = keys["tokenizer.ggml.tokens"][id], keys["tokenizer.ggml.scores"][id], keys["tokenizer.ggml.token_type"][id]
        assert found == (pieces.id_to_piece(id), numpy.float32(pieces.get_score(id)), kind), (id, found)
    assert len(keys["tokenizer.ggml.tokens"]) == pieces.vocab_size()


def check_file(basin, model, config, kind, scratch):
    path = scratch / f"model-{kind}.gguf"
    basin.call("basin", "export", model, "--format", "gguf", "--dtype", kind, "--out", path)
    reader = gguf.GGUFReader(path)
    keys = {name: field.contents() for name, field in reader.fields.items() if not name.startswith("GGUF.")}
    check_vocabulary(model, keys)
    found = {key: value for key, value in keys.items() if key not in ("tokenizer.ggml.tokens", "tokenizer.ggml.scores", "tokenizer.ggml.token_type")}
    wanted = {key: float(numpy.float32(value)) if isinstance(value, float) else value for key, value in expected_keys(model, config, kind).items()}
    assert found == wanted, set(found.items()) ^ set(wanted.items())
    wanted = expected_tensors(model, config)
    assert {t.name for t in reader.tensors} == set(wanted), {t.name for t in reader.tensors} ^ set(wanted)
    for tensor in reader.tensors:
        values = wanted[tensor.name]
        type = TYPES[kind] if values.ndim == 2 else Type.F32
        if type == Type.Q8_0 and values.shape[-1] % 32:
            type = Type.F16
        assert tensor.tensor_type == type, (tensor.name, tensor.tensor_type, type)
        assert tensor.data_offset % 32 == 0 and tuple(tensor.shape.tolist()) == values.shape[::-1], tensor
        same = numpy.array_equal(tensor.data.view(numpy.uint8).ravel(), gguf.quantize(values, type).view(numpy.uint8).ravel())
        assert same, f"{tensor.name} has other bytes than gguf.quantize gives"
    return len(wanted)


def check(basin, model, kinds, scratch):
    config = json.loads((model / "config.json").read_text())
    for kind in kinds:
        count = check_file(basin, model, config, kind, scratch)
    return f"{count} tensors in {', '.join(kinds)}"


def untrained(basin, data, settings, scratch):
    """After one step: nothing is 0 or 1 any more."""
    run = train(basin, data, scratch / "run", **{"train__steps": 1, "train__schedule__warmup_steps": 0, "train__precision": "fp32"} | settings)
    return run / "final"


def main():
    arguments = arguments_of(__doc__, CASES).parse_args()
    basin = arguments.basin
    torch.set_num_threads(1)

    def case(name, data):
        settings = CASES[name]
        if settings is None:
            return name, lambda scratch: check(basin, GOLDEN / name.replace("trained", "sink-effect"), list(TYPES), scratch)
        return name, lambda scratch: check(basin, untrained(basin, data, settings, scratch), ["f32", "q8_0"], scratch)

    with tempfile.TemporaryDirectory() as folder:
        data = prepare(basin, pathlib.Path(folder))
        return run_checks(case(name, data) for name in arguments.only)


if __name__ == "__main__":
    sys.exit(main())
