"""Path patching: what a sender does to a receiver directly, and through it to the answer.

The receiver's input on the clean run is moved by what the sender writes otherwise on the corrupted one; what lies between
keeps its clean value ("heads and mlps"), or heads do and MLPs compute anew ("heads", the practice of the IOI study). From the
receivers on, everything is computed again. Effect: (M_clean - M_edit) / (M_clean - M_corrupted), mean over pairs.
Source: Wang et al. 2023, Interpretability in the Wild; Goldowsky-Dill et al. 2023. Norms: a receiver's own norm acts on the moved
input; a block's norm after its sublayer (Gemma 2) keeps the scale of the clean run for the sender's part.
Control: the same with a random direction in place of the sender's change, as long as it at every position; p, q as in patching.
Cost: two recorded runs; per (sender, receiver set) twice the receivers' projections and a replay of the blocks above; with
freeze="heads" also the MLPs between sender and receivers.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from conceptlab.errors import InputError
from conceptlab.evidence import q_values
from conceptlab.evidence.floor import FLOOR
from conceptlab.evidence.swapped_rows import swapped_rows_p
from conceptlab.measure.patching.pairs import make_pairs, random_like
from conceptlab.model import Model
from conceptlab.model.edge_graph import Pieces, graph_of, record_pieces
from conceptlab.model.half_block import HalfBlocks
from conceptlab.model.metric import Metric
from conceptlab.model.model import Texts
from conceptlab.model.sweep import sweep
from conceptlab.results import Edit, GraphShape, Provenance, Scores, Site
from conceptlab.results.edit import Positions
from conceptlab.runs import SILENT, Progress

CARD = {
    "name": "path patching",
    "paper": "Wang et al. 2023, Interpretability in the Wild; Goldowsky-Dill et al. 2023",
    "tags": ["patching", "circuits", "edges"],
    "takes": "a model, clean and corrupted texts of one length, a metric, senders, receivers",
    "returns": "Scores",
    "cost": "2 runs, then 2 x senders x receiver sets replays of what lies above the receivers",
}
Freeze = Literal["heads and mlps", "heads"]
Receivers = Sequence[str | Sequence[str]]
AT_ONCE = 1 << 27  # bytes of moved streams


def path_patching(  # noqa: PLR0913 - one experiment, fully stated
    model: Model,
    clean: Texts,
    corrupted: Texts,
    metric: Metric,
    *,
    receivers: Receivers = ("logits",),
    senders: Sequence[str] | None = None,
    freeze: Freeze = "heads and mlps",
    positions: Positions = "all",
    seed: int = 0,
    progress: Progress = SILENT,
) -> Scores:
    """Effect of every sender ("embed", "L0.H1", "L0.mlp"; None: every head) on every entry of `receivers`, axes (receiver, sender).

    A receiver is "logits", "L1.H0.q" (k and v by key/value head), "L1.mlp", or a set of them that is patched together; `positions`
    are those at which receivers read the moved input. A sender that does not come before a receiver has effect 0 on it. Returns
    `score` with `low`, `high`, `control`, `p`, `q`. Raises InputError for pairs that do not fit, rows of several lengths or an
    unknown way to freeze; SiteError for unknown nodes and models whose stream is no sum of senders.
    """
    if freeze not in ("heads and mlps", "heads"):
        raise InputError(f'freeze={freeze!r} is not known; use "heads and mlps" or "heads"')
    pairs = make_pairs(model, clean, corrupted, "noising")
    _ = pairs.n_pos
    shape, before = graph_of(model), model.forwards
    senders = [n for n in shape.senders.names if ".H" in n] if senders is None else list(senders)
    sets = [(r,) if isinstance(r, str) else tuple(r) for r in receivers]
    ends = pairs.ends(metric)
    base, donor = record_pieces(model, pairs.base, shape), record_pieces(model, pairs.donor, shape)
    index = [shape.sender(name) for name in senders]
    written = base.written()[index]
    change = donor.written()[index] - written
    noise = random_like(torch.zeros_like(change), change, torch.Generator().manual_seed(seed))
    found = {}
    for name, moved in (("real", change), ("random", noise)):
        paths = _Paths(base, shape, index, moved, freeze, positions)
        items = [paths.item(s, each) for each in sets for s in range(len(senders))]
        found[name] = _swept(model, pairs.base, items, metric, progress)
    data = _table(pairs, ends, found, [" ".join(s) for s in sets], senders, seed)
    provenance = Provenance(
        "path patching", len(pairs.base), seed, model=model.name, revision=model.revision,
        settings={"freeze": freeze, "metric": metric.name, "positions": str(positions)},
        passes=round(model.forwards - before), causal="patching", warnings=ends.warnings,
    )  # fmt: skip
    return Scores(data, provenance)


def _swept(model: Model, batch, items: list[tuple[Edit, ...]], metric: Metric, progress: Progress) -> np.ndarray:
    """Change of the metric [item, row]; an item without edits changes nothing."""
    live = [i for i, item in enumerate(items) if item]
    change = np.zeros((len(items), len(batch)))
    if live:
        change[live] = sweep(model, batch, [items[i] for i in live], metric, progress=progress).change
    return change


def _table(pairs, ends, found: dict[str, np.ndarray], sets: list[str], senders: list[str], seed: int) -> xr.Dataset:
    """Effects on the axes (receiver, sender)."""
    dims, shape = ("receiver", "sender"), (len(sets), len(senders))
    real, random = (ends.whole + found[name] for name in ("real", "random"))
    p = swapped_rows_p(found["real"].T, found["random"].T, floor=FLOOR * abs(ends.gap), seed=seed)
    p = np.ones_like(p) if ends.warnings else p
    low, high = pairs.interval(ends, real, seed)
    columns = {
        "score": pairs.effect(ends, real), "low": low, "high": high, "control": pairs.effect(ends, random),
        "p": p, "q": q_values(p),
    }  # fmt: skip
    data = {name: (dims, values.reshape(shape)) for name, values in columns.items()}
    rows = {"clean": ("row", ends.whole), "corrupted": ("row", ends.empty)}
    return xr.Dataset({**data, **rows}, coords={"receiver": sets, "sender": senders})


@dataclass(eq=False)
class _Paths:
    """`moved` [sender, row, pos, d_model]: what each sender (number in `senders`) writes more than on the clean run."""

    base: Pieces
    shape: GraphShape
    senders: list[int]
    moved: Tensor
    freeze: Freeze
    positions: Positions

    def __post_init__(self) -> None:
        self._halves = HalfBlocks(self.base.run)
        self._cache: dict[tuple[int, str], Tensor] = {}

    def item(self, sender: int, receivers: tuple[str, ...]) -> tuple[Edit, ...]:
        """The edits that let every receiver of a set read the moved input."""
        edits = []
        for name in receivers:
            number = self.shape.receiver(name)
            if self.senders[sender] < self.shape.n_before[number]:
                edits.append(self._edit(sender, number))
        return tuple(edits)

    def _edit(self, sender: int, receiver: int) -> Edit:
        nodes = self.shape.receivers
        layer, kind, head = int(nodes.layer[receiver]), str(nodes.kind[receiver]), int(nodes.head[receiver])
        if kind == "logits":
            return self._set(Site("resid_post", self.shape.n_layers - 1), self._made(self.shape.n_layers, kind)[sender])
        if kind == "mlp":
            return self._set(Site("mlp_out", layer), self._made(layer, "mlp")[sender])
        return self._set(Site(kind, layer, (head,)), self._made(layer, kind)[sender, :, :, head : head + 1])

    def _set(self, site: Site, value: Tensor) -> Edit:
        """`value` [row, pos, …] at the positions that are read."""
        n_pos = value.shape[1]
        if isinstance(self.positions, str):
            chosen = list(range(n_pos)) if self.positions == "all" else [n_pos - 1]
        else:
            chosen = [p + n_pos if p < 0 else p for p in self.positions]
        return Edit(site, "set", value[:, chosen].flatten(0, 1), positions=tuple(chosen))

    def _made(self, layer: int, kind: str) -> Tensor:
        """What block `layer` makes of the moved inputs: q, k or v [sender, row, pos, head, d_head], or the MLP's output.

        For the logits: the moved stream itself.
        """
        key = (layer, kind)
        if key not in self._cache and kind == "logits":
            self._cache = {key: self._stream(layer, mid=False)}
        if key not in self._cache:
            stream = self._stream(layer, mid=kind == "mlp").flatten(0, 1)
            rows = torch.arange(len(self.base.run.ids)).repeat(len(self.senders))
            parts: dict[str, list[Tensor]] = {"q": [], "k": [], "v": [], "mlp": []}
            step = max(1, AT_ONCE // (stream[0].numel() * 16))
            with self._halves.open():
                for begin in range(0, len(stream), step):
                    some, of = stream[begin : begin + step], rows[begin : begin + step]
                    if kind == "mlp":
                        parts["mlp"].append(self._halves.mlp(layer, some, of))
                        continue
                    for name, value in zip("qkv", self._halves.attention_inputs(layer, some, of), strict=True):
                        parts[name].append(value.transpose(1, 2))
            made = {(layer, n): torch.cat(v).unflatten(0, (len(self.senders), -1)) for n, v in parts.items() if v}
            self._cache = made  # receivers are asked for set by set; one layer is held at a time
        return self._cache[key]

    def _stream(self, layer: int, *, mid: bool) -> Tensor:
        """The moved stream [sender, row, pos, d_model] that enters block `layer` (`mid`: its MLP)."""
        clean = (self.base.mid if mid else self.base.pre)[layer]
        if self.freeze == "heads and mlps":
            return clean + self.moved
        return self._through_mlps(layer, mid=mid)

    def _through_mlps(self, layer: int, *, mid: bool) -> Tensor:
        """The same with every MLP between sender and receiver computed anew, heads kept."""
        pre, at = self.base.pre, self.shape.senders
        where, kinds = at.layer[self.senders], at.kind[self.senders]
        rows = torch.arange(pre.shape[1]).repeat(len(self.senders))
        delta = torch.where(torch.from_numpy(where < 0)[:, None, None, None], self.moved, torch.zeros_like(self.moved))
        with self._halves.open():
            for block in range(layer + mid):
                here = torch.from_numpy((where == block) & (kinds == "head"))[:, None, None, None]
                after_heads = delta + torch.where(here, self.moved, torch.zeros_like(self.moved))
                if mid and block == layer:
                    delta = after_heads
                    break
                read = delta if self.shape.parallel else after_heads
                delta = after_heads + self._mlp_change(block, read, rows)
                wrote = torch.from_numpy((where == block) & (kinds == "mlp"))[:, None, None, None]
                delta = delta + torch.where(wrote, self.moved, torch.zeros_like(self.moved))
        return (self.base.mid if mid else pre)[layer] + delta

    def _mlp_change(self, block: int, read: Tensor, rows: Tensor) -> Tensor:
        if self.base.mlp[block] is None or not bool(read.any()):
            return torch.zeros_like(read)
        clean = self.base.mid[block]
        made = self._halves.mlp(block, (clean + read).flatten(0, 1), rows).unflatten(0, read.shape[:2])
        return made - self._halves.mlp(block, clean, rows[: clean.shape[0]])
