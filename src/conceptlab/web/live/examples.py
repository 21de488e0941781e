"""A concept's labelled texts, token by token: where along the text the stream lies along the concept's direction.

readout[token] = (x - mean) . d at the layer of the direction, in the atlas's unit: -1 and +1 are the means of two classes (other
concepts: standard deviations over the read positions). The direction was fitted on these texts, so how well the readout fits the
labels is no held-out number; its control is the same correlation with shuffled labels. Cost: one forward of each text.
"""

from collections.abc import Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from conceptlab.measure.lenses.targets import token_text
from conceptlab.measure.probing.streams import locate
from conceptlab.web.jobs import Said
from conceptlab.web.live.fitting import check_fits
from conceptlab.web.live.one_pass import loaded

if TYPE_CHECKING:
    from conceptlab.data import Concept
    from conceptlab.model import Batch, Model
    from conceptlab.results import Subspace

MOST, TOGETHER, SHUFFLES = 2000, 64, 200


@dataclass(frozen=True, eq=False)
class Examples:
    """`tokens` [text] and `values` [text] of every token, `at` [text] the read position, `labels` [text] as words, `rows` [text]
    the rows of the file. `r` is the correlation of readout and label, `r_control` the 95 % point of its size on shuffled labels."""

    rows: tuple[int, ...]
    tokens: tuple[tuple[str, ...], ...]
    values: tuple[np.ndarray, ...]
    at: tuple[int, ...]
    labels: tuple[str, ...]
    texts: tuple[str, ...]
    unit: str
    r: float
    r_control: float
    total: int

    @property
    def readout(self) -> np.ndarray:
        """[text]: the value at the read position."""
        return np.array([values[at] for values, at in zip(self.values, self.at, strict=True)])


def examples(live: Any, concept: "Concept", subspace: "Subspace") -> Generator[Said, None, Examples]:
    """Read the texts, at most MOST of them, evenly spaced. Raises InputError for a direction of another model."""
    model = yield from loaded(live)
    check_fits(model, subspace)
    subspace.check_exists()
    batch, read = locate(model, concept)
    rows = np.unique(np.linspace(0, concept.n - 1, min(MOST, concept.n)).round().astype(int)).tolist()
    values: list[np.ndarray] = []
    for start in range(0, len(rows), TOGETHER):
        yield Said(start / len(rows), f"text {start} of {len(rows)}")
        values += _read(model, batch.select(rows[start : start + TOGETHER]), subspace)
    at = [read[row] for row in rows]
    here = np.array([v[a] for v, a in zip(values, at, strict=True)])
    middle, size, unit = _unit(subspace, here)
    scaled = tuple(((v - middle) / size).astype(np.float32) for v in values)
    tokens = tuple(_pieces(model, concept.texts[row], batch.select([row])) for row in rows)
    r, control = _fit(here, concept, rows, subspace)
    return Examples(
        tuple(rows), tokens, scaled, tuple(at), tuple(_label(concept, row) for row in rows),
        tuple(concept.texts[row] for row in rows), unit, r, control, concept.n,
    )  # fmt: skip


def _read(model: "Model", batch: "Batch", subspace: "Subspace") -> list[np.ndarray]:
    """Projections [text] of every token of some texts."""
    site = subspace.site
    asked = site.name if site.layer is None else {site.name: [site.layer]}
    acts = model.capture(batch, asked, positions="all")
    stream = acts[site.name] if site.layer is None else acts.at(site.name, site.layer)
    found = ((stream.float().cpu() - subspace.mean.float()) @ subspace.vector.float()).numpy()
    return [found[acts.row == i] for i in range(len(batch))]


def _pieces(model: "Model", text: str, batch: "Batch") -> tuple[str, ...]:
    """The text cut at its tokens, each with what stands before it and belongs to none (the spaces of some tokenizers)."""
    decoded = [token_text(model, i) for i in batch.ids[0]]
    if batch.offsets is None:
        return tuple(decoded)
    found, reached = [], 0
    for own, (start, end) in zip(decoded, batch.offsets[0], strict=True):
        found.append(text[reached:end] if end > start else own)
        reached = max(reached, end)
    return tuple(found)


def _unit(subspace: "Subspace", here: np.ndarray) -> tuple[float, float, str]:
    """What 0 and 1 of the readout are, in words."""
    points = subspace.class_points
    if points.shape[0] == 2 and float((points[1, 0] - points[0, 0]).abs()) > 1e-9:
        low, high = float(points[0, 0]), float(points[1, 0])
        names = subspace.class_names
        return (low + high) / 2, (high - low) / 2, f"−1 is the mean of “{names[0]}”, +1 that of “{names[1]}”"
    return float(here.mean()), float(here.std()) or 1.0, "in standard deviations over these texts"


def _fit(here: np.ndarray, concept: "Concept", rows: list[int], subspace: "Subspace") -> tuple[float, float]:
    """Correlation of the readout with the labels (classes: with their means along the direction) and its control."""
    labels = np.asarray(concept.labels)[rows]
    goal = labels.astype(float) if concept.kind == "graded" else subspace.class_points[:, 0].numpy()[labels.astype(int)]
    if here.std() == 0 or goal.std() == 0:
        return float("nan"), float("nan")
    rng = np.random.default_rng(0)
    shuffled = [abs(np.corrcoef(here, rng.permutation(goal))[0, 1]) for _ in range(SHUFFLES)]
    return float(np.corrcoef(here, goal)[0, 1]), float(np.quantile(shuffled, 0.95))


def _label(concept: "Concept", row: int) -> str:
    value = concept.labels[row]
    return f"{value:.4g}" if concept.kind == "graded" else concept.class_names[int(value)]
