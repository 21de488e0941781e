"""Direction and Subspace: where a concept points in the stream."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from conceptlab.errors import ResultError
from conceptlab.results.provenance import Provenance
from conceptlab.results.saving import load_result, save_result
from conceptlab.results.site import Site

if TYPE_CHECKING:
    import torch

TINY = 1e-6  # below it nothing is left of a unit vector


@dataclass(frozen=True, eq=False)
class Subspace:
    """An orthonormal `basis` [rank, d_model] at `site`, with the `mean` [d_model] of the data and one coordinate a class.

    `concept` names it; `class_points` [class, rank] are the class means inside the subspace, relative to `mean`.
    """

    basis: "torch.Tensor"
    mean: "torch.Tensor"
    site: Site
    concept: str
    class_names: tuple[str, ...]
    class_points: "torch.Tensor"
    provenance: Provenance

    @property
    def rank(self) -> int:
        """Number of dimensions."""
        return self.basis.shape[0]

    @property
    def vector(self) -> "torch.Tensor":
        """The first basis vector [d_model], a unit vector; for two classes or a graded concept it is *the* direction.

        Zeros where there is none (`exists`)."""
        return self.basis[0] if self.rank else self.mean.new_zeros(self.mean.shape)

    @property
    def exists(self) -> bool:
        """Whether there is a direction at all: none where the classes have the same mean (no axis, or one of length 0)."""
        return self.rank > 0 and bool(self.vector.norm() > TINY)

    def check_exists(self) -> None:
        """Raise ResultError where there is no direction: numbers along it would be those of rounding."""
        if not self.exists:
            raise ResultError(
                f"{self.concept} has no direction at {self.site}: what the model holds there does not differ between its labels; "
                "take a layer where the concept is found"
            )

    def save(self, folder: Path | str) -> None:
        """Write as safetensors and JSON into `folder`."""
        record = {
            "site": str(self.site),
            "concept": self.concept,
            "class_names": list(self.class_names),
            "provenance": self.provenance.to_record(),
        }
        save_result(
            folder, "subspace", record, {"basis": self.basis, "mean": self.mean, "class_points": self.class_points}
        )

    @classmethod
    def load(cls, folder: Path | str) -> "Subspace":
        """Read what `save` wrote."""
        record, tensors = load_result(folder, "subspace")
        return cls(
            site=Site.parse(record["site"]),
            concept=record["concept"],
            class_names=tuple(record["class_names"]),
            provenance=Provenance.from_record(record["provenance"]),
            **tensors,
        )
