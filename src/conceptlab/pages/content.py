"""What stands on the page of a report, as frozen data: words that are already chosen, and charts."""

from dataclasses import dataclass, field

from conceptlab.plot import Chart


@dataclass(frozen=True)
class Note:
    """A word of the page and what it means; also a field of the provenance and its value."""

    term: str
    text: str


@dataclass(frozen=True)
class SummaryRow:
    """One concept in words: every score and every effect as value, interval and control.

    `depth` is the curve above its control [layer]; `anchor` the id of the concept's section.
    """

    name: str
    anchor: str
    found: bool
    q: str
    depth: tuple[float, ...]
    jump: str
    settled: str
    best_layer: str
    metric: str
    score: str
    score_interval: str
    control: str
    effect: str
    effect_interval: str
    effect_control: str
    effect_unit: str
    top_heads: str
    top_neurons: str


@dataclass(frozen=True, eq=False)
class Figure:
    """A chart on the page. `file` is the stem of what its buttons save; `wide` gives it a row of its own."""

    id: str
    file: str
    chart: Chart
    heading: str = ""
    wide: bool = False


@dataclass(frozen=True, eq=False)
class Section:
    """One concept: its verdict, what was found in sentences under a word each, its charts."""

    id: str
    name: str
    found: bool
    facts: tuple[str, ...]
    findings: tuple[Note, ...]
    figures: tuple[Figure, ...]
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Report:
    """The whole page."""

    title: str
    model: str
    lede: str
    facts: tuple[Note, ...]
    summary: tuple[SummaryRow, ...]
    overview: tuple[Figure, ...]
    sections: tuple[Section, ...]
    geometry: tuple[Figure, ...]
    notes: tuple[Note, ...]
    provenance: tuple[Note, ...]
    warnings: tuple[str, ...] = field(default=())
