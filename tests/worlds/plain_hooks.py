"""Ablation and patching with plain torch hooks: what planted truths are measured with, independent of the package."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor

from conceptlab.worlds.planted import PlantedWorld


def tokens(world: PlantedWorld, texts: Sequence[str]) -> dict[str, Tensor]:
    return dict(world.tokenizer(list(texts), return_tensors="pt", padding=True))


def blocks(model) -> torch.nn.ModuleList:
    return model.transformer.h if hasattr(model, "transformer") else model.model.layers


def out_projection(model, layer: int) -> torch.nn.Module:
    block = blocks(model)[layer]
    return block.attn.c_proj if hasattr(block, "attn") else block.self_attn.o_proj


def down_projection(model, layer: int) -> torch.nn.Module:
    mlp = blocks(model)[layer].mlp
    return mlp.c_proj if hasattr(mlp, "c_proj") else mlp.down_proj


@contextmanager
def pre_hooks(*pairs: tuple[torch.nn.Module, Callable[[Tensor], Tensor | None]]) -> Iterator[None]:
    """Pass the input of each module through a function; None leaves it."""
    with ExitStack() as stack:
        for module, change in pairs:

            def hook(_module, args, change=change):
                changed = change(args[0])
                return None if changed is None else (changed, *args[1:])

            stack.callback(module.register_forward_pre_hook(hook).remove)
        yield


@contextmanager
def out_hooks(*pairs: tuple[torch.nn.Module, Callable[[Tensor], Tensor | None]]) -> Iterator[None]:
    """Pass the output of each module (the first of a tuple) through a function; None leaves it."""
    with ExitStack() as stack:
        for module, change in pairs:

            def hook(_module, _args, output, change=change):
                if isinstance(output, tuple):
                    changed = change(output[0])
                    return None if changed is None else (changed, *output[1:])
                return change(output)

            stack.callback(module.register_forward_hook(hook).remove)
        yield


@torch.no_grad()
def last_logits(world: PlantedWorld, texts: Sequence[str]) -> Tensor:
    """Logits [row, d_vocab] after the last real token."""
    batch = tokens(world, texts)
    last = batch["attention_mask"].sum(-1) - 1
    return world.model(**batch).logits[torch.arange(len(last)), last]


def record(world: PlantedWorld, texts: Sequence[str], modules: Sequence[torch.nn.Module]) -> list[Tensor]:
    """The input of each module over the texts."""
    seen: list[Tensor] = []
    with pre_hooks(*((module, lambda x: seen.append(x.detach().clone())) for module in modules)):
        last_logits(world, texts)
    return seen


def stream(world: PlantedWorld, texts: Sequence[str]) -> Tensor:
    """The stream at the last real token, [row, embed and layers, d_model]."""
    batch = tokens(world, texts)
    last = batch["attention_mask"].sum(-1) - 1
    seen: list[Tensor] = []
    pairs = [(block, lambda x: seen.append(x)) for block in blocks(world.model)]
    with pre_hooks(pairs[0]), out_hooks(*pairs), torch.no_grad():
        world.model(**batch)
    return torch.stack([x[torch.arange(len(last)), last] for x in seen], 1)


def patched_head(model, layer: int, head: int, value: Tensor | float):
    """Set one head's z to a tensor [row, pos, d_model] of all heads, or to a number."""
    d_head = model.config.hidden_size // model.config.num_attention_heads
    here = slice(head * d_head, (head + 1) * d_head)

    def change(z: Tensor) -> Tensor:
        z = z.clone()
        z[..., here] = value[..., here] if isinstance(value, Tensor) else value
        return z

    return pre_hooks((out_projection(model, layer), change))


def all_heads(model) -> list[tuple[str, int, int]]:
    n_layers, n_heads = model.config.num_hidden_layers, model.config.num_attention_heads
    return [(f"L{layer}.H{head}", layer, head) for layer in range(n_layers) for head in range(n_heads)]


def logit_diff(logits: Tensor, right: Sequence[int], wrong: Sequence[int]) -> Tensor:
    rows = torch.arange(len(logits))
    return logits[rows, torch.tensor(right)] - logits[rows, torch.tensor(wrong)]


def patch_effects(world: PlantedWorld, into: str, source: str, metric: Callable[[Tensor], Tensor]) -> dict[str, float]:
    """Normalised effect of each head's z from `source` in a run of `into`: 0 as `into` alone, 1 as `source` alone."""
    model = world.model
    n_layers = model.config.num_hidden_layers
    zs = record(world, world.prompts[source], [out_projection(model, layer) for layer in range(n_layers)])
    here, there = (metric(last_logits(world, world.prompts[name])).mean() for name in (into, source))
    effects = {}
    for name, layer, head in all_heads(model):
        with patched_head(model, layer, head, zs[layer]):
            moved = metric(last_logits(world, world.prompts[into])).mean()
        effects[name] = float((here - moved) / (here - there))
    return effects


def patterns(world: PlantedWorld, texts: Sequence[str]) -> Tensor:
    """Attention patterns [layer, row, head, query_pos, key_pos] by the eager path."""
    before = world.model.config._attn_implementation
    world.model.set_attn_implementation("eager")
    with torch.no_grad():
        found = world.model(**tokens(world, texts), output_attentions=True).attentions
    world.model.set_attn_implementation(before)
    return torch.stack(found)


def accuracy(world: PlantedWorld, family: str = "clean") -> float:
    found = last_logits(world, world.prompts[family]).argmax(-1)
    return float((found == torch.tensor(world.answer_ids(family))).float().mean())
