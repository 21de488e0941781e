"""Many circuits at once on rows of one length: block after block, what every sender writes under every circuit.

A circuit is a set of edges. What a receiver reads is the corrupted stream plus, for each edge of the circuit into it, what that
sender writes in this circuit's run minus what it wrote in the corrupted one. Nodes are computed only where they must be: one whose
inputs are all clean (or all corrupted) is the clean (corrupted) node; one that reaches no logits through the circuit is left out;
receivers of one layer that read the same stream share it.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from conceptlab.model.edge_rows import Rows
from conceptlab.numerics.rotations import random_signs, rotated
from conceptlab.results import GraphShape


@dataclass(frozen=True)
class Moved:
    """Per circuit one receiver (`target`, -1: none) whose input also gets what `source` would change, turned by rotation `draw`.

    A rotation is common to all rows, so that the turned change is as long as the real one and as alike from row to row.
    """

    source: np.ndarray
    target: np.ndarray
    draw: np.ndarray
    seed: int = 0

    def select(self, circuits: np.ndarray) -> "Moved":
        """Some of the circuits."""
        return Moved(self.source[circuits], self.target[circuits], self.draw[circuits], self.seed)


def reaching(shape: GraphShape, masks: np.ndarray) -> np.ndarray:
    """Which senders [circuit, sender] reach the logits through the edges of `masks` [circuit, edge]."""
    reach = np.zeros((len(masks), len(shape.senders)), dtype=bool)
    receiver, sender = shape.serves
    served = np.split(sender, np.searchsorted(receiver, np.arange(1, len(shape.receivers))))
    for v in range(len(shape.receivers) - 1, -1, -1):
        last = v == len(shape.receivers) - 1
        live = np.ones(len(masks), dtype=bool) if last else np.any(reach[:, served[v]], axis=1)
        reach[:, : shape.n_before[v]] |= into(shape, masks, v) & live[:, None]
    return reach


def into(shape: GraphShape, masks: np.ndarray, receiver: int, n: int = 1) -> np.ndarray:
    """The edges [circuit, n * sender] of `masks` into `n` receivers that follow each other."""
    start, before = int(shape.offsets[receiver]), int(shape.n_before[receiver])
    return masks[:, start : start + n * before]


class State:
    """One pass of circuits `masks` [circuit, edge] over `rows` from block `start` on, below which all is clean.

    With `fresh` nothing is taken from the recorded runs: every node that reaches the logits is computed.
    """

    def __init__(
        self, rows: Rows, masks: np.ndarray, start: int, moved: Moved | None, tokens: int, *, fresh: bool = False
    ) -> None:
        self.rows, self.shape, self.masks, self.start, self.moved = rows, rows.shape, masks, start, moved
        self.tokens, self.fresh = tokens, fresh
        self.first = int(np.searchsorted(self.shape.senders.layer, start)) if start else 1
        n, n_senders = len(masks), len(self.shape.senders)
        self.reach = reaching(self.shape, masks)
        self.is_clean = np.zeros((n, n_senders), dtype=bool)
        self.is_clean[:, : self.first] = True
        self.is_reference = np.broadcast_to(~rows.differs, (n, n_senders)).copy()
        self.state = rows.delta.new_zeros(n, n_senders - self.first, *rows.delta.shape[1:])

    @property
    def layers(self) -> range:
        """The blocks from the first one that differs."""
        return range(self.start, self.shape.n_layers)

    def block(self, layer: int) -> None:
        """One block, after all below it."""
        self._attention(layer)
        if layer not in self.shape.attention_only:
            self._mlp(layer)

    def ends(self, at: int) -> Tensor:
        """The final stream [circuit, row, d_model] at position `at`."""
        receiver = len(self.shape.receivers) - 1
        mask = into(self.shape, self.masks, receiver)
        clean = self._unchanged(mask[:, None])[:, 0] & ~self._is_moved(receiver)
        out = self._streams(np.arange(len(mask)), mask, receiver, self.rows.reference.pre[-1], at)
        if not self.fresh:
            out[torch.from_numpy(clean)] = self.rows.clean.pre[-1][:, at]
        return out

    # -- what a receiver reads ------------------------------------------------------------------------------------
    def _unchanged(self, edges: np.ndarray) -> np.ndarray:
        """Receivers [circuit, receiver] whose input is clean, for `edges` [circuit, receiver, sender]."""
        n = edges.shape[-1]
        return np.all(np.where(edges, self.is_clean[:, None, :n], ~self.rows.differs[:n]), axis=-1)

    def _corrupted(self, edges: np.ndarray) -> np.ndarray:
        """Receivers whose input is that of the corrupted run."""
        n = edges.shape[-1]
        found = np.all(~edges | self.is_reference[:, None, :n], axis=-1)
        return found if self.rows.reference.run is not None else np.zeros_like(found)

    def _is_moved(self, receiver: int) -> np.ndarray:
        if self.moved is None:
            return np.zeros(len(self.masks), dtype=bool)
        return self.moved.target == receiver

    def _streams(
        self,
        circuit: np.ndarray,
        edges: np.ndarray,
        receiver: int | np.ndarray,
        base: Tensor,
        at: int | slice = slice(None),
    ) -> Tensor:
        """Inputs [k, row, (pos,) d_model] of slots: `circuit` [k] in rising order, `edges` [k, sender], `receiver` [k] or one."""
        low, n = min(self.first, edges.shape[1]), edges.shape[1]
        delta = self.rows.delta[:low, :, at]
        base = base[:, at]
        weight = torch.from_numpy(edges).to(delta)
        out = base + (weight[:, :low] @ delta.flatten(1)).unflatten(1, base.shape)
        for c in np.unique(circuit) if n > low else ():
            here = slice(*np.searchsorted(circuit, [c, c + 1]).tolist())
            high = self.state[c, : n - low, :, at]
            out[here] += (weight[here, low:] @ high.flatten(1)).unflatten(1, base.shape)
        for i in np.flatnonzero(self._moved_slots(circuit, receiver)):
            out[i] += self._turned_change(int(circuit[i]))[:, at]
        return out

    def _moved_slots(self, circuit: np.ndarray, receiver: int | np.ndarray) -> np.ndarray:
        if self.moved is None:
            return np.zeros(len(circuit), dtype=bool)
        return self.moved.target[circuit] == receiver

    def _turned_change(self, circuit: int) -> Tensor:
        """The moved edge's change [row, pos, d_model] under this circuit's rotation, the same for all rows and positions."""
        moved, change = self.moved, self.rows.delta[self.moved.source[circuit]]  # type: ignore[union-attr]
        signs = random_signs((), change.shape[-1], moved.seed * 1_000_003 + int(moved.draw[circuit]))  # type: ignore[union-attr]
        return rotated(change, signs)

    # -- one block ------------------------------------------------------------------------------------------------
    def _attention(self, layer: int) -> None:
        shape, n_heads, n_kv = self.shape, self.shape.n_heads, self.shape.n_kv_heads
        first = shape.receiver(f"L{layer}.H0.q")
        n_parts, sender = n_heads + 2 * n_kv, shape.sender(f"L{layer}.H0")
        edges = into(shape, self.masks, first, n_parts).reshape(len(self.masks), n_parts, -1)
        moved = np.stack([self._is_moved(first + part) for part in range(n_parts)], 1)
        clean, corrupted = self._unchanged(edges) & ~moved, self._corrupted(edges) & ~moved
        reads = np.zeros((n_heads, n_parts), dtype=bool)  # which q, k and v each head is made of
        head = np.arange(n_heads)
        for part in (head, n_heads + head * n_kv // n_heads, n_heads + n_kv + head * n_kv // n_heads):
            reads[head, part] = True
        own = slice(sender, sender + n_heads)
        whole_clean, whole_corrupted = (np.all(~reads | state[:, None], axis=-1) for state in (clean, corrupted))
        run = self.reach[:, own].copy() if self.fresh else self.reach[:, own] & ~whole_clean & ~whole_corrupted
        if run.any():
            needed = (run[:, :, None] & reads).any(1)
            needed &= np.ones_like(clean) if self.fresh else ~(clean | corrupted)
            z = self._mixed(layer, np.any(run, axis=1), _Parts(edges, needed, corrupted & ~clean, moved, first))
            self._keep_heads(layer, sender, run, whole_corrupted, z)
        self._settle(sender, whole_clean & ~run, whole_corrupted, whole_clean)

    def _mixed(self, layer: int, active: np.ndarray, parts: "_Parts") -> Tensor:
        """z [active circuit, row, pos, head, d_head]."""
        clean = self.rows.clean.mixing[layer].call
        other = self.rows.reference.run.mixing[layer].call if self.rows.reference.run is not None else clean
        place = np.cumsum(active) - 1
        sizes = (self.shape.n_heads, self.shape.n_kv_heads, self.shape.n_kv_heads)
        mixed, start = [], 0
        for name, size in zip("qkv", sizes, strict=True):
            corrupted = torch.from_numpy(parts.corrupted[active, start : start + size])[:, None, :, None, None]
            ours, theirs = (getattr(call, name).float()[None] for call in (clean, other))
            mixed.append(torch.where(corrupted.to(ours.device), theirs, ours).contiguous())
            start += size
        for slots, made in self._made(layer, parts):
            start = 0
            for target, value, size in zip(mixed, made, sizes, strict=True):
                mine = (slots.part >= start) & (slots.part < start + size)
                unit = torch.from_numpy(slots.part[mine] - start)
                circuit, slot = torch.from_numpy(place[slots.circuit[mine]]), torch.from_numpy(slots.slot[mine])
                target[circuit, :, unit] = value[slot, :, unit]
                start += size
        z = self.rows.clean.mixing[layer].mixed(*(t.flatten(0, 1) for t in mixed))
        return z.unflatten(0, (int(active.sum()), -1))

    def _made(self, layer: int, parts: "_Parts"):
        """q, k and v [slot, row, head, pos, d_head] of the streams that are needed, pass by pass, with who uses them."""
        slots = parts.slots(self.is_reference, self.fresh)
        rows, n_pos = len(self.rows.numbers), self.rows.delta.shape[2]
        at_once = max(1, self.tokens // (rows * n_pos))
        base = self.rows.reference.pre[layer]
        for begin in range(0, len(slots.of_circuit), at_once):
            few = slice(begin, begin + at_once)
            x = self._streams(slots.of_circuit[few], slots.edges[few], slots.receiver[few], base)
            made = self.rows.halves.attention_inputs(layer, x.flatten(0, 1), self._row_numbers(len(x)))
            yield slots.within(begin, begin + at_once), [part.unflatten(0, (len(x), rows)) for part in made]

    def _row_numbers(self, copies: int) -> Tensor:
        return torch.arange(len(self.rows.numbers), device=self.rows.delta.device).repeat(copies)

    def _keep_heads(self, layer: int, sender: int, run: np.ndarray, corrupted: np.ndarray, z: Tensor) -> None:
        clean, other = self.rows.clean, self.rows.reference.run
        place = np.cumsum(run.any(1)) - 1
        for head in range(self.shape.n_heads):
            chosen = np.flatnonzero(run[:, head])
            if len(chosen) == 0:
                continue
            mixed = z[torch.from_numpy(place[chosen]), :, :, head]
            made = mixed * clean.scale[layer][..., 0]
            if other is not None:
                whole = torch.from_numpy(corrupted[chosen, head]).to(z.device)[:, None, None, None]
                made = torch.where(whole, mixed * other.scale[layer][..., 0], made)
                made = made - (other.z[layer] * other.scale[layer])[:, :, head]
            self.state[torch.from_numpy(chosen), sender + head - self.first] = made @ clean.weights[layer][head]

    def _mlp(self, layer: int) -> None:
        receiver, sender = self.shape.receiver(f"L{layer}.mlp"), self.shape.sender(f"L{layer}.mlp")
        edges = into(self.shape, self.masks, receiver)
        moved = self._is_moved(receiver)
        clean = self._unchanged(edges[:, None])[:, 0] & ~moved
        corrupted = self._corrupted(edges[:, None])[:, 0] & ~moved
        run = self.reach[:, sender] if self.fresh else self.reach[:, sender] & ~clean & ~corrupted
        chosen = np.flatnonzero(run)
        rows, n_pos = self.rows.delta.shape[1:3]
        for few in np.array_split(chosen, max(1, -(-len(chosen) * rows * n_pos // self.tokens))) if len(chosen) else ():
            x = self._streams(few, edges[few], receiver, self.rows.reference.mid[layer])
            made = self.rows.halves.mlp(layer, x.flatten(0, 1), self._row_numbers(len(few))).unflatten(
                0, (len(few), rows)
            )
            other = self.rows.reference.run
            made = made if other is None else made - other.mlp[layer]  # type: ignore[operator]
            self.state[torch.from_numpy(few), sender - self.first] = made
        self._settle(sender, (clean & ~run)[:, None], corrupted[:, None], clean[:, None])

    def _settle(self, sender: int, copied: np.ndarray, corrupted: np.ndarray, clean: np.ndarray) -> None:
        """Note which senders [circuit, node] are clean or corrupted whole, and copy what the clean ones wrote."""
        own = slice(sender, sender + clean.shape[1])
        circuit, node = np.nonzero(copied)
        self.state[torch.from_numpy(circuit), torch.from_numpy(sender + node - self.first)] = self.rows.delta[
            sender + node
        ]
        same = ~self.rows.differs[own]
        self.is_clean[:, own] = clean | (corrupted & same)
        self.is_reference[:, own] = corrupted | (clean & same) | ~self.reach[:, own]


@dataclass(frozen=True, eq=False)
class _Slots:
    """Streams to be made: `of_circuit`, `edges`, `receiver` [slot] (-1: nothing is moved); who uses them: `circuit`, `part`, `slot`
    [use]."""

    of_circuit: np.ndarray
    edges: np.ndarray
    receiver: np.ndarray
    circuit: np.ndarray
    part: np.ndarray
    slot: np.ndarray

    def within(self, begin: int, end: int) -> "_Slots":
        """The uses of slots `begin` to `end`, counted from `begin`."""
        mine = (self.slot >= begin) & (self.slot < end)
        return _Slots(
            self.of_circuit, self.edges, self.receiver, self.circuit[mine], self.part[mine], self.slot[mine] - begin
        )


@dataclass(frozen=True, eq=False)
class _Parts:
    """One layer's queries, keys and values: `edges` [circuit, part, sender], and which are `needed`, `corrupted`, `moved`."""

    edges: np.ndarray
    needed: np.ndarray
    corrupted: np.ndarray
    moved: np.ndarray
    first: int

    def slots(self, is_reference: np.ndarray, fresh: bool) -> _Slots:
        """One slot for all parts of a circuit that read the same stream."""
        circuit, part = np.nonzero(self.needed)
        edges = self.edges[circuit, part]
        if not fresh:
            edges = edges & ~is_reference[circuit, : edges.shape[1]]
        receiver = np.where(self.moved[circuit, part], self.first + part, -1)
        key = np.concatenate([circuit[:, None], receiver[:, None], np.packbits(edges, 1).astype(np.int64)], 1)
        _, one, slot = np.unique(key, axis=0, return_index=True, return_inverse=True)
        return _Slots(circuit[one], edges[one], receiver[one], circuit, part, slot.reshape(-1))
