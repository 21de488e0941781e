"""What an atlas says, as the table a person reads and as the JSON object a program reads."""

import math
from typing import TYPE_CHECKING, Any

from conceptlab.cli.tables import Column, print_table

if TYPE_CHECKING:
    from conceptlab.atlas import Atlas, ConceptMap

KEYS = (
    "name", "found", "n", "best_layer", "score", "score_interval", "control", "jump", "settled",
    "effect", "effect_interval", "effect_control", "top_heads", "top_neurons",
)  # fmt: skip
COLUMNS = (
    Column("concept"), Column("found"), Column("depth settled/jump"), Column("best layer", "right"),
    Column("score"), Column("control", "right"), Column("effect"), Column("control", "right"),
    Column("top heads"), Column("top neurons"),
)  # fmt: skip


def as_record(atlas: "Atlas") -> dict[str, Any]:
    """Plain JSON values; what is not there, or not a number, is null."""
    concepts = [{key: _plain(getattr(concept, key)) for key in KEYS} for concept in atlas.concepts]
    head = {"model": atlas.model["name"], "revision": atlas.model["revision"], "seconds": _plain(atlas.seconds)}
    return {**head, "concepts": concepts}


def print_atlas(atlas: "Atlas") -> None:
    """Print the table: every score and every effect beside its control."""
    title = f"{atlas.model['name']} @ {atlas.model['revision']}, {atlas.seconds:.0f} s"
    print_table(title, COLUMNS, [_row(concept) for concept in atlas.concepts])
    for kind in dict.fromkeys(concept.effect_kind for concept in atlas.concepts if concept.effect is not None):
        print(f"effect: {kind}")
    for concept in atlas.concepts:
        for warning in concept.warnings:
            print_note(f"{concept.name}: {warning}")


def print_note(text: str) -> None:
    """Print one line of text from anywhere, harmless to a terminal."""
    from conceptlab.cli.failing import one_line

    print(f"note: {one_line(text)}")


def _row(concept: "ConceptMap") -> tuple[str, ...]:
    return (
        concept.name,
        f"{'yes' if concept.found else 'no'} (q {_number(concept.q)})",
        f"{_number(concept.settled)}/{_number(concept.jump)}",
        concept.best_layer,
        f"{concept.metric} {_with_interval(concept.score, concept.score_interval)}",
        _number(concept.control),
        _with_interval(concept.effect, concept.effect_interval),
        _number(concept.effect_control),
        " ".join(concept.top_heads[:3]) or "-",
        " ".join(concept.top_neurons[:3]) or "-",
    )


def _with_interval(value: float | None, interval: tuple[float, float] | None) -> str:
    if interval is None or _plain(value) is None:
        return _number(value)
    return f"{_number(value)} [{_number(interval[0])}, {_number(interval[1])}]"


def _number(value: float | None) -> str:
    """Two significant places, and `-` for what is not there."""
    if value is None or not math.isfinite(value):
        return "-"
    return f"{value:.2f}" if abs(value) >= 0.1 or value == 0 else f"{value:.2g}"


def _plain(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return [_plain(item) for item in value] if isinstance(value, tuple) else value
