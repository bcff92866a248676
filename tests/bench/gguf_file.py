"""A Llama directory in Hugging Face layout as a GGUF file without a vocabulary, for llama.cpp in benchmarks."""

import json
import pathlib

import gguf
import numpy as np
import torch
from safetensors.torch import load_file

# transformers' names -> GGUF's
MODULES = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
}


def gguf_name(name):
    outer = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight", "lm_head.weight": "output.weight"}
    if name in outer:
        return outer[name]
    _, _, layer, module = name.split(".", 3)
    return f"blk.{layer}.{MODULES[module.removesuffix('.weight')]}.weight"


def interleaved(weight, heads):
    """llama.cpp rotates neighbouring pairs, transformers' halves: rows of each head change places."""
    rows, columns = weight.shape
    return weight.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)


def write_gguf(directory, path, weight_type):
    """weight_type: a gguf.GGMLQuantizationType for the matrices; norms stay fp32."""
    directory = pathlib.Path(directory)
    config = json.loads((directory / "config.json").read_text())
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_rope_dimension_count(config["head_dim"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_tokenizer_model("none")
    for name, tensor in load_file(directory / "model.safetensors").items():
        data = tensor.to(torch.float32).numpy()
        if "q_proj" in name or "k_proj" in name:
            data = interleaved(data, heads if "q_proj" in name else kv_heads)
        kind = weight_type if data.ndim == 2 else gguf.GGMLQuantizationType.F32
        writer.add_tensor(gguf_name(name), gguf.quantize(np.ascontiguousarray(data), kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
