"""The alternative that a PyTorch user would write: a lean decoder of both families that loads Basin's checkpoints, trained with fused AdamW.
Run as a worker it takes turns with other programs: one JSON command a line on stdin, one JSON answer a line on stdout."""

import json
import sys
import time

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn


class Rotary(nn.Module):
    def __init__(self, size, theta, positions):
        super().__init__()
        frequency = theta ** (-torch.arange(0, size, 2, dtype=torch.float64) / size)
        angle = torch.outer(torch.arange(positions, dtype=torch.float64), frequency)
        self.register_buffer("cos", angle.cos().float(), persistent=False)
        self.register_buffer("sin", angle.sin().float(), persistent=False)
        self.size = size

    def forward(self, x):  # (B, H, T, K)
        T, half = x.size(2), self.size // 2
        cos, sin = self.cos[:T].to(x.dtype), self.sin[:T].to(x.dtype)
        a, b, rest = x[..., :half], x[..., half:self.size], x[..., self.size:]
        return torch.cat([a * cos - b * sin, b * cos + a * sin, rest], -1)


class RMSNorm(nn.Module):
    def __init__(self, size, eps):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(size)), eps

    def forward(self, x):
        return F.rms_norm(x, (x.size(-1),), self.weight.to(x.dtype), self.eps)


class Block(nn.Module):
    def __init__(self, c, rotary):
        super().__init__()
        self.llama = c["model_type"] == "llama"
        D, inner = c["hidden_size"], c["intermediate_size"]
        self.H, self.G = c["num_attention_heads"], c.get("num_key_value_heads") or c["num_attention_heads"]
        self.K = c.get("head_dim") or D // self.H
        bias = not self.llama
        norm = (lambda: RMSNorm(D, c["rms_norm_eps"])) if self.llama else (lambda: nn.LayerNorm(D, c["layer_norm_eps"]))
        self.attention_norm, self.mlp_norm = norm(), norm()
        self.qkv = nn.Linear(D, (self.H + 2 * self.G) * self.K, bias)
        self.out = nn.Linear(self.H * self.K, D, bias)
        self.up = nn.Linear(D, 2 * inner if self.llama else inner, bias)
        self.down = nn.Linear(inner, D, bias)
        self.rotary = [rotary]  # not a submodule of each block
        self.parallel = not self.llama and c.get("use_parallel_residual", True)

    def attend(self, x):
        B, T, _ = x.shape
        q, k, v = self.qkv(x).split([self.H * self.K, self.G * self.K, self.G * self.K], -1)
        q, k, v = (t.view(B, T, -1, self.K).transpose(1, 2) for t in (q, k, v))
        y = F.scaled_dot_product_attention(self.rotary[0](q), self.rotary[0](k), v, is_causal=True, enable_gqa=self.H != self.G)
        return self.out(y.transpose(1, 2).reshape(B, T, -1))

    def mlp(self, x):
        x = self.up(x)
        if self.llama:
            gate, up = x.chunk(2, -1)
            return self.down(F.silu(gate) * up)
        return self.down(F.gelu(x))

    def forward(self, x):
        if self.parallel:
            return x + self.attend(self.attention_norm(x)) + self.mlp(self.mlp_norm(x))
        x = x + self.attend(self.attention_norm(x))
        return x + self.mlp(self.mlp_norm(x))


class Decoder(nn.Module):
    def __init__(self, c, positions):
        super().__init__()
        K = c.get("head_dim") or c["hidden_size"] // c["num_attention_heads"]
        share = c.get("rotary_pct", 1.0) if c["model_type"] == "gpt_neox" else 1.0
        self.config = c
        self.rotary = Rotary(int(K * share), c.get("rope_theta") or c["rotary_emb_base"], positions)
        self.embedding = nn.Embedding(c["vocab_size"], c["hidden_size"])
        self.blocks = nn.ModuleList(Block(c, self.rotary) for _ in range(c["num_hidden_layers"]))
        llama = c["model_type"] == "llama"
        self.final_norm = RMSNorm(c["hidden_size"], c["rms_norm_eps"]) if llama else nn.LayerNorm(c["hidden_size"], c["layer_norm_eps"])
        self.head = nn.Linear(c["hidden_size"], c["vocab_size"], bias=False)
        if c.get("tie_word_embeddings"):
            self.head.weight = self.embedding.weight

    def forward(self, ids, targets, sinks):
        x = self.embedding(ids)
        for block in self.blocks:
            x = block(x)
        logits = self.head(self.final_norm(x)[:, sinks:])
        return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())

    def load(self, directory):
        w = load_file(f"{directory}/model.safetensors")
        w = {k: v.float() for k, v in w.items()}
        state = {}
        if self.config["model_type"] == "llama":
            state["embedding.weight"], state["final_norm.weight"], state["head.weight"] = (
                w["model.embed_tokens.weight"], w["model.norm.weight"], w["lm_head.weight"])
            for i in range(len(self.blocks)):
                at, to = f"model.layers.{i}.", f"blocks.{i}."
                state[to + "qkv.weight"] = torch.cat([w[at + f"self_attn.{x}_proj.weight"] for x in "qkv"])
                state[to + "out.weight"] = w[at + "self_attn.o_proj.weight"]
                state[to + "up.weight"] = torch.cat([w[at + "mlp.gate_proj.weight"], w[at + "mlp.up_proj.weight"]])
                state[to + "down.weight"] = w[at + "mlp.down_proj.weight"]
                state[to + "attention_norm.weight"] = w[at + "input_layernorm.weight"]
                state[to + "mlp_norm.weight"] = w[at + "post_attention_layernorm.weight"]
        else:
            state["embedding.weight"] = w["gpt_neox.embed_in.weight"]
            state["head.weight"] = w.get("embed_out.weight", state["embedding.weight"])  # absent when tied
            names = {"attention.dense": "out", "mlp.dense_h_to_4h": "up", "mlp.dense_4h_to_h": "down",
                     "input_layernorm": "attention_norm", "post_attention_layernorm": "mlp_norm"}
            for kind in ("weight", "bias"):
                state[f"final_norm.{kind}"] = w[f"gpt_neox.final_layer_norm.{kind}"]
                for i, block in enumerate(self.blocks):
                    at, to = f"gpt_neox.layers.{i}.", f"blocks.{i}."
                    for theirs, ours in names.items():
                        state[f"{to}{ours}.{kind}"] = w[f"{at}{theirs}.{kind}"]
                    qkv = w[f"{at}attention.query_key_value.{kind}"]  # on disk by head: q, k, v
                    state[f"{to}qkv.{kind}"] = qkv.reshape(block.H, 3, block.K, *qkv.shape[1:]).transpose(0, 1).reshape(qkv.shape)
        missing, unexpected = self.load_state_dict(state, strict=False)
        assert not missing and not unexpected, (missing, unexpected)


class Trainer:
    """AdamW as Basin's configuration has it, one step a call."""

    def __init__(self, command):
        self.autocast = command["precision"] == "bf16"
        self.device = command.get("device", "cpu")
        torch.set_float32_matmul_precision("high")
        self.sinks = torch.tensor(command["sink_ids"], dtype=torch.long, device=self.device)
        config = json.load(open(f"{command['directory']}/config.json"))
        import numpy as np
        batches = np.load(f"{command['directory']}/batches.npy")
        self.batches = torch.from_numpy(batches).long().view(-1, command["global_batch"], batches.shape[1]).to(self.device)
        self.micro = command["micro_batch"]
        model = Decoder(config, batches.shape[1] + len(self.sinks))
        model.load(command["directory"])
        model.to(self.device)
        self.parameters = list(model.parameters())
        o = command["optimizer"]
        groups = [{"params": [p for p in self.parameters if p.dim() >= 2], "weight_decay": o["weight_decay"]},
                  {"params": [p for p in self.parameters if p.dim() < 2], "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=0.0, betas=tuple(o["betas"]), eps=o["eps"], fused=True)
        self.clip, self.lrs = o["clip"], command["lrs"]
        mode = command["compile"]  # null: eager
        self.forward = torch.compile(model, mode=mode) if mode else model
        # CUDA graphs write where they wrote before: gradients stay in memory of their own.
        self.keeps_gradients = mode == "reduce-overhead"
        if self.keeps_gradients:
            for p in self.parameters:
                p.grad = torch.zeros_like(p)
        self.done = 0

    def step(self):
        batch = self.batches[self.done % len(self.batches)]
        for group in self.optimizer.param_groups:
            group["lr"] = self.lrs[min(self.done, len(self.lrs) - 1)]
        parts = batch.split(self.micro)
        total = torch.zeros((), device=self.device)
        for samples in parts:
            ids = torch.cat([self.sinks.expand(len(samples), -1), samples[:, :-1]], 1)
            if self.keeps_gradients:
                torch.compiler.cudagraph_mark_step_begin()
            with torch.autocast(self.device, torch.bfloat16, enabled=self.autocast):
                loss = self.forward(ids, samples[:, 1:], len(self.sinks))
            (loss / len(parts)).backward()
            total += loss.detach() / len(parts)
        if self.clip > 0:
            nn.utils.clip_grad_norm_(self.parameters, self.clip, foreach=True)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=not self.keeps_gradients)
        self.done += 1
        return total.item()  # waits for the step


def main():
    trainer = None
    for line in sys.stdin:
        command = json.loads(line)
        if command["do"] == "train":
            torch.set_num_threads(command["threads"])
            trainer = Trainer(command)
            answer = {}
        else:
            start = time.perf_counter()
            losses = [trainer.step() for _ in range(command["steps"])]
            answer = {"seconds": time.perf_counter() - start, "losses": losses}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
