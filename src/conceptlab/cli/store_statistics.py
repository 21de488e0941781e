"""`conceptlab store statistics`: what units did, a line a layer, or one unit with the texts in which it was largest."""

import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from conceptlab.cli.failing import one_line
from conceptlab.cli.tables import Column, print_table
from conceptlab.errors import InputError

if TYPE_CHECKING:
    from conceptlab.numerics.streaming import Statistics
    from conceptlab.store import Store
    from conceptlab.store.unit_statistics import Exemplar

COLUMNS = ("std of a unit", "largest value", "of unit", "largest, in std", "of unit", "median unit")
SIDE, BARS = 40, 40  # characters of text on either side of a token, bars of a histogram


def run_statistics(url: str, unit: str | None, *, as_json: bool) -> int:
    """Print all parts of the store, or one of its units."""
    from conceptlab.store import Store

    store = Store.open(url)
    if not len(store):
        raise InputError(f"no shard of {url} is finished yet; run the same `conceptlab harvest` command again")
    if unit is not None:
        return _print_unit(store, unit, as_json=as_json)
    rows = [_row(store, site.name, layer) for site in store.sites for layer in site.layers or (None,)]
    if as_json:
        sys.stdout.write(json.dumps({"tokens": len(store), "parts": rows}) + "\n")
        return 0
    title = f"{store.manifest.model}: {len(store):,} tokens" + ("" if store.complete else ", not complete")
    columns = [Column("site"), *(Column(name, "right") for name in ("layer", "units", "not finite", *COLUMNS))]
    print_table(title, columns, (tuple(_cell(value) for value in row.values()) for row in rows))
    print(f"one unit: conceptlab store statistics {one_line(url)} {_example(rows[0])}")
    return 0


def _row(store: "Store", name: str, layer: int | None) -> dict[str, Any]:
    from conceptlab.store.unit_statistics import reach

    found = store.statistics(name, layer)
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


def _print_unit(store: "Store", said: str, *, as_json: bool) -> int:
    from conceptlab.store.unit_statistics import exemplars, parse_unit, reach, unit_columns

    name, layer, unit = parse_unit(store, said)
    found = store.statistics(name, layer)
    columns, best = unit_columns(found), exemplars(store, found, unit)
    if as_json:
        record = {key: columns[key][unit].item() for key in columns if columns[key].ndim == 1}
        record = {key: value if np.isfinite(value) else None for key, value in record.items()}
        told = {"site": name, "layer": layer, **record, "exemplars": [asdict(exemplar) for exemplar in best]}
        sys.stdout.write(json.dumps(told) + "\n")
        return 0
    value = {key: _cell(float(columns[key][unit])) for key in columns if columns[key].ndim == 1}
    finite = (
        f"{found.nan[unit]:,} NaN, {found.inf[unit]:,} infinite" if found.nan[unit] + found.inf[unit] else "all finite"
    )
    print(f"{said}: {found.count[unit]:,} values, {finite}")
    if not found.count[unit]:
        return 0
    print(f"mean {value['mean']}, std {value['std']}, from {value['min']} to {value['max']}")
    print("quantiles (to 1/16): " + ", ".join(f"{int(key[1:])} % {value[key]}" for key in value if key[0] == "q"))
    if found.max[unit] > found.min[unit]:
        print(f"{value['min']} {_histogram(found, unit)} {value['max']}  (root of the counts)")
    others = reach(found)
    others = others[np.isfinite(others)]
    if len(others):
        middle, high = np.quantile(others, (0.5, 0.99))
        print(
            f"largest, in std: {value['reach']}; of the {len(others):,} units of the layer: median {middle:.4g}, 99 % {high:.4g}"
        )
    _print_exemplars(best)
    return 0


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
