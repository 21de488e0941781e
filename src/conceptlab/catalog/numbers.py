"""What the rows measured when `make rows` ran every recipe in its full form: by id the findings, each with its control.

The file lies in the documentation and is packed beside this module when the package is built.
"""

import json
from functools import cache
from pathlib import Path
from typing import Any

PLACES = (
    Path(__file__).with_name("numbers.json"),
    Path(__file__).parents[3] / "docs" / "papers" / "numbers.json",
)


@cache
def numbers() -> dict[str, dict[str, Any]]:
    """Id -> findings (name, value, unit, low, high, control, bar, holds), holds, seconds, seed, notes. Empty without the file."""
    for path in PLACES:
        if path.is_file():
            return json.loads(path.read_text(encoding="utf-8"))
    return {}
