"""Attention patterns of a prompt, block by block: small pictures of all heads, one layer's weights on demand.

Each block runs again alone on the kept stream until its attention has formed its pattern, which is reduced to a tile and thrown
away, so memory holds one layer's patterns (heads x tokens x tokens) whatever the number of layers. A tile is the maximum over its
cells, so that no strong weight is lost, as the square root in 8 bits.
"""

from collections import OrderedDict
from collections.abc import Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

from conceptlab.errors import InputError, SiteError
from conceptlab.model.blocks import CleanRun
from conceptlab.model.instrument import Placed, StopForward
from conceptlab.web.jobs import Said
from conceptlab.web.live.one_pass import Prompt, loaded, one_pass, read_prompt

if TYPE_CHECKING:
    from conceptlab.model import Model

TILE = 64
LARGEST = 2**31  # bytes of one layer's patterns while they are formed
KEPT = 2**26  # bytes of float32 patterns of whole layers that are kept
COPIES = 3  # scores, softmax and pattern stand side by side for a moment


@dataclass(frozen=True, eq=False)
class Tiles:
    """`tiles` [layer, head, row, col] uint8: 255 x the square root of the largest weight in a cell; layers without a pattern are
    zero, `missing` says why (layer -> sentence); `no_values` why values cannot be read."""

    prompt: Prompt
    tiles: np.ndarray
    n_heads: tuple[int, ...]
    missing: dict[int, str]
    no_values: str


@dataclass(frozen=True, eq=False)
class HeadPattern:
    """`weights` [query, key] float32 after softmax, `value_norm` [key] or None with the reason in `no_values`."""

    prompt: Prompt
    layer: int
    head: int
    n_heads: int
    weights: np.ndarray
    value_norm: np.ndarray | None
    no_values: str


def attention_tiles(live: Any, text: str) -> Generator[Said, None, Tiles]:
    """Tiles of all heads. Raises InputError for a prompt whose patterns do not fit, SiteError where no layer has a pattern."""
    model = yield from loaded(live)
    prompt = read_prompt(model, text)
    check_patterns(model, len(prompt))
    yield Said(0.02, f"one pass of {len(prompt)} tokens")
    run = one_pass(model, prompt)
    found, missing = [], missing_patterns(model)
    for layer in range(model.n_layers):
        found.append(None if layer in missing else tiles_of(pattern_of(run, layer)[0]))
        yield Said(0.1 + 0.9 * (layer + 1) / model.n_layers, f"patterns of layer {layer}")
    n_heads = tuple(0 if tiles is None else len(tiles) for tiles in found)
    side = min(TILE, len(prompt))
    tiles = np.zeros((model.n_layers, max(n_heads), side, side), dtype=np.uint8)
    for layer, own in enumerate(found):
        if own is not None:
            tiles[layer, : len(own)] = own
    return Tiles(prompt, tiles, n_heads, missing, no_values(model))


def head_pattern(live: Any, text: str, layer: int, head: int) -> Generator[Said, None, HeadPattern]:
    """The weights of one head. Raises SiteError for a layer or head that the model does not have, or one without a pattern."""
    model = yield from loaded(live)
    prompt = read_prompt(model, text)
    check_patterns(model, len(prompt))
    model.tap("pattern", layer)
    run = one_pass(model, prompt)
    yield Said(0.3, f"patterns of layer {layer}")
    pattern, norm, why = kept_pattern(run, prompt, layer)
    if not 0 <= head < len(pattern):
        raise SiteError(f"{model.name} has heads 0 to {len(pattern) - 1} in layer {layer}; {head} was asked")
    norms = None if norm is None else norm[head].numpy().copy()
    return HeadPattern(prompt, layer, head, len(pattern), pattern[head].numpy().copy(), norms, why)


_Pattern = tuple[Tensor, Tensor | None, str]
_PATTERNS: "WeakKeyDictionary[Model, OrderedDict[tuple[int, tuple[int, ...]], _Pattern]]" = WeakKeyDictionary()


def kept_pattern(run: CleanRun, prompt: Prompt, layer: int) -> _Pattern:
    """`pattern_of` with values, of which the last layers stay in memory, so that walking heads costs nothing."""
    kept = _PATTERNS.setdefault(run.model, OrderedDict())
    key = (layer, prompt.ids)
    found = kept.pop(key, None)
    kept[key] = found = pattern_of(run, layer, values=True) if found is None else found
    while kept and sum(pattern.nbytes for pattern, _, _ in kept.values()) > KEPT:
        kept.popitem(last=False)
    return found


def check_patterns(model: "Model", n_tokens: int) -> None:
    """Raise InputError where one layer's patterns are too large to form, SiteError where no layer has any."""
    layers = model.layers_with("pattern")
    if not layers:
        model.tap("pattern", 0)  # raises with the reason
    heads = max(model.tap("pattern", layer).heads or model.n_heads for layer in layers)
    size = COPIES * 4 * heads * n_tokens**2
    if size > LARGEST:
        fits = int((LARGEST / (COPIES * 4 * heads)) ** 0.5)
        raise InputError(
            f"the patterns of one layer take {size / 2**30:.1f} GiB at {n_tokens} tokens; this page forms at most "
            f"{LARGEST / 2**30:.0f} GiB, so give at most {fits} tokens"
        )


def missing_patterns(model: "Model") -> dict[int, str]:
    """Layers without a readable pattern, and why."""
    found = {}
    for layer in range(model.n_layers):
        try:
            model.tap("pattern", layer)
        except SiteError as error:
            found[layer] = str(error)
    return found


def no_values(model: "Model") -> str:
    """Why the values of the first layer with patterns cannot be read; empty where they can."""
    try:
        model.tap("v", model.layers_with("pattern")[0])
    except SiteError as error:
        return str(error)
    return ""


@torch.no_grad()
def pattern_of(run: CleanRun, layer: int, *, values: bool = False) -> tuple[Tensor, Tensor | None, str]:
    """Pattern [head, query, key] float32 of one block on the kept stream; with `values` the norm of every value [head, key], or
    None and why. The block is left as soon as its attention has what is asked."""
    model, found, why = run.model, {}, ""
    visits: list[Placed] = []
    if values:
        try:
            visits.append((model.tap("v", layer), layer, False, lambda v: found.update(v=v.detach()[0])))
        except SiteError as error:
            why = str(error)

    def keep(pattern: Tensor) -> None:
        found["pattern"] = pattern.detach()[0].transpose(0, 1)
        raise StopForward

    visits.append((model.tap("pattern", layer), layer, False, keep))
    try:
        with model.instrument.visiting(visits):
            run.block(layer, run.streams[layer])
    except StopForward:
        pass
    if "pattern" not in found:
        raise SiteError(f"{model.name}: block {layer} formed no pattern when it ran alone")
    pattern = found["pattern"].float().cpu()
    norm = None
    if "v" in found:
        norm = found["v"].float().norm(dim=-1).T.cpu()
        norm = norm.repeat_interleave(len(pattern) // len(norm), 0)
    return pattern, norm, why


def tiles_of(pattern: Tensor) -> np.ndarray:
    """Pattern [head, query, key] as tiles [head, row, col] uint8: the square root of the largest weight in each cell."""
    n = pattern.shape[-1]
    if n > TILE:
        rows = reduced(pattern, 1)
        pattern = reduced(rows, 2)
    return (pattern.clamp(0, 1).sqrt() * 255).round().to(torch.uint8).numpy()


def reduced(values: Tensor, axis: int) -> Tensor:
    """The largest value of each of `TILE` neighbouring parts of one axis."""
    n = values.shape[axis]
    if n % TILE == 0:
        return values.unflatten(axis, (TILE, n // TILE)).amax(axis + 1)
    edges = [n * i // TILE for i in range(TILE + 1)]
    return torch.cat(
        [values.narrow(axis, a, b - a).amax(axis, keepdim=True) for a, b in zip(edges, edges[1:], strict=False)], axis
    )


def fixed_point(weights: np.ndarray) -> np.ndarray:
    """Weights from 0 to 1 as uint16, 65,535 for 1: exact to 8e-6."""
    return np.clip(np.rint(weights * 65535.0), 0, 65535).astype(np.uint16)
