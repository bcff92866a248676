"""Streaming perplexity with transformers, one token a forward pass over a cache that is cut after each; distances are those in the cache
(StreamingLLM, arXiv 2309.17453). Two methods: "reference" is the paper's (keys are cached unrotated, and every step rotates all of them at
their places in the cache); "lean" caches rotated keys and only rotates the sinks' again, since inside the recent part distances in the cache are
true distances. A worker: one JSON command a line on stdin, one JSON answer a line on stdout."""

import json
import sys
import time

import torch
from transformers import AutoModelForCausalLM
from transformers.cache_utils import DynamicCache
from transformers.models.llama.modeling_llama import LlamaAttention


def rotate(x, angle):  # (1, G, S, K), (K / 2)
    return rotate_at(x, angle.cos().to(x.dtype), angle.sin().to(x.dtype))


def rotate_at(x, cos, sin):
    half = x.size(-1) // 2
    a, b = x[..., :half], x[..., half:]
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)


def attend_unrotated(self, hidden_states, past_key_values, cos, sin):
    """The paper's way: everything is rotated at its place in the cache, the query at the newest."""
    B, T, _ = hidden_states.shape
    q, k, v = (p(hidden_states).view(B, T, -1, self.head_dim).transpose(1, 2) for p in (self.q_proj, self.k_proj, self.v_proj))
    k, v = past_key_values.update(k, v, self.layer_idx)
    n = k.size(2)
    q, k = rotate_at(q, cos[n - 1:n], sin[n - 1:n]), rotate_at(k, cos[:n], sin[:n])
    y = torch.nn.functional.scaled_dot_product_attention(q, k, v, enable_gqa=q.size(1) != k.size(1))
    return self.o_proj(y.transpose(1, 2).reshape(B, T, -1)), None


class Stream:
    def __init__(self, command):
        torch.set_num_threads(command["threads"])
        self.lean = command["method"] == "lean"
        dtype = torch.bfloat16 if command["dtype"] == "bfloat16" else torch.float32
        self.model = AutoModelForCausalLM.from_pretrained(command["directory"], dtype=dtype, attn_implementation="sdpa").eval()
        self.sinks, self.entries = command["sinks"], command["cache"]
        self.ids = torch.tensor(command["ids"])
        config = self.model.config
        size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        theta = config.rope_parameters["rope_theta"]
        self.frequency = theta ** (-torch.arange(0, size, 2, dtype=torch.float64) / size)
        if not self.lean:
            angle = torch.outer(torch.arange(self.entries + 2, dtype=torch.float64), self.frequency)
            cos, sin = angle.cos().to(dtype), angle.sin().to(dtype)
            LlamaAttention.forward = lambda attention, hidden_states, past_key_values=None, **_: attend_unrotated(
                attention, hidden_states, past_key_values, cos, sin)
        self.cache, self.position = DynamicCache(), 0
        self.losses = []

    @torch.inference_mode()
    def step(self):
        out = self.model(self.ids[self.position].view(1, 1), past_key_values=self.cache, use_cache=True,
                         position_ids=torch.tensor([[self.position]]))
        self.losses.append(torch.nn.functional.cross_entropy(out.logits[0].float(), self.ids[self.position + 1].view(1)).item())
        self.position += 1
        for layer in self.cache.layers:
            length = layer.keys.size(2)
            if length > self.entries:
                cut = length - self.entries
                sinks = layer.keys[:, :, :self.sinks]
                layer.keys = torch.cat([rotate(sinks, self.frequency * cut) if self.lean else sinks, layer.keys[:, :, self.sinks + cut:]], 2)
                layer.values = torch.cat([layer.values[:, :, :self.sinks], layer.values[:, :, self.sinks + cut:]], 2)


def main():
    stream = None
    for line in sys.stdin:
        command = json.loads(line)
        if command["do"] == "open":
            stream = Stream(command)
            answer = {}
        else:
            start = time.perf_counter()
            for _ in range(command["steps"]):
                stream.step()
            answer = {"seconds": time.perf_counter() - start, "losses": stream.losses[-command["steps"]:]}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
