"""Sources of a decomposition: where the relevant part starts (embedding, heads, MLPs), and what of it arrives at every receiver.

A pair is one source in one row. Pairs that start in one layer run as one batch from the clean stream of that layer, since below it
their relevant part is 0. Cost of a pair: two forwards of the blocks that it runs through (one for each part).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from conceptlab.model.batch import Batch
from conceptlab.model.decomposed import NO_MLP, Decomposer, decompose
from conceptlab.model.instrument import Placed, Visit
from conceptlab.model.model import Model
from conceptlab.model.split_rules import Rule, halves
from conceptlab.results.graph import GraphShape


@dataclass(frozen=True, eq=False)
class Written:
    """What the senders of some rows hold: `embed` [row, pos, d_model], `z` [layer][row, pos, head, d_head], `mlp` [layer][row, pos,
    d_model]; rows may be one mean row."""

    embed: Tensor
    z: dict[int, Tensor]
    mlp: dict[int, Tensor]

    def minus(self, other: "Written | None") -> "Written":
        """The difference, row by row or from one mean row; None takes nothing away."""
        if other is None:
            return self
        return Written(
            self.embed - other.embed,
            {layer: z - other.z[layer] for layer, z in self.z.items()},
            {layer: m - other.mlp[layer] for layer, m in self.mlp.items()},
        )

    def mean(self) -> "Written":
        """One row: the mean over rows at every position."""
        z, mlp = ({layer: t.mean(0, keepdim=True) for layer, t in part.items()} for part in (self.z, self.mlp))
        return Written(self.embed.mean(0, keepdim=True), z, mlp)


def record_split(model: Model, batch: Batch, rule: Rule = "fixed") -> tuple[Decomposer, Written]:
    """A decomposer of rows of one length and what their senders hold. Cost: one forward."""
    z: dict[int, Tensor] = {}
    mlp: dict[int, Tensor] = {}

    def keep(into: dict[int, Tensor], layer: int) -> Visit:
        return lambda view: into.__setitem__(layer, view.detach().clone())

    extra: list[Placed] = []
    for layer, block in enumerate(model.stack.blocks):
        extra.append((model.tap("z", layer), layer, False, keep(z, layer)))
        if block.missing.get("mlp_out") != NO_MLP:
            extra.append((model.tap("mlp_out", layer), layer, False, keep(mlp, layer)))
    made = decompose(model, batch, rule=rule, extra=extra)
    return made, Written(made.run.streams[0], z, mlp)


@dataclass(eq=False)
class Arrived:
    """What arrived of k pairs: `logits` [2k, t] stacked parts, `share` [k, receiver] of each receiver's input (0 at logits), `size`
    the root mean square of its relevant part, and `written` [k, pos, d_model] what the source wrote into the stream."""

    logits: Tensor
    share: Tensor
    size: Tensor
    written: Tensor


@dataclass(eq=False)
class Sources:
    """The senders of one decomposed run, ready to be propagated; `difference` is what each source counts as relevant."""

    decomposer: Decomposer
    shape: GraphShape
    written: Written
    difference: Written
    _first: dict[tuple[int, str], int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        at = self.shape.receivers
        for i in range(len(at) - 1, -1, -1):
            self._first[int(at.layer[i]), str(at.kind[i])] = i

    def by_layer(self) -> Iterator[tuple[int, Tensor]]:
        """(layer, senders [n]) from below; the embedding starts with layer 0."""
        layer = torch.as_tensor(self.shape.senders.layer).clamp_min(0)
        for start in range(self.shape.n_layers):
            yield start, (layer == start).nonzero().flatten()

    def propagate(self, layer: int, senders: Tensor, rows: Tensor, tokens: Tensor) -> Arrived:
        """Pairs of `senders` [k] (all starting in `layer`) and `rows` [k], read at the last position's logits `tokens` [k, t]."""
        embed = self._kind(senders, "embed")[:, None, None] * self.difference.embed[rows]
        written = embed.clone()

        def note(view: Tensor) -> None:
            written.add_(halves(view)[0])

        visits = [
            (self.decomposer.model.tap("z", layer), layer, True, self._place_heads(layer, senders, rows)),
            *self._place_mlp(layer, senders, rows),
            *self._readers(layer, senders, note),
        ]
        return self._run(layer, embed, rows, tokens, visits, written)

    def propagate_random(self, layer: int, senders: Tensor, rows: Tensor, tokens: Tensor, made: Tensor) -> Arrived:
        """The same with `made` [k, pos, d_model] in place of what the sources write into the stream."""
        chosen = {kind: self._kind(senders, kind)[:, None, None] for kind in ("embed", "head", "mlp")}

        def place(kind: str) -> Visit:
            def visit(view: Tensor) -> Tensor:
                relevant, irrelevant = halves(view)
                new = torch.where(chosen[kind], made.to(view), relevant)
                return torch.cat([new, relevant + irrelevant - new])

            return visit

        model = self.decomposer.model
        visits: list[Placed] = [(model.tap("attn_out", layer), layer, True, place("head"))]
        if layer in self.written.mlp:
            visits.append((model.tap("mlp_out", layer), layer, True, place("mlp")))
        embed = torch.where(chosen["embed"], made.to(self.written.embed), 0.0)
        return self._run(layer, embed, rows, tokens, visits, made)

    def _kind(self, senders: Tensor, kind: str) -> Tensor:
        kinds = self.shape.senders.kind[senders.cpu().numpy()]
        return torch.as_tensor(kinds == kind, device=self.written.embed.device)

    def _place_heads(self, layer: int, senders: Tensor, rows: Tensor) -> Visit:
        is_head = self._kind(senders, "head")
        heads = torch.as_tensor(self.shape.senders.head)[senders.cpu()].clamp_min(0).to(is_head.device)
        pairs = torch.arange(len(rows), device=is_head.device)

        def visit(view: Tensor) -> Tensor:
            relevant, irrelevant = halves(view)
            clean, new = relevant + irrelevant, relevant.clone()
            source = self.difference.z[layer][rows, :, heads]
            new[pairs, :, heads] = torch.where(is_head[:, None, None], source, relevant[pairs, :, heads])
            return torch.cat([new, clean - new])

        return visit

    def _place_mlp(self, layer: int, senders: Tensor, rows: Tensor) -> list[Placed]:
        if layer not in self.written.mlp:
            return []
        is_mlp = self._kind(senders, "mlp")[:, None, None]

        def visit(view: Tensor) -> Tensor:
            relevant, irrelevant = halves(view)
            new = torch.where(is_mlp, self.difference.mlp[layer][rows], relevant)
            return torch.cat([new, relevant + irrelevant - new])

        return [(self.decomposer.model.tap("mlp_out", layer), layer, True, visit)]

    def _readers(self, layer: int, senders: Tensor, note: Callable[[Tensor], None]) -> list[Placed]:
        """Note what heads and MLPs wrote, each pair at its own site of the source layer."""
        is_head, is_mlp = (self._kind(senders, kind)[:, None, None] for kind in ("head", "mlp"))
        model = self.decomposer.model

        def only(mask: Tensor) -> Visit:
            return lambda view: note(view * torch.cat([mask, mask]))

        found: list[Placed] = [(model.tap("attn_out", layer), layer, False, only(is_head))]
        if layer in self.written.mlp:
            found.append((model.tap("mlp_out", layer), layer, False, only(is_mlp)))
        return found

    def _run(
        self, layer: int, embed: Tensor, rows: Tensor, tokens: Tensor, first: list[Placed], written: Tensor
    ) -> Arrived:
        made, model = self.decomposer, self.decomposer.model
        stream = made.run.streams[layer][rows]
        stacked = torch.cat([embed, stream - embed])
        size = torch.zeros(3, len(rows), len(self.shape.receivers), dtype=torch.float64, device=stream.device)

        def note(at: int, view: Tensor) -> None:
            relevant, irrelevant = halves(view)
            units = relevant.unsqueeze(2) if relevant.dim() == 3 else relevant
            others = irrelevant.unsqueeze(2) if irrelevant.dim() == 3 else irrelevant
            size[0, :, at : at + units.shape[2]] = units.abs().double().mean((1, 3))
            size[1, :, at : at + units.shape[2]] = others.abs().double().mean((1, 3))
            size[2, :, at : at + units.shape[2]] = units.double().square().mean((1, 3)).sqrt()

        def watch(at_layer: int, site: str, view: Tensor) -> None:
            note(self._first[at_layer, site], view)

        def neurons(at_layer: int) -> Visit:
            return lambda view: note(self._first[at_layer, "mlp"], view)

        for here in range(layer, model.n_layers):
            visits = list(first) if here == layer else []
            if here in self.written.mlp:
                visits.append((model.tap("mlp_post", here), here, False, neurons(here)))
            stacked = made.block(here, stacked, rows, visits, watch if here > layer or layer == 0 else None)
        logits = made.logits(stacked[:, -1], tokens)
        share = torch.where(size[0] > 0, size[0] / size[:2].sum(0).clamp_min(1e-300), 0.0)
        return Arrived(logits, share, size[2], written)
