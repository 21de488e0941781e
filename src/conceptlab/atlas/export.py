"""Every chart of an atlas as PNG, SVG and CSV."""

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from conceptlab.atlas.figures import atlas_figures, concept_figures
from conceptlab.atlas.saving import slug
from conceptlab.errors import RunError

if TYPE_CHECKING:
    from conceptlab.atlas.atlas import Atlas
    from conceptlab.plot import Chart

FORMATS = ("png", "svg", "csv")


def export_charts(atlas: "Atlas", folder: Path | str, *, formats: Collection[str] = FORMATS) -> list[Path]:
    """Write `depth_map`, `cosines` and one folder a concept; return the files in order.

    Raises RunError when the disk refuses, ResultError for an unknown format.
    """
    written = []
    for stem, chart in _charts(atlas, Path(folder)):
        try:
            stem.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(f"cannot make {stem.parent}: {error.strerror or error}; choose another folder") from error
        written += [chart.save(stem.with_name(f"{stem.name}.{kind}")) for kind in formats]
    return written


def _charts(atlas: "Atlas", folder: Path) -> "Iterator[tuple[Path, Chart]]":
    for key, chart in atlas_figures(atlas).items():
        yield folder / key, chart
    for concept in atlas.concepts:
        for key, chart in concept_figures(concept).items():
            yield folder / slug(concept.name) / key, chart
