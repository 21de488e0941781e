"""One form for everything that looks for heads or neurons: a score for every unit beside the same statistic where there is nothing.

A detector is a function from a survey (what several detectors look at, each thing made once) to `Scored`. `ranked` makes the
ranking of it, with p from the null of all units together and q over all that were searched, so that a new detector is one function.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Literal, Protocol, TypeVar

import numpy as np

from conceptlab.errors import ConceptlabError, InputError
from conceptlab.evidence import pooled_p, q_values
from conceptlab.model import Batch, Model
from conceptlab.model.metric import Metric
from conceptlab.results import Provenance, Units
from conceptlab.results.saving import file_names
from conceptlab.runs import SILENT, Progress

Kind = Literal["head", "neuron"]
DRAWS = 20  # of the null at least: with as many as units or more, a single unit of any number can still have q <= 0.05


class Survey(Protocol):
    """What detectors look at, in one model."""

    @property
    def model(self) -> Model: ...

    @property
    def seed(self) -> int: ...


S = TypeVar("S", bound=Survey)


@dataclass(frozen=True, eq=False)
class Scored:
    """`score` [layer, unit] (NaN where the model has no such unit) and `null` [draw, layer, unit], the same statistic under its
    control; `n` rows, words or tokens that it was measured on. p asks whether a score lies more than `floor` above the null. `more`
    are further columns [layer, unit] of the table."""

    score: np.ndarray
    null: np.ndarray
    n: int
    settings: Mapping[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    floor: float = 0.0
    more: Mapping[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Behaviour:
    """What units of a kind are for, as a question: texts and a metric of them, which falls where such a unit is taken away.

    `against`: the rest of the model works against it (a unit that holds something back), so that the metric is below its like for
    other answers.
    """

    name: str
    batch: Batch
    metric: Metric
    against: bool = False


@dataclass(frozen=True)
class Detector(Generic[S]):
    """`name`, what it looks for in a sentence, the `stage` of the survey's four that it belongs to (heads), its `score`, and the
    `behaviour` that says whether the model uses what was found (None: none is known)."""

    name: str
    finds: str
    score: Callable[[S], Scored]
    stage: str = ""
    behaviour: Callable[[S], Behaviour] | None = None


@dataclass(frozen=True, eq=False)
class Found:
    """`units` by detector, and in `skipped` why a detector had nothing to look at."""

    units: Mapping[str, Units]
    skipped: Mapping[str, str]

    def save(self, folder: Path | str) -> None:
        """Write every ranking into a folder of its own (`file_names` of the detectors' names)."""
        for name, where in file_names(self.units).items():
            self.units[name].save(Path(folder) / where)


def ranked(kind: Kind, scored: Scored, provenance: Provenance) -> Units:
    """Every unit that the model has, with p against the null pooled over all of them (one-sided: large is found) and q."""
    score = np.asarray(scored.score, dtype=float)
    null = np.asarray(scored.null, dtype=float).reshape(len(scored.null), -1)
    layer, index = (axis.reshape(-1) for axis in np.indices(score.shape))
    there = np.isfinite(score.reshape(-1)) & np.isfinite(null).all(0)
    score, null = score.reshape(-1)[there], null[:, there]
    p = pooled_p(score - scored.floor, null)
    return Units.from_arrays(
        kind, layer=layer[there], index=index[there], score=score, control=null.mean(0), p=p, q=q_values(p),
        provenance=provenance, more={name: np.reshape(column, -1)[there] for name, column in scored.more.items()},
    )  # fmt: skip


def chosen(detectors: Mapping[str, Detector[S]], names: Sequence[str] | None) -> list[Detector[S]]:
    """The detectors of these names (None: all). Raises InputError for an unknown name."""
    unknown = sorted(set(names or ()) - set(detectors))
    if unknown:
        raise InputError(f"no detector is called {', '.join(unknown)}; the detectors are {', '.join(detectors)}")
    return [detectors[name] for name in dict.fromkeys(names if names is not None else detectors)]


def run_detectors(
    kind: Kind, survey: S, known: Mapping[str, Detector[S]], names: Sequence[str] | None, *, progress: Progress = SILENT
) -> Found:
    """Run each on one survey. A detector that cannot ask its question of this model is told in `skipped`; the others go on.

    `names` are some of the `known` (None: all). Raises InputError for an unknown name, and the one error where there is no other.
    """
    detectors, model = chosen(known, names), survey.model
    envelope = {"seed": survey.seed, "model": model.name, "revision": model.revision}
    units: dict[str, Units] = {}
    skipped: dict[str, str] = {}
    with progress.task("detectors", total=len(detectors)) as task:
        for detector in detectors:
            try:
                scored = detector.score(survey)
            except ConceptlabError as error:
                if len(detectors) == 1:
                    raise
                skipped[detector.name] = str(error)
            else:
                provenance = Provenance(
                    f"{detector.name} {kind}s", scored.n, settings=scored.settings, warnings=scored.warnings, **envelope
                )
                units[detector.name] = ranked(kind, scored, provenance)
            task.advance(1)
    return Found(units, skipped)
