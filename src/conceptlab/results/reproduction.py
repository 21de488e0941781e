"""Reproduction: one published system run again: its claim, our numbers, each beside its control."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from conceptlab.errors import ResultError
from conceptlab.results.provenance import Provenance


@dataclass(frozen=True)
class Finding:
    """One number with its control: `value` in `unit` with its 95 % interval, `control` the same statistic where nothing should be.

    `bar` says in words what was asked of it beforehand; `holds` is the verdict, None where the honest output is the interval.
    """

    name: str
    value: float
    control: float | None
    bar: str
    holds: bool | None
    unit: str = ""
    low: float | None = None
    high: float | None = None

    def __post_init__(self) -> None:
        if self.control is None and self.holds is not None and not self.bar:
            raise ResultError(f"{self.name}: a verdict without a control must say its bar")


@dataclass(frozen=True)
class Reproduction:
    """What a recipe returns. `results` holds the frozen results (Scores, Units, Circuit, …) that the numbers were read from."""

    id: str
    findings: tuple[Finding, ...]
    provenance: Provenance
    seconds: float = 0.0
    notes: tuple[str, ...] = ()
    results: Mapping[str, Any] = field(default_factory=dict)

    @property
    def holds(self) -> bool:
        """No finding with a verdict fails."""
        return all(f.holds is not False for f in self.findings)

    def to_record(self) -> dict[str, Any]:
        """Plain JSON values, without `results`."""
        return {
            "id": self.id,
            "holds": self.holds,
            "seconds": self.seconds,
            "findings": [asdict(f) for f in self.findings],
            "notes": list(self.notes),
            "provenance": self.provenance.to_record(),
        }
