"""StreamingLLM (arXiv 2309.17453) to the letter, one token at a time, on the weights of a transformers model. A cache holds the first S entries of
the stream and the R = C - S most recent ones: keys before any rotation, and values. A step attends to what the cache holds (C entries at most)
and to itself; each key stands at its place in the cache, 0, 1, .., and the query behind them. Then the oldest of the R leaves.
Norms, linear layers and MLPs are transformers' own modules; how they are joined is checked against transformers' forward pass (streaming.py)."""

import math

import torch
from transformers.models.falcon.modeling_falcon import build_alibi_tensor
from transformers.models.mpt.modeling_mpt import build_mpt_alibi_tensor


def fused(rows, groups, heads):
    """Rows (B, ..) that hold H/G query heads, a key head and a value head for each of G groups, as (B, H, K), (B, G, K), (B, G, K)."""
    x = rows.view(rows.size(0), groups, heads // groups + 2, -1)
    return x[:, :, :-2].flatten(1, 2), x[:, :, -2], x[:, :, -1]


class LlamaBlock:   # Llama, Mistral, Qwen2
    def __init__(self, layer, config):
        self.layer = layer
        self.attention, self.groups, self.heads = layer.self_attn, config.num_key_value_heads, config.num_attention_heads

    def qkv(self, x):
        """Residual stream (B, D) -> q (B, H, K), k and v (B, G, K)."""
        x = self.layer.input_layernorm(x)
        return tuple(project(x).view(x.size(0), heads, -1) for project, heads in (
            (self.attention.q_proj, self.heads), (self.attention.k_proj, self.groups), (self.attention.v_proj, self.groups)))

    def close(self, x, attended):
        """The residual stream behind the block, from that before it and attention's output (B, H K)."""
        x = x + self.attention.o_proj(attended)
        return x + self.layer.mlp(self.layer.post_attention_layernorm(x))


class NeoxBlock:
    def __init__(self, layer, config):
        self.layer, self.heads, self.parallel = layer, config.num_attention_heads, config.use_parallel_residual

    def qkv(self, x):
        return fused(self.layer.attention.query_key_value(self.layer.input_layernorm(x)), self.heads, self.heads)

    def close(self, x, attended):
        attended = self.layer.attention.dense(attended) + x
        return attended + self.layer.mlp(self.layer.post_attention_layernorm(x if self.parallel else attended))


class MptBlock:
    def __init__(self, layer, config):
        self.layer, self.heads = layer, config.n_heads

    def qkv(self, x):
        return tuple(self.layer.attn.Wqkv(self.layer.norm_1(x)).view(x.size(0), 3, self.heads, -1).unbind(1))

    def close(self, x, attended):
        x = x + self.layer.attn.out_proj(attended)
        return self.layer.ffn(self.layer.norm_2(x), x)   # adds x itself


class FalconBlock:
    def __init__(self, layer, config):
        self.layer, self.config, self.heads = layer, config, config.num_attention_heads
        self.groups = config.num_kv_heads if config.new_decoder_architecture else 1 if config.multi_query else self.heads
        self.two_norms = hasattr(layer, "ln_attn")

    def qkv(self, x):
        norm = self.layer.ln_attn if self.two_norms else self.layer.input_layernorm
        return fused(self.layer.self_attention.query_key_value(norm(x)), self.groups, self.heads)

    def close(self, x, attended):
        layer = self.layer
        attended = layer.self_attention.dense(attended) + x
        if not self.config.new_decoder_architecture and not self.config.parallel_attn:
            return attended + layer.mlp(layer.post_attention_layernorm(attended))
        return attended + layer.mlp((layer.ln_mlp if self.two_norms else layer.input_layernorm)(x))


class Model:
    """The parts of a transformers model under one set of names."""

    def __init__(self, model):
        config, body = model.config, model.base_model
        kind = config.model_type
        self.embedding, self.head = model.get_input_embeddings(), model.get_output_embeddings()
        block, layers, norm = {"gpt_neox": (NeoxBlock, "layers", "final_layer_norm"), "mpt": (MptBlock, "blocks", "norm_f"),
                               "falcon": (FalconBlock, "h", "ln_f")}.get(kind, (LlamaBlock, "layers", "norm"))
        self.blocks = [block(layer, config) for layer in getattr(body, layers)]
        self.norm = getattr(body, norm)
        alibi = kind == "mpt" or getattr(config, "alibi", False)
        self.frequencies = None if alibi else body.rotary_emb.inv_freq.double()

    def bias(self, heads, head_size, places):
        """What ALiBi adds to the scores of keys at places 0 .. places - 1 of a cache, (H, places); None without ALiBi."""
        if self.frequencies is not None:
            return None
        if isinstance(self.blocks[0], MptBlock):
            return build_mpt_alibi_tensor(heads, places)[:, 0].double()
        return build_alibi_tensor(torch.ones(1, places, dtype=torch.long), heads, torch.float64).view(heads, places) / math.sqrt(head_size)


def rotate(x, places, frequencies):
    """x (.., K) at `places` (..): the first 2 F of the K dimensions turn, in pairs (i, i + F), by place * frequency."""
    angles = places.double().unsqueeze(-1) * frequencies
    cos, sin, size = angles.cos(), angles.sin(), frequencies.numel()
    a, b, rest = x[..., :size], x[..., size:2 * size], x[..., 2 * size:]
    return torch.cat([a * cos - b * sin, b * cos + a * sin, rest], -1)


class Stream:
    """B caches at once, each of its own C and S. A cache is the list of positions in the stream that it holds, in order; keys and values of a
    position are kept in a column of their own and are only read where that list says so."""

    def __init__(self, model, shapes, tokens):
        """`shapes`: (C, S) of each cache; `tokens`: the most that will be fed."""
        self.model, self.shapes = Model(model), shapes
        self.held = [[] for _ in shapes]
        q, k, _ = self.model.blocks[0].qkv(self.model.embedding(torch.zeros(1, dtype=torch.long)))
        heads, groups, size = q.size(1), k.size(1), k.size(2)
        self.keys, self.values = torch.zeros(2, len(self.model.blocks), len(shapes), tokens, groups, size, dtype=q.dtype)
        self.alibi = self.model.bias(heads, size, min(tokens, max(C for C, _ in shapes) + 1))

    def attend(self, layer, q, k, v, position, seen):
        """q (B, H, K), k and v (B, G, K) of the newest token -> (B, H K). `seen` (B, n): positions in the stream of all that is attended to,
        in the order of the cache, the token itself last; -1 behind the end."""
        self.keys[layer, :, position], self.values[layer, :, position] = k, v
        row, places = torch.arange(len(seen)).unsqueeze(1), torch.arange(seen.size(1))
        keys, values = (memory[layer][row, seen.clamp(min=0)].transpose(1, 2) for memory in (self.keys, self.values))   # (B, G, n, K)
        own_place = (seen >= 0).sum(1) - 1
        if self.model.frequencies is not None:
            keys = rotate(keys, places, self.model.frequencies)
            q = rotate(q, own_place.unsqueeze(1), self.model.frequencies)
        q = q.view(len(seen), k.size(1), -1, k.size(2))   # query head g * (H / G) + j reads key head g
        scores = (q @ keys.transpose(2, 3)).flatten(1, 2) / math.sqrt(k.size(2))   # (B, H, n)
        if self.alibi is not None:
            scores = scores + self.alibi[:, :seen.size(1)]
        scores = scores.masked_fill((seen < 0).unsqueeze(1), -math.inf)
        weights = scores.softmax(-1).view(len(seen), k.size(1), -1, seen.size(1))
        return (weights @ values).flatten(1)

    @torch.no_grad()
    def step(self, position, token):
        """The token at `position` goes through the model: logits (B, V)."""
        for held in self.held:
            held.append(position)
        longest = max(map(len, self.held))
        seen = torch.tensor([held + [-1] * (longest - len(held)) for held in self.held])
        x = self.model.embedding(torch.full((len(self.held),), token))
        for layer, block in enumerate(self.model.blocks):
            x = block.close(x, self.attend(layer, *block.qkv(x), position, seen))
        for held, (C, S) in zip(self.held, self.shapes):
            if len(held) > C:
                del held[S]
        return self.model.head(self.model.norm(x))


def nll(model, shapes, tokens):
    """nll of tokens[1:] for each (C, S) of `shapes`: (len(shapes), N - 1)."""
    stream = Stream(model, shapes, len(tokens) - 1)
    losses = [-stream.step(t, tokens[t]).log_softmax(-1)[:, tokens[t + 1]] for t in range(len(tokens) - 1)]
    return torch.stack(losses, 1)
