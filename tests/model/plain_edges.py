"""Circuits run the slow way: a recursion over nodes for GPT-2 and Llama, and single edges by hooks on the modules of six types."""

from collections.abc import Callable
from contextlib import ExitStack

import torch
from torch import Tensor, nn


class Plain:
    """One row pair of a GPT-2 or Llama model: what every node writes under a set of (sender, receiver) edges, node by node."""

    def __init__(self, module: nn.Module, clean: list[int], corrupted: list[int]) -> None:
        self.module, self.gpt2 = module, hasattr(module, "transformer")
        config = module.config
        self.n_layers, self.n_heads = config.num_hidden_layers, config.num_attention_heads
        self.n_kv = getattr(config, "num_key_value_heads", self.n_heads) or self.n_heads
        self.d_head = config.hidden_size // self.n_heads
        self.blocks = module.transformer.h if self.gpt2 else module.model.layers
        self.embedded = {name: self._embed(ids) for name, ids in (("clean", clean), ("corrupted", corrupted))}
        self.corrupted: dict[str, Tensor] = {}
        self.corrupted = self.run(None, "corrupted")[1]

    def _embed(self, ids: list[int]) -> Tensor:
        if self.gpt2:
            return self.module.transformer.wte.weight[ids] + self.module.transformer.wpe.weight[: len(ids)]
        return self.module.model.embed_tokens.weight[ids]

    @torch.no_grad()
    def run(self, edges: set[tuple[str, str]] | None, which: str = "clean") -> tuple[Tensor, dict[str, Tensor]]:
        """Logits [pos, vocab] and what each sender wrote; edges None: every edge carries what its sender writes."""
        made = {"embed": self.embedded[which]}
        bias = torch.zeros_like(made["embed"])

        def reads(receiver: str) -> Tensor:
            total = bias.clone()
            for sender, out in made.items():
                total += out if edges is None or (sender, receiver) in edges else self.corrupted[sender]
            return total

        for layer, block in enumerate(self.blocks):
            before = dict(made)
            for head in range(self.n_heads):
                kv = head * self.n_kv // self.n_heads
                kept, made = made, before
                q = self._project(layer, "q", head, reads(f"L{layer}.H{head}.q"))
                k = self._project(layer, "k", kv, reads(f"L{layer}.H{kv}.k"))
                v = self._project(layer, "v", kv, reads(f"L{layer}.H{kv}.v"))
                made = kept
                scores = (q @ k.T / self.d_head**0.5).masked_fill(torch.ones(len(q), len(q)).triu(1).bool(), -torch.inf)
                made = {**made, f"L{layer}.H{head}": scores.softmax(-1) @ v @ self._w_o(layer, head)}
            if self.gpt2:
                bias = bias + block.attn.c_proj.bias
            norm = block.ln_2 if self.gpt2 else block.post_attention_layernorm
            made = {**made, f"L{layer}.mlp": block.mlp(norm(reads(f"L{layer}.mlp"))[None])[0]}
        final = self.module.transformer.ln_f if self.gpt2 else self.module.model.norm
        return self.module.lm_head(final(reads("logits"))), made

    def _project(self, layer: int, part: str, head: int, x: Tensor) -> Tensor:
        block, here = self.blocks[layer], slice(head * self.d_head, (head + 1) * self.d_head)
        if self.gpt2:
            start = "qkv".index(part) * self.n_heads * self.d_head
            return block.attn.c_attn(block.ln_1(x))[:, start:][:, here]
        out = getattr(block.self_attn, f"{part}_proj")(block.input_layernorm(x))[:, here]
        if part == "v":
            return out
        cos, sin = self.module.model.rotary_emb(out[None], torch.arange(len(x))[None])
        half = self.d_head // 2
        turned = torch.cat([-out[:, half:], out[:, :half]], -1)
        return out * cos[0] + turned * sin[0]

    def _w_o(self, layer: int, head: int) -> Tensor:
        block, here = self.blocks[layer], slice(head * self.d_head, (head + 1) * self.d_head)
        return block.attn.c_proj.weight[here] if self.gpt2 else block.self_attn.o_proj.weight[:, here].T


BEFORE_MLP = {"gemma2": "pre_feedforward_layernorm", "olmo2": "mlp"}


def patched_logits(module: nn.Module, kind: str, ids: Tensor, receiver: str, change: Tensor) -> Tensor:
    """Logits [row, pos, vocab] where one receiver of layer 1 reads its stream plus `change` [row, pos, d_model], by plain hooks.

    A norm of the attention's own output (Gemma-2, OLMo-2) multiplies by what it multiplied in the clean run.
    """
    layers = module.gpt_neox.layers if kind == "gpt_neox" else module.model.layers
    block, part = layers[1], receiver.rsplit(".", 1)[1]
    with ExitStack() as stack, torch.no_grad():
        held: list[Tensor] = []
        if kind in BEFORE_MLP:
            norm, factor = block.post_attention_layernorm, _factor(module, block, ids)
            stack.callback(norm.register_forward_hook(lambda _, args, _out: args[0] * factor).remove)
        stack.callback(block.register_forward_pre_hook(lambda _, args: held.append(args[0])).remove)
        if part == "mlp":
            target = getattr(block, BEFORE_MLP.get(kind, "post_attention_layernorm"))
            stack.callback(target.register_forward_pre_hook(lambda _, args: (args[0] + change,)).remove)
        else:
            target, again, here = _projection(block, kind, receiver, part)

            def replace(_module: nn.Module, _args: tuple, out: Tensor) -> Tensor | None:
                if len(held) > 1:  # the call inside `again`
                    return None
                held.append(held[0])
                new = out.clone()
                new[..., here] = again(held[0] + change)[..., here]
                return new

            stack.callback(target.register_forward_hook(replace).remove)
        return module(input_ids=ids, use_cache=False).logits


def _factor(module: nn.Module, block: nn.Module, ids: Tensor) -> Tensor:
    """What the norm of the attention's output multiplies by, element by element, in a plain run."""
    seen: list[Tensor] = []
    handle = block.post_attention_layernorm.register_forward_hook(lambda _, args, out: seen.append(out / args[0]))
    module(input_ids=ids, use_cache=False)
    handle.remove()
    return seen[0]


def _projection(
    block: nn.Module, kind: str, receiver: str, part: str
) -> tuple[nn.Module, Callable[..., Tensor], slice]:
    head = int(receiver.split(".")[1][1:])
    if kind == "gpt_neox":
        width = block.attention.head_size
        start = head * 3 * width + "qkv".index(part) * width
        target = block.attention.query_key_value
        return target, lambda x: target(block.input_layernorm(x)), slice(start, start + width)
    projection, width = getattr(block.self_attn, f"{part}_proj"), block.self_attn.head_dim
    here = slice(head * width, (head + 1) * width)
    if kind == "olmo2":  # no norm before; q and k are normed over all heads together
        if part == "v":
            return projection, projection, here
        norm = getattr(block.self_attn, f"{part}_norm")
        return norm, lambda x: norm(projection(x)), here
    return projection, lambda x: projection(block.input_layernorm(x)), here
