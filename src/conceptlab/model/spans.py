"""Named sets of positions a row (a subject, earlier answers), completed so that every position belongs to exactly one of them."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from conceptlab.errors import InputError
from conceptlab.model.batch import Batch

Spans = Mapping[str, Sequence[Sequence[int]]]
FIRST, REST, LAST = "first token", "rest", "last token"


def complete_spans(batch: Batch, spans: Spans) -> dict[str, list[list[int]]]:
    """`spans` {name: real-token positions of each row} with the first and the last token and the rest as spans of their own, where
    they are free.

    The first token is often an attention sink and the last one the query itself, so neither may hide in the rest.
    Raises InputError where a span has not one list a row, leaves its row, or shares a position with another.
    """
    made: dict[str, list[list[int]]] = {}
    taken: list[set[int]] = [set() for _ in range(len(batch))]
    for name, rows in spans.items():
        if len(rows) != len(batch):
            raise InputError(f"the span {name!r} has {len(rows)} rows for {len(batch)} texts; give one list a text")
        if name in (FIRST, REST, LAST):
            raise InputError(f"{name!r} is the name of what other spans leave; choose another name")
        made[name] = [
            _checked(name, row, at, length, taken[row])
            for row, (at, length) in enumerate(zip(rows, batch.lengths, strict=True))
        ]
    free = [[p for p in range(n) if p not in t] for n, t in zip(batch.lengths, taken, strict=True)]
    ends = {FIRST: [[0]] * len(batch), LAST: [[n - 1] if n > 1 else [] for n in batch.lengths]}
    for name, rows in ends.items():
        made[name] = [[p for p in own if p in left] for own, left in zip(rows, free, strict=True)]
    used = [set(first) | set(last) for first, last in zip(made[FIRST], made[LAST], strict=True)]
    made[REST] = [[p for p in left if p not in ends_] for left, ends_ in zip(free, used, strict=True)]
    return {name: rows for name, rows in made.items() if name in spans or any(rows)}


def _checked(name: str, row: int, at: Sequence[int], length: int, taken: set[int]) -> list[int]:
    found = [p + length if p < 0 else p for p in at]
    if any(not 0 <= p < length for p in found):
        raise InputError(f"row {row}: the span {name!r} names positions {list(at)}, the text has {length} tokens")
    if len(set(found)) < len(found) or taken & set(found):
        raise InputError(f"row {row}: a position of the span {name!r} is named twice; spans may not overlap")
    taken |= set(found)
    return sorted(found)


def same_length_groups(batch: Batch, max_rows: int) -> Iterator[list[int]]:
    """Rows of one length, at most `max_rows` together, so that positions mean the same without padding."""
    by_length: dict[int, list[int]] = {}
    for row, length in enumerate(batch.lengths):
        by_length.setdefault(length, []).append(row)
    for rows in by_length.values():
        for start in range(0, len(rows), max_rows):
            yield rows[start : start + max_rows]


def random_spans(
    batch: Batch, like: Sequence[Sequence[int]], n: int, rng: np.random.Generator
) -> list[list[list[int]]]:
    """`n` times, for each row, as many random positions as `like` [row][...] has, none of them in it nor the last token.

    Raises InputError where a row is too short to have as many others.
    """
    drawn = []
    for _ in range(n):
        rows = []
        for row, (taken, length) in enumerate(zip(like, batch.lengths, strict=True)):
            free = [p for p in range(length - 1) if p not in set(taken)]
            if len(free) < len(taken):
                raise InputError(
                    f"row {row}: {len(taken)} positions are knocked out and only {len(free)} others are left to compare with; "
                    "give longer prompts or n_random=0"
                )
            rows.append(sorted(rng.choice(free, size=len(taken), replace=False).tolist()))
        drawn.append(rows)
    return drawn
