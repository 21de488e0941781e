"""Atlas and ConceptMap: where a model keeps each concept, whether it uses it, and how sure we are, as frozen data."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np

from conceptlab.atlas.equality import same
from conceptlab.errors import ResultError
from conceptlab.results import Provenance, Scores, Subspace, Units

Metric = Literal["accuracy", "auc", "r"]


@dataclass(frozen=True, eq=False)
class ConceptMap:
    """Everything the atlas says about one concept; two maps are equal when all their values are.

    `found` is the verdict over the whole run: the score of the layer chosen inside nested folds beats the permutation
    null of the same procedure, with `q` (Benjamini-Hochberg over the run's concepts) at most 0.05; `control` is the
    mean of that null. `jump` and `settled` are fractions of the depth (0 = embedding, 1 = last block), None where there
    is no such point.
    `effect` is in the unit that `effect_kind` names, `effect_control` the same for norm-matched random directions.

    depth: dim `layer` ("embed", "0", ...), variables score, low, high, control and, where they were measured (else NaN
    or absent), control_high (95 % of the null), control_task, selectivity, compression, noised, quantised.
    effects: dims intervention x readout, variables score, low, high, control, control_high, p.
    """

    name: str
    kind: str
    class_names: tuple[str, ...]
    n: int
    metric: Metric
    found: bool
    p: float
    q: float
    best_layer: str
    score: float
    score_interval: tuple[float, float]
    control: float
    jump: float | None
    settled: float | None
    effect: float | None
    effect_interval: tuple[float, float] | None
    effect_control: float | None
    effect_kind: str
    depth: Scores
    heads: Units | None
    neurons: Units | None
    direction: Subspace | None
    effects: Scores | None
    top_heads: tuple[str, ...] = ()
    top_neurons: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, (tuple, list)):
                object.__setattr__(self, field.name, tuple(_plain(v) for v in value))
            else:
                object.__setattr__(self, field.name, _plain(value))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ConceptMap) and all(
            same(getattr(self, f.name), getattr(other, f.name)) for f in fields(self)
        )

    def _repr_mimebundle_(self, **_: object) -> dict[str, Any]:
        from conceptlab.atlas.notebook import concept_bundle

        return concept_bundle(self)


@dataclass(frozen=True, eq=False)
class Atlas:
    """The map of one model over one set of concepts; two are equal when all their values are.

    `model` holds name, revision, n_layers, n_heads, d_model, d_mlp, has_logits; `geometry` has dims
    concept x concept_other and variables score (cosine), causal (cosine under the causal inner product) and control
    (random directions).
    """

    model: Mapping[str, Any]
    concepts: tuple[ConceptMap, ...]
    geometry: Scores | None
    provenance: Provenance
    seconds: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "model", {str(k): _plain(v) for k, v in self.model.items()})
        object.__setattr__(self, "seconds", float(self.seconds))
        names = [c.name for c in self.concepts]
        for name in names:
            if names.count(name) > 1:
                raise ResultError(f"two concepts of the atlas are called {name!r}; give each its own name")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Atlas) and all(
            same(getattr(self, f.name), getattr(other, f.name)) for f in fields(self)
        )

    def concept(self, name: str) -> ConceptMap:
        """The map of one concept. Raises ResultError, listing those present, when there is none of that name."""
        for concept in self.concepts:
            if concept.name == name:
                return concept
        present = ", ".join(c.name for c in self.concepts) or "none"
        raise ResultError(f"the atlas has no concept {name!r}; it has: {present}")

    def save(self, folder: Path | str) -> Path:
        """Write every concept and then `manifest.json` into `folder`, and return it.

        Raises RunError when the disk refuses and ResultError when `folder` holds files that are no atlas.
        """
        from conceptlab.atlas.saving import save_atlas

        return save_atlas(self, Path(folder))

    @classmethod
    def load(cls, folder: Path | str) -> "Atlas":
        """Read what `save` wrote, verifying the sha256 of every file. Raises ResultError: missing, damaged or newer."""
        from conceptlab.atlas.saving import load_atlas

        return load_atlas(Path(folder))

    def report(self, path: Path | str) -> Path:
        """Write the self-contained `report.html` to `path` and return it. Raises RunError when the disk refuses."""
        from conceptlab.atlas.report import write_report

        return write_report(self, Path(path))

    def _repr_mimebundle_(self, **_: object) -> dict[str, Any]:
        from conceptlab.atlas.notebook import atlas_bundle

        return atlas_bundle(self)


def _plain(value: Any) -> Any:
    """A numpy scalar as the Python number it is, so that what is loaded equals what was saved."""
    return value.item() if isinstance(value, np.generic) else value
