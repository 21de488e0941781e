"""Which recorded tensors add up to a block's update? The sublayers *as added* to the stream are found by asking, not by name."""

from collections import Counter
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor

from conceptlab.model.trace import Event


@dataclass(frozen=True)
class Part:
    """A recorded tensor that enters the stream as `scale * value` (`scale` is the residual multiplier, 1 for most models)."""

    event: Event
    scale: float


def tolerance(dtype: torch.dtype) -> float:
    """Relative error under which two recorded tensors are the same: rounding, not structure."""
    return 2e-4 if dtype in (torch.float32, torch.float64) else 3e-2


def matches(a: Tensor, b: Tensor, tol: float) -> bool:
    """Equal up to rounding, relative to the size of `b`."""
    if a.numel() != b.numel():
        return False
    a, b = a.detach().reshape(-1).double(), b.detach().reshape(-1).double()
    return bool((a - b).norm() <= tol * (b.norm() + 1e-12))


def distinct(events: list[Event], like: Tensor) -> list[Event]:
    """Events whose tensor could be a summand of `like`: same numbers of values, last axis d_model; outermost of equal ones.

    A module that runs several times in the block (a shared dropout) is left out: a hook on it would read them all.
    """
    runs = Counter(id(event.module) for event in events)
    chosen: dict[tuple[int, tuple[int, ...]], Event] = {}
    for event in events:
        value = event.value
        if (
            value is None
            or runs[id(event.module)] > 1
            or not value.is_floating_point()
            or value.numel() != like.numel()
            or value.shape[-1] != like.shape[-1]
        ):
            continue
        key = event.identity or (event.order, ())
        old = chosen.get(key)
        if old is None or event.name.count(".") < old.name.count("."):
            chosen[key] = event
    return sorted(chosen.values(), key=lambda e: e.order)


def solve_sum(delta: Tensor, events: list[Event], sizes: tuple[int, ...] = (1, 2, 3)) -> tuple[Part, ...] | None:
    """The few recorded tensors whose (scaled) sum is `delta`, fewest first, unscaled before scaled; None if there are none."""
    tol = tolerance(delta.dtype)
    target = delta.detach().reshape(-1).double()
    values = [e.value.detach().reshape(-1).double() for e in events]  # type: ignore[union-attr]
    if not values or float(target.norm()) == 0.0 or not bool(torch.isfinite(torch.stack([target, *values])).all()):
        return None
    matrix = torch.stack(values)
    gram, dots = (matrix @ matrix.T).cpu(), (matrix @ target).cpu()  # small, and asked for number by number
    energy = float(target @ target)
    for size in sizes:
        for scaled in (False, True):
            found = _search(size, scaled, gram, dots, energy, tol)
            for combo, scales in found:
                total = sum(s * values[i] for i, s in zip(combo, scales, strict=True))
                if float((total - target).norm()) <= tol * energy**0.5:
                    return tuple(Part(events[i], s) for i, s in zip(combo, scales, strict=True))
    return None


def _search(size: int, scaled: bool, gram: Tensor, dots: Tensor, energy: float, tol: float):
    """Combinations whose residual, read off the Gram matrix, is near zero (cancellation leaves about 1e-7 of the energy)."""
    limit = max(tol**2 * 4, 1e-7) * energy
    for combo in combinations(range(len(dots)), size):
        index = list(combo)
        sub, b = gram[index][:, index], dots[index]
        if scaled:
            weights = torch.linalg.lstsq(sub, b[:, None]).solution[:, 0]
            # A multiplier is positive; a negative one takes the stream away again from a tensor that holds it.
            if bool((weights < 1e-3).any()) or bool((weights > 1e3).any()):
                continue
        else:
            weights = torch.ones(size, dtype=torch.float64)
        residual = energy - 2 * float(weights @ b) + float(weights @ sub @ weights)
        if residual <= limit:
            rounded = [1.0 if abs(w - 1) < 1e-6 else float(w) for w in weights]
            yield combo, rounded


def region(roles: dict[str, Part], site: str, inner: list[Event]) -> list[Event]:
    """Events that end between the part before `site` and `site` itself."""
    part = roles[site]
    earlier = [p.event.order for s, p in roles.items() if s != site and p.event.order < part.event.order]
    return [e for e in inner if max(earlier, default=0) < e.order <= part.event.order]
