"""The benchmark's quick form runs every part and gives finite figures. No speed is asserted."""

import math

from benchmarks.speed.__main__ import our_cells, quick_rows
from benchmarks.speed.table import markdown


def test_the_quick_form_measures_every_part() -> None:
    rows = quick_rows()
    groups = " ".join(dict.fromkeys(row.group for row in rows))
    assert all(part in groups for part in ("one forward", "generation", "Fixed cost", "Atlas", "Starting"))
    numbers = [row.number for row in rows if row.number is not None]
    assert len(numbers) >= 10
    assert all(math.isfinite(number) for number in numbers)
    assert all(row.number is None or row.number > 0 for row in rows if "bare Hugging Face = 1" in row.group)
    assert our_cells(rows)["everything"]
    assert markdown(rows).count("\n## ") == len({row.group for row in rows})
