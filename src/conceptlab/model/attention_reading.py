"""How one block's attention reads the stream: a norm, then linear maps whose output columns each serve one head's query, key or
value.

Asked, not named: the outputs of the linear maps are replaced by random leaves, and the gradients of single heads' q, k and v say
which columns they come from. Columns that serve several heads (a norm over all heads' queries), maps in a row (latent
attention), and whatever else does not have this form are told by a sentence, and are then pulled back by the block's own
backward.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from math import ceil, log2
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from conceptlab.model.attention import AttentionCall, handle_attention
from conceptlab.model.batch import Batch
from conceptlab.model.blocks import CleanRun, record_run
from conceptlab.model.instrument import StopForward
from conceptlab.model.model import Model
from conceptlab.model.tap import Tap
from conceptlab.model.trace import first_tensor, is_linear

KINDS = ("q", "k", "v")


@dataclass(frozen=True, eq=False)
class Columns:
    """Columns [unit, width] of the output of projection number `projection`; `even`: (start, step) where they are evenly
    spaced."""

    projection: int
    index: Tensor
    even: tuple[int, int] | None

    @classmethod
    def of(cls, projection: int, index: Tensor) -> "Columns":
        """Find out whether views will do in place of copies."""
        start, width = int(index[0, 0]), index.shape[1]
        step = int(index[1, 0]) - start if len(index) > 1 else width
        want = start + torch.arange(len(index))[:, None] * step + torch.arange(width)
        return cls(projection, index, (start, step) if step > 0 and torch.equal(index, want) else None)

    def cut(self, last: Tensor) -> Tensor:
        """[..., out] cut to [unit, ..., width] along its last axis."""
        if self.even is None:
            return last[..., self.index.to(last.device)].movedim(-2, 0)
        start, step = self.even
        return (
            last[..., start : start + step * (len(self.index) - 1) + self.index.shape[1]]
            .unfold(-1, self.index.shape[1], step)
            .movedim(-2, 0)
        )


@dataclass(frozen=True, eq=False)
class Reading:
    """`norm` (None: the stream is read as it is), the outputs of the `projections`, and the columns of each kind's units."""

    norm: nn.Module | None
    projections: tuple[Tap, ...]
    columns: dict[str, Columns]


@dataclass(eq=False)
class _Seen:
    """What a block did until it called its attention."""

    linear: list[tuple[nn.Module, Tensor, Tensor, int | str | None]] = field(default_factory=list)
    other: list[tuple[nn.Module, Tensor, Tensor]] = field(default_factory=list)
    qkv: dict[str, Tensor] = field(default_factory=dict)


_FOUND: WeakKeyDictionary[Model, tuple[Reading | str, ...]] = WeakKeyDictionary()


def readings(model: Model) -> tuple[Reading | str, ...]:
    """The reading of every block, or why it has no such form; found once per model."""
    if model not in _FOUND:
        run = record_run(model, probe_batch(model))
        _FOUND[model] = tuple(_reading(run, layer) for layer in range(model.n_layers))
    return _FOUND[model]


def probe_batch(model: Model) -> Batch:
    """Two rows of five tokens from all over the vocabulary."""
    size = model.module.get_input_embeddings().weight.shape[0]  # type: ignore[operator, union-attr]
    return Batch(tuple(tuple(int(size * (0.1 + 0.08 * (row * 5 + i))) for i in range(5)) for row in range(2)))


def _reading(run: CleanRun, layer: int) -> Reading | str:
    seen = _until_attention(run, layer)
    columns = _served(seen)
    if isinstance(columns, str):
        return columns
    used = sorted({c.projection for c in columns.values()})
    given = seen.linear[used[0]][1]
    if any(not _same(seen.linear[i][1], given) for i in used):
        return "its projections do not read one and the same normed stream"
    stream = run.streams[layer]
    norm = None
    if not _same(given, stream):
        norm = next((m for m, x, y in seen.other if _same(x, stream) and _same(y, given)), None)
        if norm is None:
            return "more than a norm stands between the stream and the projections"
    taps = tuple(Tap(seen.linear[i][0], "output", seen.linear[i][3], seen.linear[i][2].shape[-1]) for i in used)
    return Reading(norm, taps, {kind: Columns.of(used.index(c.projection), c.index) for kind, c in columns.items()})


def _same(a: Tensor, b: Tensor) -> bool:
    return a.numel() == b.numel() and torch.equal(a.reshape(-1), b.reshape(-1))


def _until_attention(run: CleanRun, layer: int) -> _Seen:
    """Run one block up to its attention with random leaves in place of what its linear maps give."""
    seen, generator = _Seen(), torch.Generator().manual_seed(layer)
    block, attention = run.model.stack.blocks[layer].module, run.model.tap("q", layer).module
    linears = {m for m in block.modules() if is_linear(m)}
    inside = {inner for m in linears for inner in m.modules() if inner is not m}

    def after(module: nn.Module, args: tuple, output: Any) -> Any:
        value, key = first_tensor(output)
        if not args or not isinstance(args[0], Tensor) or value is None:
            return None
        if module not in linears:
            seen.other.append((module, args[0].detach(), value.detach()))
            return None
        leaf = torch.randn(value.shape, generator=generator).to(value).requires_grad_()
        seen.linear.append((module, args[0].detach(), leaf, key))
        return leaf if key is None else output

    def handler(module: nn.Module, call: AttentionCall, delegate: Callable[..., Any]) -> Any:
        if module is not attention:
            return delegate(module, call.q, call.k, call.v, call.mask, **call.kwargs)
        seen.qkv.update(q=call.q, k=call.k, v=call.v)
        raise StopForward

    watched = [m for m in block.modules() if m not in inside and (m in linears or not list(m.children()))]
    handles = [m.register_forward_hook(after) for m in watched]
    try:
        with handle_attention(run.model.runner, handler), torch.inference_mode(False), torch.enable_grad():
            run.block(layer, run.streams[layer])
    except StopForward:
        pass
    finally:
        for handle in handles:
            handle.remove()
    return seen


def _served(seen: _Seen) -> dict[str, Columns] | str:
    """Which columns of which linear map serve each head's q, k and v, from two backwards for each binary digit of their
    number."""
    leaves = [leaf for _, _, leaf, _ in seen.linear]
    sizes = [seen.qkv[kind].shape[1] for kind in KINDS] if seen.qkv else []
    if not leaves or not sizes or not any(seen.qkv[kind].requires_grad for kind in KINDS):
        return "no linear map before its attention was seen"
    units = sum(sizes)
    numbers = [torch.zeros(leaf.shape[-1], dtype=torch.long) for leaf in leaves]
    reached = [torch.zeros(leaf.shape[-1], dtype=torch.bool) for leaf in leaves]
    for digit in range(max(1, ceil(log2(units)))):
        chosen = (torch.arange(units) >> digit) % 2 == 1
        ones, zeros = (_support(seen, leaves, mask, sizes) for mask in (chosen, ~chosen))
        if any(bool((a & b).any()) for a, b in zip(ones, zeros, strict=True)):
            return "some columns of its projections serve several heads"
        for i, (a, b) in enumerate(zip(ones, zeros, strict=True)):
            numbers[i] += a.long() << digit
            reached[i] |= a | b
    return _by_kind(numbers, reached, sizes)


def _support(seen: _Seen, leaves: list[Tensor], mask: Tensor, sizes: list[int]) -> list[Tensor]:
    """Which columns (bool [out] per leaf) reach the units of `mask` [unit], heads of q, k and v in this order."""
    outputs, cotangents = [], []
    generator = torch.Generator().manual_seed(1)
    for kind, part in zip(KINDS, mask.split(sizes), strict=True):
        value = seen.qkv[kind]
        if value.requires_grad:
            outputs.append(value)
            drawn = torch.randn(value.shape, generator=generator).to(value)
            cotangents.append(drawn * part.to(value)[None, :, None, None])
    found = torch.autograd.grad(outputs, leaves, cotangents, retain_graph=True, allow_unused=True)
    return [
        torch.zeros(leaf.shape[-1], dtype=torch.bool) if g is None else (g.flatten(0, -2) != 0).any(0).cpu()
        for leaf, g in zip(leaves, found, strict=True)
    ]


def _by_kind(numbers: list[Tensor], reached: list[Tensor], sizes: list[int]) -> dict[str, Columns] | str:
    found, start = {}, 0
    for kind, size in zip(KINDS, sizes, strict=True):
        of_unit: list[Tensor] = []
        sources = set()
        for unit in range(start, start + size):
            places = [
                (i, (r & (n == unit)).nonzero().flatten())
                for i, (n, r) in enumerate(zip(numbers, reached, strict=True))
            ]
            places = [(i, c) for i, c in places if len(c)]
            if len(places) != 1:
                return f"the {kind} of a head comes from {len(places)} linear maps"
            sources.add(places[0][0])
            of_unit.append(places[0][1])
        if len(sources) > 1 or len({len(c) for c in of_unit}) > 1:
            return f"the {kind} of its heads come from maps of several forms"
        found[kind] = Columns(sources.pop(), torch.stack(of_unit), None)
        start += size
    return found
