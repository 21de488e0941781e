"""The page docs/reliability.md: what the long forms found, each line with its date; the numbers lie beside it as JSON."""

import json
import platform
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

HEAD = """# Reliability of stores, and of the viewer with hostile texts

Made by `make reliability` (Python {python}, {system}); do not edit by hand. The store of these trials is
tiny: 5 shards of `resid_post` at two layers and `embed`, by a model of 2 layers and 16 dimensions over 30 texts; a
harvest of it makes about 550 calls to the file system. After every kill and every failure each file that is visible is
compared (sha256) with a store that nothing disturbed, each commit is verified in full, and the store is then completed
by the same call and compared again, file for file. The object store is moto's server in a process of its own, reached
through s3fs. A line is written only where every trial of it held.

| what | trials and what came of them | seconds | on |
|---|---|---|---|
"""


@dataclass(frozen=True)
class Line:
    """One bar: what it does, what came of it, how long it took and when."""

    title: str
    told: str
    seconds: int
    date: str


def keep(page: Path, name: str, line: Line, order: Iterable[str]) -> None:
    """Write one bar's line into the page and the numbers beside it; the lines of other bars stay as they are."""
    numbers = page.with_suffix(".json")
    known = json.loads(numbers.read_text(encoding="utf-8")) if numbers.exists() else {}
    known[name] = asdict(line)
    known = {other: known[other] for other in order if other in known}
    numbers.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")
    lines = [Line(**entry) for entry in known.values()]
    rows = (f"| {line.title} | {line.told} | {line.seconds:,} | {line.date} |\n" for line in lines)
    page.write_text(HEAD.format(python=platform.python_version(), system=platform.system()) + "".join(rows), "utf-8")
