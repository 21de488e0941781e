"""`conceptlab store statistics`: what units did, a line a layer, or one unit with the texts in which it was largest."""

import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from conceptlab.cli.failing import one_line
from conceptlab.cli.options import OutputOptions
from conceptlab.cli.tables import Column, print_table
from conceptlab.errors import InputError

if TYPE_CHECKING:
    from conceptlab.numerics.streaming import Statistics
    from conceptlab.runs import Progress
    from conceptlab.store import Store
    from conceptlab.store.unit_statistics import Exemplar

COLUMNS = ("std of a unit", "largest value", "of unit", "largest, in std", "of unit", "median unit")
SIDE, BARS = 40, 40  # characters of text on either side of a token, bars of a histogram


def run_statistics(url: str, unit: str | None, output: OutputOptions) -> int:
    """Print all parts of the store, or one of its units."""
    from conceptlab.runs import Progress
    from conceptlab.store import Store

    store = Store.open(url)
    if not len(store):
        raise InputError(f"no shard of {url} is finished yet; run the same `conceptlab harvest` command again")
    with Progress(quiet=output.quiet or output.json) as progress:
        told = _parts(store, progress) if unit is None else _unit(store, unit, progress)
    if output.json:
        sys.stdout.write(json.dumps(told.record) + "\n")
    else:
        told.print()
    return 0


@dataclass(frozen=True)
class _Parts:
    """A line for every part of a store."""

    store: "Store"
    rows: list[dict[str, Any]]

    @property
    def record(self) -> dict[str, Any]:
        return {"tokens": len(self.store), "parts": self.rows}

    def print(self) -> None:
        store, state = self.store, "" if self.store.complete else ", not complete"
        columns = [Column("site"), *(Column(name, "right") for name in ("layer", "units", "not finite", *COLUMNS))]
        rows = (tuple(_cell(value) for value in row.values()) for row in self.rows)
        print_table(f"{store.manifest.model}: {len(store):,} tokens{state}", columns, rows)
        print(f"one unit: conceptlab store statistics {one_line(store.place.url)} {_example(self.rows[0])}")


def _parts(store: "Store", progress: "Progress") -> _Parts:
    from conceptlab.store.statistics import read_statistics

    parts = [(site.name, layer) for site in store.sites for layer in site.layers or (None,)]
    rows = []
    with progress.task("statistics", len(parts)) as task:
        for name, layer in parts:
            rows.append(_row(name, layer, read_statistics(store, name, layer, progress=progress)))
            task.advance()
    return _Parts(store, rows)


def _row(name: str, layer: int | None, found: "Statistics") -> dict[str, Any]:
    """One part: how far its units spread, its largest value, and how far a unit's largest value lies above its mean."""
    from conceptlab.store.unit_statistics import reach

    far = reach(found)
    size = np.where(found.count > 0, np.maximum(np.abs(found.min), np.abs(found.max)), -1)
    largest, farthest = int(size.argmax()), None if np.isnan(far).all() else int(np.nanargmax(far))
    value = found.max[largest] if found.max[largest] == size[largest] else found.min[largest]
    return {
        "site": name, "layer": layer, "units": found.n_units, "not_finite": int((found.nan + found.inf).sum()),
        "std": _finite(np.median(found.std)), "largest": _finite(value), "largest_unit": largest,
        "reach": None if farthest is None else _finite(far[farthest]), "reach_unit": farthest,
        "median_reach": None if farthest is None else _finite(np.nanmedian(far)),
    }  # fmt: skip


def _finite(value: Any) -> float | None:
    return float(value) if np.isfinite(value) else None


def _cell(value: Any) -> str:
    return "–" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def _example(row: dict[str, Any]) -> str:
    layer = "" if row["layer"] is None else f"{row['layer']}/"
    return f"{row['site']}/{layer}{row['largest_unit']}"


@dataclass(frozen=True)
class _Unit:
    """One unit: its `columns`, each [unit] or [unit, k], are those of its part."""

    name: str
    layer: int | None
    index: int
    found: "Statistics"
    columns: Mapping[str, np.ndarray]
    best: "tuple[Exemplar, ...]"

    @property
    def record(self) -> dict[str, Any]:
        mine = {key: column[self.index].item() for key, column in self.columns.items() if column.ndim == 1}
        mine = {key: value if np.isfinite(value) else None for key, value in mine.items()}
        return {
            "site": self.name,
            "layer": self.layer,
            **mine,
            "exemplars": [asdict(exemplar) for exemplar in self.best],
        }

    def print(self) -> None:
        value = self.record
        part = self.name if self.layer is None else f"{self.name}/{self.layer}"
        print(f"{part}/{self.index}: {value['count']:,} values, {value['nan']:,} NaN, {value['inf']:,} infinite")
        if not value["count"]:
            return
        told = {key: _cell(item) for key, item in value.items()}
        print(f"mean {told['mean']}, std {told['std']}, from {told['min']} to {told['max']}")
        print("quantiles (to 1/16): " + ", ".join(f"{int(key[1:])} % {told[key]}" for key in told if key[0] == "q"))
        if value["max"] > value["min"]:
            print(f"{told['min']} {_histogram(self.found, self.index)} {told['max']}  (root of the counts)")
            print(f"largest, in std: {told['reach']}; {_of_others(self.columns['reach'])}")
        _print_exemplars(self.best)


def _unit(store: "Store", said: str, progress: "Progress") -> _Unit:
    from conceptlab.store.statistics import read_statistics
    from conceptlab.store.unit_statistics import exemplars, parse_unit, unit_columns

    name, layer, index = parse_unit(store, said)
    found = read_statistics(store, name, layer, progress=progress)
    return _Unit(name, layer, index, found, unit_columns(found), exemplars(store, found, index))


def _of_others(reach: np.ndarray) -> str:
    """The control: how far the layer's units reach."""
    others = reach[np.isfinite(reach)]
    middle, high = np.quantile(others, (0.5, 0.99))
    return f"of the {len(others):,} units of the layer: median {middle:.4g}, 99 % {high:.4g}"


def _histogram(found: "Statistics", unit: int) -> str:
    """A unit's values between its extremes as bars; the lowest bar is none at all, so that rare values are seen."""
    from conceptlab.atlas.table import BLOCKS
    from conceptlab.numerics.log_bins import MIDDLES

    low, high = float(found.min[unit]), float(found.max[unit])
    counts, _ = np.histogram(np.clip(MIDDLES, low, high), BARS, (low, high), weights=found.histogram[unit])
    height = np.sqrt(counts / counts.max())
    return "".join(" " if share == 0 else BLOCKS[int(np.ceil(share * len(BLOCKS))) - 1] for share in height)


def _print_exemplars(best: "tuple[Exemplar, ...]") -> None:
    rows = ((_cell(e.value), f"{e.doc:,}", f"{e.position:,}", _in_text(e)) for e in best)
    columns = (
        Column("value", "right"),
        Column("document", "right"),
        Column("position", "right"),
        Column("where it was largest"),
    )
    print_table("largest values", columns, rows)


def _in_text(exemplar: "Exemplar") -> str:
    if exemplar.text is None:
        return f"token #{exemplar.token} (the store keeps no text of it)"
    before, after = (exemplar.before or "")[-SIDE:], (exemplar.after or "")[:SIDE]
    return f"{before}«{exemplar.text}»{after}"
