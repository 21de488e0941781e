"""The library of heuristics: conditions on the operands or the result that a neuron may stand for, as sets of cells of a grid.

Kinds, after Nikankin et al. 2024: `range` (a window or a half-line of the left operand, the right one or the result), `modulo`
(residue r for n from 2 to 10), `pattern` (one decimal digit at one place), `identical` operands, `joint` (a condition on both
operands: residues for n from 2 to 5, quarters of both ranges). Sets of the same cells are kept once, under the simplest name;
sets of fewer than `MIN_CELLS` cells or more than `MOST` of them say too little to be told from chance.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from conceptlab.data.arithmetic import Arithmetic
from conceptlab.errors import InputError

MIN_CELLS, MOST = 5, 0.75
WIDTHS = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 24, 32, 48, 64, 96, 128, 192)
KINDS = ("range", "modulo", "pattern", "identical", "joint")


@dataclass(frozen=True, eq=False)
class Heuristics:
    """`names`, `kinds` and, per heuristic, whether it `reads_result`; `masks` [heuristic, cell] say which cells satisfy it."""

    names: tuple[str, ...]
    kinds: tuple[str, ...]
    reads_result: np.ndarray
    masks: np.ndarray

    def __len__(self) -> int:
        return len(self.names)

    @property
    def base(self) -> np.ndarray:
        """Share of the cells that satisfy each heuristic."""
        return self.masks.mean(1)

    def mask(self, name: str) -> np.ndarray:
        """The cells of one heuristic [cell]. Raises KeyError where the library lacks it."""
        if name not in self.names:
            raise KeyError(name)
        return self.masks[self.names.index(name)]


def heuristic_library(cells: Arithmetic) -> Heuristics:
    """Every heuristic that the cells can tell from chance. Raises InputError where there is none."""
    kept: dict[bytes, tuple[str, str, bool, np.ndarray]] = {}
    for name, kind, mask in _all(cells):
        if MIN_CELLS <= mask.sum() <= MOST * len(cells):
            kept.setdefault(np.packbits(mask).tobytes(), (name, kind, name.startswith("result"), mask))
    if not kept:
        raise InputError(
            f"{len(cells)} pairs of operands are too few for any heuristic ({MIN_CELLS} cells and at most {MOST:.0%} of all); "
            "give a grid of at least 6 x 6"
        )
    names, kinds, of_result, masks = zip(*kept.values(), strict=True)
    return Heuristics(names, kinds, np.array(of_result), np.stack(masks))


def _all(cells: Arithmetic) -> Iterator[tuple[str, str, np.ndarray]]:
    """(name, kind, mask) from the simplest to the less simple."""
    of = {"left": cells.left, "right": cells.right, "result": cells.result}
    yield "identical operands", "identical", cells.left == cells.right
    for name, values in of.items():
        yield from _residues(name, values)
    for name, values in of.items():
        yield from _ranges(name, values)
    for name, values in of.items():
        yield from _digits(name, values)
    yield from _joint(cells)


def _residues(name: str, values: np.ndarray) -> Iterator[tuple[str, str, np.ndarray]]:
    for n in range(2, 11):
        if 2 * n <= np.ptp(values) + 1:
            for r in range(n):
                yield f"{name} mod {n} = {r}", "modulo", values % n == r


def _ranges(name: str, values: np.ndarray) -> Iterator[tuple[str, str, np.ndarray]]:
    low, high = int(values.min()), int(values.max())
    for edge in range(low, high):
        yield f"{name} <= {edge}", "range", values <= edge
        yield f"{name} >= {edge + 1}", "range", values > edge
    for width in (w for w in WIDTHS if 2 * w <= high - low + 1):
        for start in range(low, high - width + 2, max(1, width // 8)):
            yield f"{name} in {start}..{start + width - 1}", "range", (values >= start) & (values < start + width)


def _digits(name: str, values: np.ndarray) -> Iterator[tuple[str, str, np.ndarray]]:
    size = np.abs(values)
    for place in range(len(str(int(size.max())))):
        for digit in range(10):
            at = (size // 10**place % 10 == digit) & (size >= 10**place * (place > 0))
            yield f"{name} has digit {digit} at place {place}", "pattern", at


def _joint(cells: Arithmetic) -> Iterator[tuple[str, str, np.ndarray]]:
    a, b = cells.left, cells.right
    for n in range(2, 6):
        for i in range(n):
            for j in range(n):
                yield f"left mod {n} = {i} and right mod {n} = {j}", "joint", (a % n == i) & (b % n == j)
    quarters = [_quarter(values) for values in (a, b)]
    for i in range(4):
        for j in range(4):
            yield f"left in quarter {i} and right in quarter {j}", "joint", (quarters[0] == i) & (quarters[1] == j)


def _quarter(values: np.ndarray) -> np.ndarray:
    """In which quarter of its range each value lies, 0 to 3."""
    return (values - values.min()) * 4 // (np.ptp(values) + 1)
