"""The quick form of every recipe, as `make test` runs it: one thread, and what it trains is trained here. Bound: 10 seconds."""

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from conceptlab.catalog import recipes
from conceptlab.catalog.reproducing import runner
from conceptlab.recipes import Setup
from conceptlab.runs.threads import threads

from .table import Row

GROUP = "Quick forms of the rows of the literature (one thread, an empty cache of trained models; seconds)"
TARGET = 10.0


def quick_form_rows(ids: Sequence[str] = ()) -> list[Row]:
    """Seconds of each (of these alone); the first also runs beforehand, so that no row waits for libraries to be imported."""
    chosen = list(ids) or list(recipes())
    _seconds(chosen[0])
    rows = []
    for id in chosen:
        cpu, wall = _seconds(id)
        rows.append(Row(GROUP, id, f"{cpu:.1f} s", cpu, None, TARGET, f"{wall:.1f} s"))
    return rows


def _seconds(id: str) -> tuple[float, float]:
    run = runner(recipes()[id])
    with tempfile.TemporaryDirectory() as cache, threads(1):
        cpu, wall = time.process_time(), time.perf_counter()
        run(Setup(quick=True, cache=Path(cache)))
        return time.process_time() - cpu, time.perf_counter() - wall
