"""Units: ranked heads or neurons, each with its score, the score's null, p and q over everything searched."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import xarray as xr

from conceptlab.results.provenance import Provenance
from conceptlab.results.scores import Scores
from conceptlab.results.site import Site


@dataclass(frozen=True)
class Units:
    """Every unit that was searched, in a table with axis `unit` and variables `layer index score control p q`.

    `control` is the mean of the same statistic under its null; `q` is Benjamini-Hochberg over all rows.
    """

    kind: Literal["head", "neuron"]
    scores: Scores

    def top(self, n: int = 5, *, q_max: float | None = None) -> list[Site]:
        """The `n` best units as sites, best first; with `q_max` only those below it."""
        data = self.scores.data
        order = np.argsort(-data["score"].values, kind="stable")
        kept = [i for i in order if q_max is None or data["q"].values[i] <= q_max][:n]
        name = "z" if self.kind == "head" else "mlp_post"
        return [Site(name, int(data["layer"].values[i]), (int(data["index"].values[i]),)) for i in kept]

    @property
    def table(self) -> xr.Dataset:
        """The table itself."""
        return self.scores.data

    def save(self, folder: Path | str) -> None:
        """Write the table and its envelope into `folder`."""
        self.scores.save(folder)

    @classmethod
    def load(cls, folder: Path | str) -> "Units":
        """Read what `save` wrote."""
        scores = Scores.load(folder)
        return cls(scores.data.attrs["kind"], scores)

    @classmethod
    def from_arrays(  # noqa: PLR0913 - one argument a column
        cls,
        kind: Literal["head", "neuron"],
        *,
        layer: np.ndarray,
        index: np.ndarray,
        score: np.ndarray,
        control: np.ndarray,
        p: np.ndarray,
        q: np.ndarray,
        provenance: Provenance,
        more: Mapping[str, np.ndarray] | None = None,
    ) -> "Units":
        """Build from one array [unit] a column; `more` are columns of the method's own."""
        columns = {"layer": layer, "index": index, "score": score, "control": control, "p": p, "q": q, **(more or {})}
        data = xr.Dataset({k: ("unit", np.asarray(v)) for k, v in columns.items()}, attrs={"kind": kind})
        return cls(kind, Scores(data, provenance))
