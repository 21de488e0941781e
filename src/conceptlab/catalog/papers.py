"""The published systems: one row each, packaged in `papers.jsonl`, with what of it runs here.

A row's state is found, not kept: "works" where a recipe exists, "method" where its method runs by another command,
"planned" otherwise.
"""

import difflib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args

from conceptlab.catalog.recipes import Recipe, recipes
from conceptlab.errors import InputError

State = Literal["works", "method", "planned"]
STATES: tuple[State, ...] = get_args(State)
ROWS_FILE = Path(__file__).parent / "papers.jsonl"


@dataclass(frozen=True)
class Paper:
    """One published system: what was done and found (`claim`), and how it runs here (`recipe`, None where it does not)."""

    id: str
    title: str
    family: str
    kind: str
    modality: str
    claim: str
    code: str
    state: State
    recipe: Recipe | None

    def to_record(self) -> dict[str, Any]:
        """Plain JSON values; what a recipe says is there only where something runs."""
        names = ("id", "title", "family", "kind", "modality", "claim", "code", "state")
        head = {name: getattr(self, name) for name in names}
        if self.recipe is None:
            return head
        names = ("number", "control", "world", "model", "data", "methods", "run")
        return {**head, **{name: getattr(self.recipe, name) for name in names}}


def papers(*, family: str | None = None, state: State | None = None) -> list[Paper]:
    """The rows in the catalogue's order, all of them or those of one family or state.

    Raises InputError for a family or state that no row has.
    """
    rows = _all()
    if family is not None and family not in (families := sorted({paper.family for paper in rows})):
        raise InputError(f"no family {family[:60]!r}; {near(family, families) or 'one of: ' + ', '.join(families)}")
    if state is not None and state not in STATES:
        raise InputError(f"no state {state[:60]!r}; one of: {', '.join(STATES)}")
    return [paper for paper in rows if family in (None, paper.family) and state in (None, paper.state)]


def paper(id: str) -> Paper:
    """One row. Raises InputError for an unknown id, with the ids that are near it."""
    rows = {row.id: row for row in _all()}
    if id not in rows:
        raise InputError(f"no row {id[:60]!r}; {near(id, rows) or 'conceptlab papers lists all ids'}")
    return rows[id]


def near(given: str, known: Iterable[str]) -> str:
    """`did you mean a, b?` for what is spelt like `given`, or is part of it, or holds it; else nothing."""
    known, plain = list(known), given.lower().replace("_", "-")[:60]
    inside = [name for name in known if len(plain) > 2 and plain in name]
    found = list(dict.fromkeys([*difflib.get_close_matches(plain, known, n=3, cutoff=0.6), *inside]))[:4]
    return f"did you mean {', '.join(found)}?" if found else ""


def _all() -> list[Paper]:
    built = recipes()
    return [_paper(row, built.get(row["id"])) for row in _rows()]


def _paper(row: dict[str, Any], recipe: Recipe | None) -> Paper:
    state: State = "works" if recipe else "method" if "method" in row else "planned"
    if state == "method":
        said = row["method"]
        recipe = Recipe(id=row["id"], claim=row["claim"], **{**said, "methods": tuple(said["methods"])})
    return Paper(**{k: v for k, v in row.items() if k != "method"}, state=state, recipe=recipe)


@cache
def _rows() -> tuple[dict[str, Any], ...]:
    return tuple(json.loads(line) for line in ROWS_FILE.read_text(encoding="utf-8").splitlines())
