"""The atlas as a table: the same rows in the terminal, in the report and, as plain values, under `--json`."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from conceptlab.atlas.saving import slug
from conceptlab.pages.content import SummaryRow
from conceptlab.pages.templates import written
from conceptlab.plot.naming import metric_name, visible

if TYPE_CHECKING:
    from rich.table import Table

    from conceptlab.atlas.atlas import Atlas, ConceptMap

KEYS = ("name", "found", "n", "best_layer", "score", "score_interval", "control", "jump", "settled", "effect",
        "effect_interval", "effect_control", "top_heads", "top_neurons", "p", "q", "metric", "effect_kind",
        "warnings")  # fmt: skip
BLOCKS = "▁▂▃▄▅▆▇█"
# The three readings of an effect: the label or the beginning of its unit -> in a heading, in a chart.
READINGS = {
    ("kl", "KL to the unchanged"): ("KL, nats", "next-token KL, nats"),
    ("words", "log-odds"): ("log-odds, nats", "log-odds of label words, nats"),
    ("readout", "shift of the last"): ("readout, sd", "shift of the last readout, sd"),
}


def summary_rows(atlas: "Atlas") -> tuple[SummaryRow, ...]:
    """One row a concept, in the atlas's order."""
    return tuple(summary_row(concept) for concept in atlas.concepts)


def summary_row(concept: "ConceptMap") -> SummaryRow:
    """The words for one concept."""
    return SummaryRow(
        name=visible(concept.name, 40),
        anchor=f"concept-{slug(concept.name)}",
        found=concept.found,
        q=number(concept.q),
        depth=tuple(float(v) for v in _above(concept)),
        jump=percent(concept.jump),
        settled=percent(concept.settled),
        best_layer=visible(concept.best_layer, 12),
        metric=metric_name(concept.metric),
        score=number(concept.score),
        score_interval=interval(concept.score_interval),
        control=number(concept.control),
        effect=number(concept.effect),
        effect_interval=interval(concept.effect_interval),
        effect_control=number(concept.effect_control),
        effect_unit=effect_unit(concept.effect_kind) if concept.effect is not None else "",
        top_heads=" ".join(short_site(s) for s in concept.top_heads[:3]) or "–",
        top_neurons=" ".join(short_site(s) for s in concept.top_neurons[:3]) or "–",
    )


def record(atlas: "Atlas") -> dict[str, Any]:
    """The object that `--json` prints: plain values, null for what is not there or not a number."""
    concepts = [{key: _plain(getattr(concept, key)) for key in KEYS} for concept in atlas.concepts]
    head = {"model": atlas.model.get("name"), "revision": atlas.model.get("revision"), "seconds": _plain(atlas.seconds)}
    return {**head, "concepts": concepts}


def terminal_table(atlas: "Atlas") -> "Table":
    """The atlas as a rich table: controls dim beside what they control; names as text, never as markup."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    words = summary_rows(atlas)
    units = {r.effect_unit for r in words if r.effect_unit}
    unit = f" ({next(iter(units))})" if len(units) == 1 else ""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title_justify="left", title=Text(_title(atlas)))
    for heading in ("concept", "depth"):
        table.add_column(heading, no_wrap=True)
    table.add_column("best layer", justify="right")
    for heading in (_score_heading(words), f"effect{unit}"):
        table.add_column(heading)
        table.add_column("control", justify="right")
    for heading in ("top heads", "top neurons"):
        table.add_column(heading)
    for r in words:
        mark = Text("● " if r.found else "○ ", style="green" if r.found else "dim")
        shown = f" {r.effect_unit}" if r.effect_unit and not unit else ""
        table.add_row(
            mark.append(r.name, style="bold" if r.found else "dim"),
            Text(f"{spark(r.depth)} {r.settled}"),
            Text(r.best_layer),
            Text(r.score).append(f" {r.score_interval}", style="dim"),
            Text(r.control, style="dim"),
            Text(r.effect).append(f" {r.effect_interval}{shown}", style="dim"),
            Text(r.effect_control, style="dim"),
            Text(r.top_heads),
            Text(r.top_neurons),
        )
    return table


def spark(values: Sequence[float], width: int = 12) -> str:
    """A curve as blocks, at most `width` of them; the lowest block is "no better than the control", the highest 0.5 above."""
    at = np.linspace(0, len(values) - 1, min(width, len(values))).round().astype(int) if len(values) else []
    levels = [0.0 if math.isnan(values[i]) else min(max(values[i], 0.0) / 0.5, 1.0) for i in at]
    return "".join(BLOCKS[round(level * (len(BLOCKS) - 1))] for level in levels)


def number(value: float | None) -> str:
    """Three digits after the point from 0.1 on, two significant ones below, a dash for what is not there."""
    return written(value)


def interval(ends: Sequence[float] | None) -> str:
    """`[low, high]`, or nothing."""
    return "" if ends is None else f"[{number(ends[0])}, {number(ends[1])}]"


def percent(fraction: float | None) -> str:
    """A fraction of the depth, as a percentage."""
    return "–" if fraction is None or not math.isfinite(fraction) else f"{100 * fraction:.0f}\u00a0%"


def short_site(site: str) -> str:
    """`L3.H5` for `L3.H5.z`: in a column of heads the site's last word says nothing new."""
    return visible(site.removesuffix(".z").removesuffix(".mlp_post"), 24)


def effect_unit(kind: str) -> str:
    """The reading of an effect and its unit in a few letters."""
    return _reading(kind)[0]


def reading_words(label: str) -> str:
    """The reading of an effect and its unit as a chart's heading."""
    return _reading(label)[1]


def _reading(label: str) -> tuple[str, str]:
    for (key, start), words in READINGS.items():
        if label == key or label.startswith(start):
            return words
    return visible(label, 30), visible(label, 60)


def _above(concept: "ConceptMap") -> np.ndarray:
    return concept.depth["score"].values - concept.depth["control"].values


def _score_heading(words: Sequence[SummaryRow]) -> str:
    metrics = {r.metric for r in words}
    return next(iter(metrics)) if len(metrics) == 1 else "score"


def _title(atlas: "Atlas") -> str:
    found = sum(c.found for c in atlas.concepts)
    name = visible(str(atlas.model.get("name", "")), 80)
    return f"{name}: {found} of {len(atlas.concepts)} concepts found (q ≤ 0.05), {atlas.seconds:.0f} s"


def _plain(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return [_plain(item) for item in value] if isinstance(value, tuple) else value
