"""What is tested and what is found: a model with its inputs, the outcome of one identity, the record of one type."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from conceptlab.errors import ConceptlabError
from conceptlab.model import Batch, Model
from conceptlab.results import SITES

ENDS = ("embed", "final_norm", "logits")
LENGTHS = (4, 9, 6)


@dataclass(frozen=True)
class Outcome:
    """One identity of one model. `status`: "pass", "missing" (`note` says why the architecture has none) or "FAIL"."""

    status: str
    error: float | None = None
    note: str = ""


@dataclass(frozen=True)
class Record:
    """Everything found about one model type; `reason` is set where it could not be built or read."""

    model_type: str
    model_class: str
    n_layers: int = 0
    sites: dict[str, list[int] | str] = field(default_factory=dict)
    identities: dict[str, Outcome] = field(default_factory=dict)
    seconds: float = 0.0
    reason: str = ""

    @property
    def conforms(self) -> bool:
        """The model was read and no identity fails."""
        return not self.reason and all(o.status != "FAIL" for o in self.identities.values())

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Record:
        """What `to_json` gave."""
        outcomes = {name: Outcome(**o) for name, o in values["identities"].items()}
        return cls(**{**values, "identities": outcomes})


@dataclass
class Case:
    """A model under test with one short input (`given`: a one-row batch, or tensors) and, for tokens, a ragged batch."""

    model: Model
    module: nn.Module
    given: Any
    plain: dict[str, Tensor]
    ragged: Batch | None

    def capture(self, *sites: str, layers: list[int] | None = None) -> Any:
        """All real tokens of the short input."""
        return self.model.capture(self.given, sites, layers=layers, positions="all")

    def final(self, given: Any = None, **options: Any) -> Tensor:
        """What changes are judged by: the logits, or the (normed) last stream of a model without them."""
        given = self.given if given is None else given
        has_norm = not isinstance(site_table(self.model)["final_norm"], str)
        end = "logits" if self.model.has_logits else "final_norm" if has_norm else "resid_post"
        last = [self.model.n_layers - 1] if end == "resid_post" else None
        return self.model.capture(given, end, layers=last, positions="all", **options)[end]


def relative(a: Tensor, b: Tensor) -> float:
    """Largest absolute difference over the largest absolute value; infinite where shapes differ or values are not finite."""
    if a.shape != b.shape or not bool(torch.isfinite(a).all()):
        return math.inf
    return float((a.double() - b.double()).abs().max() / b.double().abs().max().clamp_min(1e-30)) if a.numel() else 0.0


def site_table(model: Model) -> dict[str, list[int] | str]:
    """Every site: its layers ([] for the ends of the stream), or why this model has none."""
    table: dict[str, list[int] | str] = {}
    for name in SITES:
        layers = list(model.layers_with(name)) if name not in ENDS else []
        try:
            model.tap(name, None if name in ENDS else (layers or [0])[0])
            table[name] = layers
        except ConceptlabError as error:
            table[name] = str(error).split(": ", 1)[-1]
    return table


def judged(error: float, limit: float, note: str = "") -> Outcome:
    """Pass or FAIL by a limit."""
    return Outcome("pass" if error <= limit else "FAIL", error, note)
