"""What the units of a store did, from its statistics alone: a row a unit, and the texts in which one was largest."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from conceptlab.errors import InputError
from conceptlab.numerics.largest import NOBODY
from conceptlab.numerics.streaming import Statistics

if TYPE_CHECKING:
    from conceptlab.store.store import Store

QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)


@dataclass(frozen=True)
class Exemplar:
    """One of a unit's largest values: the `number` of its token in the store, its `doc`, `position` in the row and `token` id; of
    its document the text `before` it, its own `text` and what comes `after` (None where no text is kept or the token has none)."""

    value: float
    number: int
    doc: int
    position: int
    token: int
    before: str | None
    text: str | None
    after: str | None


def reach(found: Statistics) -> np.ndarray:
    """How far each unit's largest value lies above its mean, in its standard deviations [unit]; NaN where it never changes."""
    apart, std = found.max - found.mean, found.std
    return np.divide(apart, std, out=np.full(found.n_units, np.nan), where=std > 0)


def unit_columns(found: Statistics) -> dict[str, np.ndarray]:
    """One row a unit: counts, mean, standard deviation, extremes, quantiles (to 1/16), reach, and the k largest values with the
    numbers of their tokens [unit, k]."""
    counts = {"unit": np.arange(found.n_units), "count": found.count, "nan": found.nan, "inf": found.inf}
    quantiles = {f"q{100 * q:02.0f}": row for q, row in zip(QUANTILES, found.quantile(QUANTILES), strict=True)}
    spread = {
        "mean": found.mean,
        "std": found.std,
        "min": found.min,
        **quantiles,
        "max": found.max,
        "reach": reach(found),
    }
    return {**counts, **spread, "largest_value": found.largest.value, "largest_token": found.largest.token}


def parse_unit(store: "Store", said: str) -> tuple[str, int | None, int]:
    """`resid_post/3/17`, or `embed/17`, as site, layer and unit. Raises InputError for one that is not stored."""
    name, *numbers = said.split("/")
    if not (1 <= len(numbers) <= 2 and all(n.isascii() and n.isdecimal() and len(n) < 10 for n in numbers)):
        raise InputError(f"a unit is written site/layer/unit, as resid_post/3/17, or embed/17; {said!r} was given")
    layer, unit = (None, *map(int, numbers)) if len(numbers) == 1 else map(int, numbers)
    store.part_name(name, layer)
    check_unit(store, name, unit)
    return name, layer, unit


def check_unit(store: "Store", name: str, unit: int) -> None:
    """Raises InputError for a unit that the site does not have."""
    shape = store.manifest.site(name).shape
    if not 0 <= unit < np.prod(shape):
        told = f", counted through {' x '.join(map(str, shape))}" if len(shape) > 1 else ""
        raise InputError(f"{name} has units 0 to {np.prod(shape) - 1}{told}; {unit} was asked")


def exemplars(store: "Store", found: Statistics, unit: int, *, characters: int = 60) -> tuple[Exemplar, ...]:
    """Where a unit was largest, from the largest value down, with at most so many characters of text on either side."""
    value, number = found.largest.value[unit], found.largest.token[unit]
    made = {int(n): _exemplar(store, int(n), float(v), characters) for n, v in _in_store_order(number, value)}
    return tuple(made[int(n)] for n in number if n != NOBODY)


def _in_store_order(number: np.ndarray, value: np.ndarray) -> list[tuple[Any, Any]]:
    """Tokens of one shard after each other, so that each is read once."""
    return [(number[i], value[i]) for i in np.argsort(number) if number[i] != NOBODY]


def _exemplar(store: "Store", number: int, value: float, characters: int) -> Exemplar:
    at = int(np.searchsorted(store.starts, number, side="right")) - 1
    tokens = store.tokens(store.shards[at])
    row = int(np.flatnonzero(tokens.kept)[number - int(store.starts[at])])
    doc, start, end = int(tokens.doc[row]), int(tokens.start[row]), int(tokens.end[row])
    text = store.text_of(doc)[1] if start >= 0 else None
    around: tuple[str | None, ...] = (None, None, None)
    if text is not None:
        around = text[max(0, start - characters) : start], text[start:end], text[end : end + characters]
    return Exemplar(value, number, doc, int(tokens.position[row]), int(tokens.token[row]), *around)
