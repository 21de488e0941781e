"""Weights: single numbers of a model's matrices, named by matrix and flat place, with their scores."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from conceptlab.errors import ResultError
from conceptlab.results.provenance import Provenance
from conceptlab.results.saving import load_result, save_result

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, eq=False)
class Weights:
    """`places` [k] of each matrix (flat, ascending, int64) and their `score` [k]; `sizes` are the numbers of all its weights."""

    places: "Mapping[str, Tensor]"
    score: "Mapping[str, Tensor]"
    sizes: Mapping[str, int]
    provenance: Provenance

    def __post_init__(self) -> None:
        for name, at in self.places.items():
            if len(at) != len(self.score[name]) or (len(at) and int(at.max()) >= self.sizes[name]):
                raise ResultError(
                    f"{name}: {len(at)} places with {len(self.score[name])} scores in {self.sizes[name]} weights"
                )

    def __len__(self) -> int:
        return sum(len(at) for at in self.places.values())

    @property
    def share(self) -> float:
        """Of all weights that were searched."""
        return len(self) / max(1, sum(self.sizes.values()))

    def overlap(self, other: "Weights") -> float:
        """Shared places as a share of all places of both (Jaccard); 1 for two empty sets."""
        both = sum(len(_common(at, other.places[name])) for name, at in self.places.items() if name in other.places)
        every = len(self) + len(other) - both
        return both / every if every else 1.0

    def save(self, folder: Path | str) -> None:
        """Write places and scores as safetensors, the rest as JSON."""
        tensors = {
            f"{kind}/{n}": t for kind, of in (("places", self.places), ("score", self.score)) for n, t in of.items()
        }
        save_result(folder, "weights", {"sizes": dict(self.sizes), "provenance": self.provenance.to_record()}, tensors)

    @classmethod
    def load(cls, folder: Path | str) -> "Weights":
        """Read what `save` wrote. Raises ResultError where it is missing or damaged."""
        record, tensors = load_result(folder, "weights")
        parts = {kind: {n: tensors[f"{kind}/{n}"] for n in record["sizes"]} for kind in ("places", "score")}
        return cls(parts["places"], parts["score"], record["sizes"], Provenance.from_record(record["provenance"]))


def _common(a: "Tensor", b: "Tensor") -> "Tensor":
    import torch

    return a[torch.isin(a, b)]
