"""The page docs/reliability.md: what the long forms found."""

import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass

HEAD = """# Reliability of stores

Made by `make reliability` on {date} (Python {python}, {system}); do not edit by hand. The store of these trials is
tiny: 5 shards of `resid_post` at two layers and `embed`, by a model of 2 layers and 16 dimensions over 30 texts; a
harvest of it makes about 550 calls to the file system. After every kill and every failure each file that is visible is
compared (sha256) with a store that nothing disturbed, each commit is verified in full, and the store is then completed
by the same call and compared again, file for file. The object store is moto's server in a process of its own, reached
through s3fs. A line is written only where every trial of it held.

| what | trials and what came of them | seconds |
|---|---|---|
"""


@dataclass(frozen=True)
class Line:
    """One bar: its name, what it does, what came of it."""

    name: str
    title: str
    told: str
    seconds: float


def written(lines: Sequence[Line]) -> str:
    """The page as Markdown."""
    head = HEAD.format(date=time.strftime("%Y-%m-%d"), python=platform.python_version(), system=platform.system())
    return head + "".join(f"| {line.title} | {line.told} | {line.seconds:,.0f} |\n" for line in lines)
