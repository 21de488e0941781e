"""Values read with plain hooks that know nothing of the engine: modules are picked by the names that modeling files use."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

# Leaf names of modules whose input or output is a site, and the paths they must and must not lie on.
OUTPUT_PROJECTIONS = re.compile(r"(^|\.)(o_proj|out_proj|c_proj|dense|wo|o|out_lin|proj|Wo|dense_o)$")
DOWN_PROJECTIONS = re.compile(r"(^|\.)(down_proj|c_proj|fc2|dense_4h_to_h|w2|wo|fc_out|lin2|output\.dense|proj_out)$")
GATES = re.compile(r"(^|\.)(gate_proj|w1|wi_0)$")
UPS = re.compile(r"(^|\.)(up_proj|w3|wi_1)$")
SINGLES = re.compile(r"(^|\.)(fc1|c_fc|dense_h_to_4h|fc_in|intermediate\.dense|lin1|up_proj)$")
ATTENTION = re.compile(r"attn|attention|mixer", re.IGNORECASE)
OTHER = re.compile(
    r"cross|encoder_attn|EncDec|indexer|compressor|linear_attn|mamba|lightning|rotary|router|adapter|lora",
    re.IGNORECASE,
)
EXPERTS = re.compile(r"expert|moe|shared", re.IGNORECASE)
ELSEWHERE = re.compile(r"vision|image|audio|patcher|visual|speech", re.IGNORECASE)
BLOCK_LISTS = re.compile(r"(^|\.)(layers|layer|h|blocks|block|decoder_layers|transformer)$")

Key = tuple[str, int]


def block_lists(module: nn.Module, n_layers: int) -> dict[str, nn.ModuleList]:
    """Module lists as long as the model is deep, by path, off the towers that read images or sound."""
    return {
        name: m
        for name, m in module.named_modules()
        if isinstance(m, nn.ModuleList) and len(m) == n_layers and BLOCK_LISTS.search(name)
    }


def main_blocks(module: nn.Module, n_layers: int, path: str) -> nn.ModuleList | None:
    """The list at `path` where it looks like one, else the only one off the other towers; None when unclear."""
    lists = block_lists(module, n_layers)
    if path in lists:
        return lists[path]
    lists = {name: m for name, m in lists.items() if not ELSEWHERE.search(name)}
    return next(iter(lists.values())) if len(lists) == 1 else None


MIXERS = {
    "attn_out": re.compile(r"^(self_?attn|self_?attention|attention|attn|mixer|SelfAttention|multi_head_attention)$"),
    "mixer_out": re.compile(r"^(mamba|conv|short_conv|linear_attn|temporal_block|mixer|delta|gated_delta_net)$"),
}
MLPS = re.compile(r"^(mlp|ffn|feed_?forward|ff|block_sparse_moe|moe|feed_forward_proj|DenseReluDense)$")


def sublayers(block: nn.Module) -> dict[str, nn.Module]:
    """Direct children whose names say what they are: {site of what they add: child}."""
    found: dict[str, nn.Module] = {}
    for name, child in block.named_children():
        for site, names in MIXERS.items():
            if names.match(name) and site not in found and name != "mixer":
                found[site] = child
        if MLPS.match(name) and list(child.parameters()):
            found["mlp_out"] = child
    return found


@contextmanager
def disturbed(module: nn.Module, seed: int = 0) -> Iterator[None]:
    """Noise on the first floating tensor that a module is given."""
    generator = torch.Generator().manual_seed(seed)

    def hook(_module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        given: dict[Any, Any] = {**dict(enumerate(args)), **kwargs}
        key = next(k for k, v in given.items() if isinstance(v, Tensor) and v.is_floating_point())
        noise = torch.randn(given[key].shape, generator=generator) * given[key].abs().max()
        given[key] = given[key] + noise
        return tuple(given[i] for i in range(len(args))), {k: given[k] for k in kwargs}

    handle = module.register_forward_pre_hook(hook, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def _one(block: nn.Module, fits: Callable[[str], bool]) -> nn.Module | None:
    """The only module of the block whose path fits; None when there is none or several."""
    found = [m for name, m in block.named_modules() if name and fits(name)]
    return found[0] if len(found) == 1 else None


def _attention(name: str) -> bool:
    return bool(ATTENTION.search(name)) and not OTHER.search(name)


def _mlp(name: str) -> bool:
    return not ATTENTION.search(name) and not OTHER.search(name) and not EXPERTS.search(name)


def watched(block: nn.Module) -> dict[str, tuple[nn.Module, str]]:
    """Sites of a block that module names give away: site -> (module, "input" or "output")."""
    gate = _one(block, lambda n: bool(GATES.search(n)) and _mlp(n))
    up = _one(block, lambda n: bool(UPS.search(n)) and _mlp(n))
    single = _one(block, lambda n: bool(SINGLES.search(n)) and _mlp(n)) if gate is None else None
    found = {
        "z": (_one(block, lambda n: bool(OUTPUT_PROJECTIONS.search(n)) and _attention(n)), "input"),
        "mlp_post": (_one(block, lambda n: bool(DOWN_PROJECTIONS.search(n)) and _mlp(n)), "input"),
        "mlp_pre": (single if gate is None or up is None else gate, "output"),
        "mlp_pre_linear": (None if gate is None else up, "output"),
    }
    if _holds_experts(block):
        found = {"z": found["z"]}
    return {site: (m, side) for site, (m, side) in found.items() if m is not None}


def _holds_experts(block: nn.Module) -> bool:
    return any(EXPERTS.search(name) for name, _ in block.named_modules())


def _noter(values: dict[Key, list[Tensor]], key: Key, side: str) -> Callable[..., None]:
    """A hook, for either side of a module, that keeps a copy of the first floating tensor it sees there."""

    def hook(_module: nn.Module, args: tuple, kwargs: dict, output: Any = None) -> None:
        given = (*args, *kwargs.values()) if side == "input" else output if isinstance(output, tuple) else (output,)
        found = next((t for t in given if isinstance(t, Tensor) and t.is_floating_point()), None)
        if found is not None:
            values.setdefault(key, []).append(found.detach().clone())

    return hook


def _install(module: nn.Module, side: str, hook: Callable[..., None]) -> Any:
    if side == "input":
        return module.register_forward_pre_hook(hook, with_kwargs=True)
    return module.register_forward_hook(hook, with_kwargs=True)


@contextmanager
def _recording(blocks: nn.ModuleList, values: dict[Key, list[Tensor]]) -> Iterator[None]:
    handles = []
    for layer, block in enumerate(blocks):
        sites = {"resid_pre": (block, "input"), "resid_post": (block, "output"), **watched(block)}
        for site, (module, side) in sites.items():
            handles.append(_install(module, side, _noter(values, (site, layer), side)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def plain_values(
    module: nn.Module, inputs: Mapping[str, Any], n_layers: int, path: str
) -> tuple[dict[Key, Tensor], Any]:
    """Values of sites by plain hooks, {(site, layer): tensor}, and the plain output. Sites seen twice are left out."""
    blocks, values = main_blocks(module, n_layers, path), {}
    if blocks is None:
        return {}, module(**inputs)
    with _recording(blocks, values):
        output = module(**inputs)
    return {key: found[0] for key, found in values.items() if len(found) == 1}, output


@torch.no_grad()
def library_attentions(module: nn.Module, inputs: Mapping[str, Any]) -> list[Tensor]:
    """The attention weights that transformers itself returns with its explicit implementation; [] where it has none.

    Asked of a copy, since transformers leaves hooks of its own on a model that returns them.
    """
    twin: Any = copy.deepcopy(module)
    try:
        twin.set_attn_implementation("eager")
        output = twin(**inputs, output_attentions=True)
    except Exception:  # noqa: BLE001  (whatever stands in the way, there is then nothing to compare with)
        return []
    found = getattr(output, "attentions", None) or getattr(output, "decoder_attentions", None) or ()
    return [a for a in found if isinstance(a, Tensor) and a.dim() == 4]
