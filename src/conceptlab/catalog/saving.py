"""A reproduction as plain values and as a folder.

results/<name>/     the frozen results that the numbers were read from
charts/<name>.png   their charts, where the kind of result has one
reproduction.json   written last: claim, findings beside their controls, setting, notes, and which of the files above are its own
"""

import math
from collections.abc import Mapping
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

from conceptlab.catalog.recipes import Recipe
from conceptlab.errors import RunError

if TYPE_CHECKING:
    from conceptlab.results import Reproduction

RECORD = "reproduction.json"


def full_record(reproduction: "Reproduction", recipe: Recipe) -> dict[str, Any]:
    """The reproduction and what its row says, as plain JSON values; null for what is not a number."""
    said = {name: getattr(recipe, name) for name in ("claim", "number", "control", "world", "methods")}
    return plain({**said, **reproduction.to_record()})


def save_reproduction(reproduction: "Reproduction", recipe: Recipe, folder: Path) -> dict[str, Any]:
    """Write the folder; the record that was written. Raises RunError when the disk refuses."""
    from conceptlab.results.saving import file_name, write_bytes

    saved, drawn = [], []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / RECORD).unlink(missing_ok=True)
        for name, result in reproduction.results.items():
            where = file_name(name)
            if hasattr(result, "save"):
                (folder / "results" / where).mkdir(parents=True, exist_ok=True)
                result.save(folder / "results" / where)
                saved.append(f"results/{where}")
            if _drawn(result, folder / "charts" / f"{where}.png"):
                drawn.append(f"charts/{where}.png")
    except OSError as error:
        raise RunError(
            f"cannot write {folder}: {error.strerror or error}; free some space or choose another folder"
        ) from error
    record = {**full_record(reproduction, recipe), "results": saved, "charts": drawn}
    write_bytes(folder / RECORD, dumps(record, indent=1, ensure_ascii=False, allow_nan=False).encode())
    return record


def plain(value: Any) -> Any:
    """Values that JSON knows: arrays and tuples as lists, numbers as Python's, null for infinite and not-a-number."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, bool | int | str) else str(value)


def _drawn(result: Any, path: Path) -> bool:
    """Write the chart of a result, where the result is of a kind that has one and holds what its chart shows."""
    from conceptlab.plot import chart_of
    from conceptlab.plot.export import png
    from conceptlab.results.saving import write_bytes

    if not isinstance(result, get_type_hints(chart_of)["result"]):
        return False
    try:
        chart = chart_of(result)
        if chart is None:
            return False
        data = png(chart)
    except (KeyError, ValueError, TypeError, AttributeError):
        return False  # a table with the axes of a known chart and other columns; the numbers are saved all the same
    write_bytes(path, data)
    return True
