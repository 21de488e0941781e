"""`conceptlab papers`: the published systems, what of them runs here, and how."""

import json
import sys
from collections import Counter
from typing import TYPE_CHECKING

from conceptlab.cli.failing import one_line
from conceptlab.cli.tables import Column, print_table
from conceptlab.errors import InputError

if TYPE_CHECKING:
    from conceptlab.catalog import Paper, State

MEANING = {
    "works": "works: a recipe runs it again",
    "method": "method: no recipe yet, its method runs",
    "planned": "planned: not built yet",
}


def run_papers(id: str | None, family: str | None, state: "State | None", *, as_json: bool) -> int:
    """Print the rows of the catalogue, or one row. Raises InputError for an id, family or state that no row has."""
    from conceptlab.catalog import paper, papers

    if id is not None:
        if family is not None or state is not None:
            raise InputError("an id is one row; leave --family and --state out")
        _print_one(paper(id), as_json)
        return 0
    rows = papers(family=family, state=state)
    counts = _counts(rows)
    if as_json:
        _print_json({"counts": counts, "papers": [row.to_record() for row in rows]})
        return 0
    print_table(
        f"{len(rows)} published systems: " + ", ".join(f"{n} {name}" for name, n in counts.items()),
        [Column("id"), Column("state"), Column("family"), Column("title")],
        [(row.id, row.state, row.family, row.title) for row in rows],
    )
    print("conceptlab papers ID shows one row; conceptlab reproduce ID runs one whose state is works")
    return 0


def _counts(rows: "list[Paper]") -> dict[str, int]:
    found = Counter(row.state for row in rows)
    return {state: found[state] for state in MEANING}


def _print_one(row: "Paper", as_json: bool) -> None:
    if as_json:
        _print_json(row.to_record())
        return
    print(f"{row.id}: {one_line(row.title)}")
    for name, text in _lines(row):
        if text:
            print(f"  {name + ':':<8} {one_line(text)}")


def _lines(row: "Paper") -> list[tuple[str, str]]:
    head = [
        ("claim", row.claim),
        ("about", f"{row.kind.replace('-', ' ')}, {row.modality}, family {row.family}"),
        ("code", row.code),
        ("state", MEANING[row.state]),
    ]
    if row.recipe is None:
        return head
    said = row.recipe
    return [
        *head,
        ("number", said.number),
        ("control", said.control),
        ("world", said.world),
        ("model", said.model or "takes none"),
        ("data", said.data or "takes none"),
        ("methods", ", ".join(said.methods)),
        ("run", said.run),
    ]


def _print_json(value: object) -> None:
    sys.stdout.write(json.dumps(value, allow_nan=False) + "\n")
