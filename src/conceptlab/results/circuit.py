"""Circuit: a part of a model's graph that carries a behaviour, each edge with its score and what stands beside it."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import xarray as xr

from conceptlab.errors import ResultError
from conceptlab.results.graph import GraphShape, on_path
from conceptlab.results.provenance import Provenance
from conceptlab.results.saving import load_result, save_result
from conceptlab.results.site import Site

POSITIVE = "positive = corrupting it lowers the metric"
INPUTS = "the receiver's input from the stream, before its norm, summed over positions"
COLUMNS = ("weights", "low", "high", "exact", "control", "p", "q")
WORDS = ("metric", "site", "sign_convention")

NOT_MEASURED: Any = None  # becomes a column of NaN

Edge = tuple[str, str]


@dataclass(frozen=True, eq=False, repr=False)
class Circuit:
    """Edges `source` -> `target` [edge] (numbers of `shape.senders` and `shape.receivers`) with signed `weights` [edge].

    Beside each weight, NaN where it was not measured: its interval `low` to `high`, the `exact` effect of patching the edge, the
    same statistic under its null (`control`), `p`, and `q` over every edge that was searched. `site` says where scores were taken,
    `sign_convention` what a positive one means. Raises ResultError for an edge that the graph does not have, an edge that is given
    twice, an infinite weight, and columns of other lengths.
    """

    shape: GraphShape
    source: np.ndarray
    target: np.ndarray
    weights: np.ndarray
    provenance: Provenance
    metric: str = ""
    low: np.ndarray = NOT_MEASURED
    high: np.ndarray = NOT_MEASURED
    exact: np.ndarray = NOT_MEASURED
    control: np.ndarray = NOT_MEASURED
    p: np.ndarray = NOT_MEASURED
    q: np.ndarray = NOT_MEASURED
    site: str = INPUTS
    sign_convention: str = POSITIVE

    def __post_init__(self) -> None:
        n = len(self.source)
        for name in ("source", "target"):
            _set(self, name, np.array(getattr(self, name), dtype=np.int32))
        for name in COLUMNS:
            given = getattr(self, name)
            _set(self, name, np.full(n, np.nan) if given is None else np.array(given, dtype=np.float64))
        wrong = [name for name in ("source", "target", *COLUMNS) if getattr(self, name).shape != (n,)]
        if wrong:
            raise ResultError(
                f"{wrong[0]} has shape {getattr(self, wrong[0]).shape}; a circuit of {n} edges needs ({n},)"
            )
        if np.isinf(self.weights).any():
            raise ResultError(
                f"edge {int(np.flatnonzero(np.isinf(self.weights))[0])} has an infinite weight; give NaN if it has none"
            )
        _check_edges(self.shape, self.source, self.target)

    @classmethod
    def from_edges(
        cls, shape: GraphShape, edges: Iterable[tuple[Any, ...]], provenance: Provenance, **more: Any
    ) -> "Circuit":
        """From (source, target) or (source, target, weight) with names; a missing weight is 1. `more` are further columns."""
        edges = list(edges)
        source = np.array([shape.sender(edge[0]) for edge in edges], dtype=np.int32)
        target = np.array([shape.receiver(edge[1]) for edge in edges], dtype=np.int32)
        weights = np.array([edge[2] if len(edge) > 2 else 1.0 for edge in edges], dtype=float)
        return cls(shape, source, target, weights, provenance, **more)

    def __len__(self) -> int:
        return len(self.source)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Circuit):
            return NotImplemented
        same = all(getattr(self, name) == getattr(other, name) for name in ("shape", "provenance", *WORDS))
        arrays = ("source", "target", *COLUMNS)
        return same and all(np.array_equal(getattr(self, a), getattr(other, a), equal_nan=True) for a in arrays)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        strongest = self.top(3)
        named = [f"{a} -> {b} ({w:+.3g})" for (a, b), w in zip(strongest.edge_names(), strongest.weights, strict=True)]
        few = f": {', '.join(named)}{', …' if len(self) > 3 else ''}" if named else ""
        return f"Circuit of {len(self):,} of {self.shape.n_edges:,} edges over {len(self.nodes):,} nodes{few}"

    @property
    def edges(self) -> np.ndarray:
        """[edge, 2]: source and target of each edge, as numbers."""
        return np.stack([self.source, self.target], 1)

    @property
    def edge_numbers(self) -> np.ndarray:
        """[edge]: the number of each edge among all edges of the graph."""
        return self.shape.edge_numbers(self.source, self.target)

    def edge_names(self) -> list[Edge]:
        """(source, target) of each edge, as written."""
        senders, receivers = self.shape.senders.names, self.shape.receivers.names
        return [(senders[s], receivers[t]) for s, t in self.edges.tolist()]

    @property
    def nodes(self) -> tuple[str, ...]:
        """embed, heads, MLPs and logits that an edge leaves or enters, from below.

        Where heads share a key/value head, an edge into it counts for those of its heads that send or are asked in the circuit,
        and for the whole group where none does.
        """
        names = [self.shape.senders.names[i] for i in np.flatnonzero(self.node_mask())]
        return (*names, "logits") if (self.target == len(self.shape.receivers) - 1).any() else tuple(names)

    def node_mask(self) -> np.ndarray:
        """bool [sender]: which of embed, heads and MLPs are in the circuit (see `nodes`)."""
        touched = np.zeros(len(self.shape.senders), dtype=bool)
        touched[self.source] = True
        receiver, sender = self.shape.serves
        entered = np.zeros(len(self.shape.receivers), dtype=bool)
        entered[self.target] = True
        shared = np.isin(self.shape.receivers.kind, ("k", "v"))
        touched[sender[(entered & ~shared)[receiver]]] = True
        alone = shared & entered
        alone[receiver[touched[sender]]] = False
        touched[sender[alone[receiver]]] = True
        return touched

    def heads(self) -> list[Site]:
        """The heads of the circuit, as sites that an edit takes (`L1.H0.z`)."""
        at = self.shape.senders
        kept = np.flatnonzero(self.node_mask() & (at.kind == "head"))
        return [Site("z", int(at.layer[i]), (int(at.head[i]),)) for i in kept]

    def select(self, index: np.ndarray) -> "Circuit":
        """The circuit of the edges that `index` (positions or a bool mask) picks, in that order."""
        picked = {name: getattr(self, name)[index] for name in ("source", "target", *COLUMNS)}
        words = {name: getattr(self, name) for name in ("shape", "provenance", *WORDS)}
        return Circuit(**picked, **words)

    def top(self, n: int, *, by: Literal["magnitude", "signed"] = "magnitude") -> "Circuit":
        """The `n` edges with the largest |weight| (or with the largest weight, `by="signed"`), strongest first, never a NaN."""
        if by not in ("magnitude", "signed") or n < 0:
            raise ResultError(f'top({n}, by={by!r}): give n >= 0 and by="magnitude" or by="signed"')
        rank = np.nan_to_num(np.abs(self.weights) if by == "magnitude" else self.weights, nan=-np.inf)
        order = np.argsort(-rank, kind="stable")[:n]
        return self.select(order[~np.isnan(self.weights[order])])

    def pruned(self) -> "Circuit":
        """Without the edges that lie on no way from embed to logits."""
        return self.select(on_path(self.shape, self.source, self.target))

    def without(self, edges: "Circuit | Iterable[Edge]") -> "Circuit":
        """Without the edges of another circuit, or without edges given by name, all of which must be there (ResultError)."""
        if isinstance(edges, Circuit):
            if edges.shape != self.shape:
                raise ResultError(f"the circuits belong to different graphs: {self.shape} and {edges.shape}")
            return self.select(~np.isin(self.edge_numbers, edges.edge_numbers))
        named = [(a, b, self.shape.sender(a), self.shape.receiver(b)) for a, b in edges]
        numbers = np.array([self.shape.edge_numbers(np.array(s), np.array(t)) for _, _, s, t in named], dtype=np.int64)
        there = np.isin(numbers, self.edge_numbers)
        if not there.all():
            a, b = named[int(np.flatnonzero(~there)[0])][:2]
            raise ResultError(f"the circuit has no edge {a} -> {b}, so it cannot be taken away")
        return self.select(~np.isin(self.edge_numbers, numbers))

    @property
    def table(self) -> xr.Dataset:
        """Axis `edge`: the names of source and target and every column."""
        names = np.array(self.edge_names(), dtype=str).reshape(-1, 2)
        columns = {"source": names[:, 0], "target": names[:, 1], **{name: getattr(self, name) for name in COLUMNS}}
        return xr.Dataset({name: ("edge", values) for name, values in columns.items()})

    def save(self, folder: Path | str) -> None:
        """Write as safetensors and JSON into `folder`."""
        import torch

        arrays = {"source": self.source, "target": self.target, "weights": self.weights}
        arrays |= {name: column for name in COLUMNS if not np.isnan(column := getattr(self, name)).all()}
        record = {"shape": asdict(self.shape), "provenance": self.provenance.to_record()}
        record |= {name: getattr(self, name) for name in WORDS}
        save_result(folder, "circuit", record, {name: torch.tensor(values) for name, values in arrays.items()})

    @classmethod
    def load(cls, folder: Path | str) -> "Circuit":
        """Read what `save` wrote. Raises ResultError where it is missing, damaged or newer."""
        record, tensors = load_result(folder, "circuit")
        columns: dict[str, Any] = {name: values.numpy() for name, values in tensors.items()}
        try:
            return cls(
                shape=GraphShape(**record["shape"]),
                provenance=Provenance.from_record(record["provenance"]),
                **{name: record[name] for name in WORDS},
                **columns,
            )
        except (KeyError, TypeError, ValueError, ResultError) as error:
            raise ResultError(f"{folder} holds no readable circuit: {error}") from error

    def _repr_mimebundle_(self, **_: object) -> dict[str, object]:
        return {"text/plain": repr(self), "text/html": self.table._repr_html_()}


def _set(circuit: Circuit, name: str, values: np.ndarray) -> None:
    values.flags.writeable = False
    object.__setattr__(circuit, name, values)


def _check_edges(shape: GraphShape, source: np.ndarray, target: np.ndarray) -> None:
    outside = (source < 0) | (source >= len(shape.senders)) | (target < 0) | (target >= len(shape.receivers))
    if outside.any():
        i = int(np.flatnonzero(outside)[0])
        raise ResultError(
            f"edge {i} joins sender {source[i]} to receiver {target[i]}; the graph has {len(shape.senders)} senders and "
            f"{len(shape.receivers)} receivers"
        )
    backward = np.flatnonzero(source >= shape.n_before[target])
    if len(backward):
        a, b = shape.senders.names[source[backward[0]]], shape.receivers.names[target[backward[0]]]
        raise ResultError(f"there is no edge {a} -> {b}: what {b} reads is complete before {a} has written")
    numbers = np.sort(shape.edge_numbers(source, target))
    twice = np.flatnonzero(numbers[1:] == numbers[:-1])
    if len(twice):
        s, t = shape.edges_of(numbers[twice[:1]])
        raise ResultError(f"the edge {shape.senders.names[s[0]]} -> {shape.receivers.names[t[0]]} is given twice")
