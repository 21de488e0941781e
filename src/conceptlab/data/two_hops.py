"""Questions that need a fact on the way, each with that fact asked directly in several wordings."""

from dataclasses import dataclass
from pathlib import Path

from conceptlab.data.records import read_records, texts_of
from conceptlab.data.table import shown

FEWEST = 3


@dataclass(frozen=True)
class TwoHop:
    """`prompt` is continued by `answer`; `direct` asks for the fact that it needs, continued by `bridge`; `fact` names it."""

    prompt: str
    answer: str
    fact: str
    direct: tuple[str, ...]
    bridge: str


def read_two_hops(path: Path | str, *, most: int | None = None) -> list[TwoHop]:
    """Read CSV, JSON lines or a JSON list with the columns `prompt`, `answer`, `fact`, `direct`, `bridge` (at most `most` rows);
    `direct` holds three wordings or more separated by `|`. Raises DataError as `read_records`, and for too few wordings.
    """
    names = ("prompt", "answer", "fact", "direct", "bridge")
    table = read_records(path, names)
    found = []
    for row, (prompt, answer, fact, direct, bridge) in enumerate(
        zip(*(texts_of(table, n) for n in names), strict=True)
    ):
        if most is not None and row == most:
            break
        wordings = tuple(dict.fromkeys(text.strip() for text in direct.split("|") if text.strip()))
        if len(wordings) < FEWEST:
            raise table.error(
                row, f"{shown(direct)} holds {len(wordings)} wordings; give at least {FEWEST}, separated by |"
            )
        found.append(TwoHop(prompt.rstrip(), answer, fact, wordings, bridge))
    return found
