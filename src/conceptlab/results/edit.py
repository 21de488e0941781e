"""Edit: a change to a model as pure data. `model/edit.py` knows how to apply one; nothing here touches a model."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from conceptlab.errors import SiteError
from conceptlab.results.saving import load_result, save_result
from conceptlab.results.site import Site

if TYPE_CHECKING:
    import torch

Op = Literal["set", "add", "scale", "zero", "mean", "resample", "project_out"]
Positions = Literal["all", "last"] | Sequence[int]
NEEDS_VALUE: tuple[Op, ...] = ("set", "add", "mean", "resample", "project_out")


@dataclass(frozen=True, eq=False)
class Edit:
    """One change at one site.

    `op`: `set` to `value`; `add` `strength * value`; `scale` by `strength`; `zero`; `mean` (set to a mean activation given as
    `value`); `resample` (set to `value`, one row per row of the batch, taken from another run); `project_out` the subspace
    spanned by the orthonormal rows of `value` [rank, d], keeping what `center` has inside it (0 without a center).
    `value` broadcasts against [row, position, (unit,) d]. With `row`-specific values the first axis is the batch row.
    `positions`: "all" real tokens (and every generated one), "last" real token of the prompt, or real-token indices, negative
    from the prompt's end. A position written in the site (`@-1`) means the same.
    Raises SiteError for an unknown op or a missing value.
    """

    site: Site
    op: Op
    value: "torch.Tensor | None" = None
    strength: float = 1.0
    positions: Positions = "all"
    center: "torch.Tensor | None" = field(default=None)

    def __post_init__(self) -> None:
        site = Site.parse(self.site)
        object.__setattr__(self, "site", site)
        if self.op not in ("scale", "zero", *NEEDS_VALUE):
            raise SiteError(f"{self.op!r} is no edit; use set, add, scale, zero, mean, resample or project_out")
        if self.op in NEEDS_VALUE and self.value is None:
            raise SiteError(f"the edit {self.op!r} at {site} needs a value")
        if site.position is not None and self.positions == "all":
            object.__setattr__(self, "positions", (site.position,))

    def __str__(self) -> str:
        where = self.positions if isinstance(self.positions, str) else ",".join(map(str, self.positions))
        strength = f" x{self.strength:g}" if self.op in ("add", "scale") else ""
        return f"{self.op}{strength} at {self.site} ({where})"

    def save(self, folder: Path | str) -> None:
        """Write the edit as safetensors and JSON into `folder`."""
        tensors = {name: t for name, t in (("value", self.value), ("center", self.center)) if t is not None}
        positions = self.positions if isinstance(self.positions, str) else list(self.positions)
        record = {"site": str(self.site), "op": self.op, "strength": self.strength, "positions": positions}
        save_result(folder, "edit", record, tensors)

    @classmethod
    def load(cls, folder: Path | str) -> "Edit":
        """Read what `save` wrote."""
        record, tensors = load_result(folder, "edit")
        positions = record["positions"]
        return cls(
            site=Site.parse(record["site"]),
            op=record["op"],
            value=tensors.get("value"),
            strength=record["strength"],
            positions=positions if isinstance(positions, str) else tuple(positions),  # type: ignore[arg-type]
            center=tensors.get("center"),
        )
