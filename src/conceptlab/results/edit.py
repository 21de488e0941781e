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

Op = Literal["set", "add", "scale", "zero", "mean", "resample", "project_out", "mask", "scale_scores"]
Positions = Literal["all", "last"] | Sequence[int]
AT_SCORES: tuple[Op, ...] = ("mask", "scale_scores")  # before softmax, at `pattern` only
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
    At `pattern`, `positions` are queries and `keys` the keys that are touched: `zero` and `scale` act after softmax and leave the
    row's sum short; `mask` hides the keys before softmax, so that the rest takes their share; `scale_scores` multiplies the scores
    that enter softmax by `strength`.
    Raises SiteError for an unknown op, a missing value, or `keys` elsewhere than at `pattern`.
    """

    site: Site
    op: Op
    value: "torch.Tensor | None" = None
    strength: float = 1.0
    positions: Positions = "all"
    center: "torch.Tensor | None" = field(default=None)
    keys: Positions = "all"

    def __post_init__(self) -> None:
        site = Site.parse(self.site)
        object.__setattr__(self, "site", site)
        if self.op not in ("scale", "zero", *NEEDS_VALUE, *AT_SCORES):
            raise SiteError(
                f"{self.op!r} is no edit; use set, add, scale, zero, mean, resample or project_out (at pattern: mask, scale_scores)"
            )
        if site.name != "pattern" and (self.op in AT_SCORES or self.keys != "all"):
            raise SiteError(
                f"{self.op!r} with keys={self.keys!r} at {site}: keys and scores are edited at pattern only"
            )
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
        positions, keys = (p if isinstance(p, str) else list(p) for p in (self.positions, self.keys))
        record = {
            "site": str(self.site),
            "op": self.op,
            "strength": self.strength,
            "positions": positions,
            "keys": keys,
        }
        save_result(folder, "edit", record, tensors)

    @classmethod
    def load(cls, folder: Path | str) -> "Edit":
        """Read what `save` wrote."""
        record, tensors = load_result(folder, "edit")
        positions, keys = (
            p if isinstance(p, str) else tuple(p) for p in (record["positions"], record.get("keys", "all"))
        )
        return cls(
            site=Site.parse(record["site"]),
            op=record["op"],
            value=tensors.get("value"),
            strength=record["strength"],
            positions=positions,  # type: ignore[arg-type]
            center=tensors.get("center"),
            keys=keys,  # type: ignore[arg-type]
        )
