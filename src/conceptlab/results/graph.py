"""The graph of a transformer's computation: who writes into the stream, who reads from it, and which edges there are.

Senders write: `embed`, every head `L0.H1`, every MLP `L0.mlp`. Receivers read: the query, key and value inputs of heads
(`L0.H1.q`, `L0.H1.k`, `L0.H1.v`), MLPs (`L0.mlp`) and `logits`. Where several query heads share a key/value head, `k` and `v`
carry the number of the key/value head: with 8 heads and 2 key/value heads, `L0.H1.k` is what heads 4 to 7 of layer 0 read.

Senders are numbered from below: embed, then layer by layer the heads and the MLP. A receiver may therefore read the senders 0 to
n - 1 for one n of its own, and an edge has a number: the receiver's offset plus the sender. Nothing here is a loop over edges.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from conceptlab.errors import ResultError, SiteError

KINDS = ("q", "k", "v", "mlp", "logits")  # of receivers


@dataclass(frozen=True, eq=False)
class Nodes:
    """Where each sender or receiver is: `layer` (embed -1, logits n_layers), `kind`, `head` (-1 without one), all [node]."""

    layer: np.ndarray
    kind: np.ndarray
    head: np.ndarray

    @classmethod
    def of(cls, parts: list[tuple[int, str, int]]) -> "Nodes":
        """From (layer, kind, how many); heads are counted where the kind has them."""
        sizes = [n for _, _, n in parts]
        layer, kind = (np.repeat([part[i] for part in parts], sizes) for i in (0, 1))
        start = np.repeat(np.cumsum(sizes) - sizes, sizes)
        head = np.where(np.isin(kind, ("head", "q", "k", "v")), np.arange(len(layer)) - start, -1)
        return cls(layer, kind, head)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """As they are written."""
        columns = zip(self.layer.tolist(), self.kind.tolist(), self.head.tolist(), strict=True)
        return tuple(_name(*column) for column in columns)

    @cached_property
    def index(self) -> dict[str, int]:
        """The number of each name."""
        return {name: i for i, name in enumerate(self.names)}

    def __len__(self) -> int:
        return len(self.layer)


def _name(layer: int, kind: str, head: int) -> str:
    if kind in ("embed", "logits"):
        return kind
    if kind == "mlp":
        return f"L{layer}.mlp"
    return f"L{layer}.H{head}" if kind == "head" else f"L{layer}.H{head}.{kind}"


@dataclass(frozen=True)
class GraphShape:
    """What the edges of a model depend on.

    `n_kv_heads` 0 means as many as `n_heads`. In `parallel` blocks attention and MLP read the same stream, so no head feeds the
    MLP of its own layer. `attention_only` lists layers without an MLP. Raises ResultError for a shape that cannot be.
    """

    n_layers: int
    n_heads: int
    n_kv_heads: int = 0
    parallel: bool = False
    attention_only: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "n_kv_heads", self.n_kv_heads or self.n_heads)
        object.__setattr__(self, "attention_only", tuple(sorted(set(self.attention_only))))
        if min(self.n_layers, self.n_heads, self.n_kv_heads) < 1 or self.n_heads % self.n_kv_heads:
            raise ResultError(
                f"no graph of {self.n_layers} layers with {self.n_heads} heads on {self.n_kv_heads} key/value heads; give "
                "positive numbers, n_heads a multiple of n_kv_heads"
            )
        wrong = [layer for layer in self.attention_only if not 0 <= layer < self.n_layers]
        if wrong:
            raise ResultError(
                f"layer {wrong[0]} cannot be attention-only: the graph has layers 0 to {self.n_layers - 1}"
            )

    @cached_property
    def senders(self) -> Nodes:
        """embed, then by layer the heads and the MLP."""
        parts = [(-1, "embed", 1)]
        for layer in range(self.n_layers):
            parts += [(layer, "head", self.n_heads), *self._mlp(layer)]
        return Nodes.of(parts)

    @cached_property
    def receivers(self) -> Nodes:
        """By layer the queries, keys, values and the MLP, then logits."""
        parts = []
        for layer in range(self.n_layers):
            parts += [(layer, "q", self.n_heads), (layer, "k", self.n_kv_heads), (layer, "v", self.n_kv_heads)]
            parts += self._mlp(layer)
        return Nodes.of([*parts, (self.n_layers, "logits", 1)])

    def _mlp(self, layer: int) -> list[tuple[int, str, int]]:
        return [] if layer in self.attention_only else [(layer, "mlp", 1)]

    @cached_property
    def n_before(self) -> np.ndarray:
        """[receiver]: how many senders it may read, which are the first so many."""
        start = np.searchsorted(self.senders.layer, self.receivers.layer)
        own_heads = 0 if self.parallel else self.n_heads
        return start + np.where(self.receivers.kind == "mlp", own_heads, 0)

    @cached_property
    def offsets(self) -> np.ndarray:
        """[receiver]: the number of its first edge."""
        return np.cumsum(self.n_before) - self.n_before

    @cached_property
    def serves(self) -> tuple[np.ndarray, np.ndarray]:
        """(receiver [link], sender [link]): which senders compute from which receivers; a key serves its whole group of heads."""
        at, group = self.receivers, self.n_heads // self.n_kv_heads
        shared = np.isin(at.kind, ("k", "v"))
        times = np.where(at.kind == "logits", 0, np.where(shared, group, 1))
        receiver = np.repeat(np.arange(len(at)), times)
        within = np.arange(len(receiver)) - np.repeat(np.cumsum(times) - times, times)
        first = np.searchsorted(self.senders.layer, at.layer[receiver])
        slot = np.where(shared, at.head * group, np.where(at.kind == "mlp", self.n_heads, at.head))
        return receiver, first + slot[receiver] + within

    @property
    def n_edges(self) -> int:
        """How many edges the whole graph has."""
        return int(self.n_before.sum())

    def edge_numbers(self, source: np.ndarray, target: np.ndarray) -> np.ndarray:
        """The number [edge] of each edge among all edges of the graph."""
        return self.offsets[target] + source

    def edges_of(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(source, target) [edge] of edges given by number; the inverse of `edge_numbers`."""
        target = np.searchsorted(self.offsets, numbers, side="right") - 1
        return (numbers - self.offsets[target]).astype(np.int32), target.astype(np.int32)

    def sender(self, name: str) -> int:
        """The number of a sender. Raises SiteError for a name that sends nothing here."""
        return self._find(self.senders, name, "sender")

    def receiver(self, name: str) -> int:
        """The number of a receiver. Raises SiteError for a name that reads nothing here."""
        return self._find(self.receivers, name, "receiver")

    def _find(self, nodes: Nodes, name: str, role: str) -> int:
        if name in nodes.index:
            return nodes.index[name]
        last, head, kv = self.n_layers - 1, self.n_heads - 1, self.n_kv_heads - 1
        allowed = {
            "sender": f"embed, L0.H0 … L{last}.H{head}, and L0.mlp … L{last}.mlp where there is an MLP",
            "receiver": f"L0.H0.q … L{last}.H{head}.q, .k and .v up to L{last}.H{kv}, the MLPs L0.mlp … and logits",
        }[role]
        raise SiteError(f"{name!r} is no {role} of this graph; {role}s are {allowed}")


def all_edges(shape: GraphShape) -> tuple[np.ndarray, np.ndarray]:
    """(source, target), int32 [edge]: every edge of the model, by receiver, in the order of their numbers."""
    target = np.repeat(np.arange(len(shape.receivers), dtype=np.int32), shape.n_before)
    return (np.arange(len(target)) - shape.offsets[target]).astype(np.int32), target


def on_path(shape: GraphShape, source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Which edges (bool [edge]) lie on a way from embed to logits through these edges alone.

    A head passes on what reaches any of its query, key and value.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import breadth_first_order

    n_senders, n = len(shape.senders), len(shape.senders) + len(shape.receivers)
    receiver, sender = shape.serves
    rows, columns = np.concatenate([source, n_senders + receiver]), np.concatenate([n_senders + target, sender])
    graph = coo_array((np.ones(len(rows), dtype=np.int8), (rows, columns)), shape=(n, n)).tocsr()
    reached, useful = np.zeros(n, dtype=bool), np.zeros(n, dtype=bool)
    reached[breadth_first_order(graph, 0, return_predecessors=False)] = True
    useful[breadth_first_order(graph.T.tocsr(), n - 1, return_predecessors=False)] = True
    return reached[source] & useful[n_senders + np.asarray(target)]
