"""A chart: a Vega-Lite specification over rows of plain values, with a title and a sentence that says what is seen.

The specification is written as plain values. Building the same with altair's classes costs about 75 ms a chart, most of it
copying and hashing, and a report holds dozens; `Chart.altair` gives the altair chart to whoever wants to change one.
"""

import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from conceptlab.plot.rows import Row
from conceptlab.plot.theme import config

SCHEMA = "https://vega.github.io/schema/vega-lite/v6.json"
VERSION = "6.4"  # of Vega-Lite, among those that vl-convert holds


@dataclass(frozen=True, eq=False)
class Chart:
    """`body` draws the data set `rows` (and those of `more`); `says` is one sentence for the reader of the picture."""

    title: str
    says: str
    body: Mapping[str, Any]
    rows: tuple[Row, ...]
    more: Mapping[str, tuple[Row, ...]] = field(default_factory=dict)

    def to_dict(self, *, dark: bool = False) -> dict[str, Any]:
        """The whole specification: title, data and theme included."""
        return {
            "$schema": SCHEMA,
            "title": {"text": self.title, "subtitle": textwrap.wrap(self.says, self._columns())},
            "config": config(dark=dark),
            **self.drawing(),
        }

    def drawing(self) -> dict[str, Any]:
        """The specification without title and theme, for a page that has its own."""
        datasets = {"rows": list(self.rows), **{name: list(rows) for name, rows in self.more.items()}}
        return {"data": {"name": "rows"}, "datasets": datasets, **self.body}

    def _columns(self) -> int:
        """Characters that fit above the drawing."""
        drawn = self.body.get("spec", self.body)
        across = min(self.body.get("columns", 1), max(2, 500 // drawn["width"]))
        return int(drawn["width"] * across / 6)

    def altair(self) -> Any:
        """The same as an altair chart, to be changed further."""
        import altair

        return altair.Chart.from_dict(self.to_dict())

    def save(self, path: Path | str) -> Path:
        """Write a picture (.png, .svg), the data (.csv) or the specification (.json), by the ending of `path`.

        Raises ResultError for another ending and RunError when the disk refuses.
        """
        from conceptlab.plot.export import save_chart

        return save_chart(self, Path(path))

    def _repr_mimebundle_(self, **_: object) -> dict[str, Any]:
        from conceptlab.plot.export import svg

        # The picture works everywhere and offline; a front end that knows Vega-Lite draws the live chart in its place.
        spec = self.to_dict()
        return {
            "application/vnd.vegalite.v6+json": spec,
            "application/vnd.vegalite.v5+json": {**spec, "$schema": SCHEMA.replace("v6", "v5")},
            "image/svg+xml": svg(self),
            "text/plain": f"{self.title}\n{self.says}",
        }
