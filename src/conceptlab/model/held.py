"""Tensors kept as the model made them: one forward over all tokens needs no copy, and gives back layers that share memory.

A kept tensor must not change afterwards. torch counts the writes to a tensor (its version), so a block that goes on to add in
place is noticed when the forward ends, and a later change when the values are asked for.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from conceptlab.errors import SiteError


def holdable(view: Tensor) -> bool:
    """Whether keeping `view` itself is safe: its writes are counted (not so in inference mode, nor by kernels of some devices)."""
    return view.device.type == "cpu" and not view.is_inference() and not view.requires_grad


@dataclass(eq=False)
class Held:
    """One site: `parts` [layer] of [row, col, …] with the version each had; `ends` where the site has no layer axis."""

    site: str
    parts: list[Tensor | None]
    versions: list[int]
    ends: bool

    @classmethod
    def empty(cls, site: str, n_layers: int, *, ends: bool) -> "Held":
        """Room for `n_layers` layers, or for the one tensor of an end of the stream."""
        return cls(site, [None] * n_layers, [0] * n_layers, ends)

    def put(self, axis: int, view: Tensor) -> None:
        """Keep the view of one layer. Raises SiteError where layers differ in shape."""
        if any(p is not None and p.shape != view.shape for p in self.parts):
            raise SiteError(
                f"layers of {self.site} differ in shape here; capture them one layer at a time (layers=[...])"
            )
        self.parts[axis], self.versions[axis] = view, view._version

    @property
    def unchanged(self) -> bool:
        """Whether nothing has written to what is kept."""
        return all(p is None or p._version == v for p, v in zip(self.parts, self.versions, strict=True))

    def flat(self) -> list[Tensor]:
        """Every layer [token, …], views of the model's own tensors. Raises SiteError if one is spoilt or missing."""
        if not self.unchanged:
            raise SiteError(
                f"{self.site} was written to after it was captured; read it before changing it, or capture again"
            )
        flat = [p.flatten(0, 1) for p in self.parts if p is not None]
        if len(flat) < len(self.parts):
            raise SiteError(
                f"a layer of {self.site} was not reached by this forward; capture the others (layers=[...])"
            )
        return flat

    def stacked(self) -> Tensor:
        """[token, layer, …], or [token, …] of an end (which stays the model's own tensor). Raises SiteError as `flat` does."""
        flat = self.flat()
        return flat[0] if self.ends else torch.stack(flat, 1)
