"""Run many changed copies of clean rows through the blocks at the cost of what they change.

All tokens that run lie in one row: unit after unit, each from the position of its change to the last. Norms, MLPs and projections
work token by token and do not notice; attention is given, unit by unit, the keys and values that the clean run kept for the
positions before. A unit joins at the block of its change, so the batch grows as layers go by. In the last block only the token that
is read goes on after attention.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from conceptlab.model.attention import AttentionCall, handle_attention
from conceptlab.model.instrument import Placed, StopForward
from conceptlab.model.sweep.clean import Kept, Seen
from conceptlab.model.sweep.fused import fused_activations
from conceptlab.model.sweep.late import BEFORE, Made, late_z, put, standing_still
from conceptlab.model.sweep.live import Live, at_last, joined, live_at, moved
from conceptlab.model.sweep.pattern import PatternEdits
from conceptlab.model.sweep.work import Work
from conceptlab.model.sweep.writes import Write

Writes = dict[tuple[str, int | None], list[Write]]
PIECE = 1024  # tokens in one call of a block: matrix products are at full speed, and what lies between them stays in the caches
LARGE_PIECE = 16384  # the same beside a GPU, which takes larger products and for which every call is a wait


@dataclass(eq=False)
class Packed:
    """One sweep over kept rows. `ends` is the block after which a site is read (None: the end of the stands)."""

    kept: Kept
    writes: Writes
    patterns: dict[int, PatternEdits]
    n_items: int
    read: tuple[str, int] | None = None
    _live: Live | None = field(default=None, init=False)
    _layer: int = field(default=0, init=False)
    _last: bool = field(default=False, init=False)
    _stored: tuple[Tensor, Tensor] | None = field(default=None, init=False)
    _making: bool = field(default=False, init=False)
    _made: Made | None = field(default=None, init=False)
    _given: Tensor | None = field(default=None, init=False)

    def run(self, work: Work) -> Tensor:
        """The stream (or the site that is read) at the last position of every unit of `work`, [unit, width]."""
        model = self.kept.run.model
        out: Tensor | None = None
        with self._attention(), fused_activations(model.module), torch.no_grad():
            stream, live = torch.empty(0), None
            top = model.n_layers if self.read is None else self.read[1] + 1
            for layer in range(int(work.join.min()), top):
                stream, live = self._grown(work, layer, stream, live)
                is_last = self.read is None and layer == top - 1
                stream, out = self._block(layer, stream, live, last=is_last)
            if self.read is not None:
                return self._in_order(out, live, work)  # type: ignore[arg-type]
            return self._at_end(work, stream, live)

    # -- through the blocks -----------------------------------------------------------------------------------------
    def _grown(self, work: Work, layer: int, stream: Tensor, old: Live | None) -> tuple[Tensor, Live]:
        """The stream that enters block `layer` [1, token, d_model], with the units that join there and their writes."""
        n_pos, clean = self.kept.run.n_pos, self.kept.run.streams[layer]
        live = live_at(work, layer, n_pos, apart=self._is_late(layer))
        new = joined(old, live)
        if old is not None and not len(new):
            live = old
        else:
            rows, pos = live.places()
            grown = clean.new_empty(live.n_tokens, clean.shape[-1])
            fresh = np.isin(np.arange(len(live.first)), new).repeat(live.counts)
            fresh_at = torch.from_numpy(np.flatnonzero(fresh)).to(clean.device)
            rows, pos = rows.to(clean.device), pos.to(clean.device)
            grown[fresh_at] = clean[rows[fresh_at], pos[fresh_at]]
            if old is not None:
                grown[torch.from_numpy(moved(old, live))] = stream[0]
            stream = grown[None]
        self._write(stream, live, ("embed", None) if layer == 0 else ("resid_post", layer - 1))
        self._write(stream, live, ("resid_pre", layer))
        return stream, live

    def _block(self, layer: int, stream: Tensor, live: Live, *, last: bool) -> tuple[Tensor, Tensor | None]:
        """Block `layer` on all live tokens, piece by piece; after the last block only the last token of each unit is left."""
        held: list[Tensor] = []
        ends, at = [], 0
        joins = self._is_late(layer) & (live.work.join == layer)
        for run, part in ((self._piece, ~joins), (self._late_piece, joins)):
            for piece in live.part(np.flatnonzero(part)).pieces(PIECE if stream.device.type == "cpu" else LARGE_PIECE):
                here = slice(at, at + piece.n_tokens)
                at += piece.n_tokens
                out = run(layer, stream[:, here], piece, held, last=last)
                if last:
                    ends.append(out)
                else:
                    stream[:, here] = out
        return torch.cat(ends, 1) if last else stream, torch.cat(held) if held else None

    def _piece(self, layer: int, stream: Tensor, live: Live, held: list[Tensor], *, last: bool) -> Tensor:
        run = self.kept.run
        self._layer, self._live, self._last, self._stored = layer, live, last, None
        rows, pos = (index.to(stream.device) for index in live.places())  # once: every move to a GPU is a wait
        if last:  # keys and values of all tokens, then the last tokens alone
            with suppress(StopForward):
                run.packed_block(layer, stream, rows, pos)
            ends = torch.from_numpy(live.offset + live.counts - 1)
            stream, self._live = stream[:, ends], at_last(live)
            rows, pos = self._live.places()
        with run.model.instrument.visiting(self._visits(layer, self._live, held)):
            return run.packed_block(layer, stream, rows, pos)

    # -- units that join --------------------------------------------------------------------------------------------
    def _is_late(self, layer: int) -> bool:
        """Whether units that join at block `layer` take its clean queries, keys and values from the clean run."""
        if not self.kept.late or layer in self.patterns or (self.read is not None and self.read[1] == layer):
            return False
        return not any(at == layer and name in BEFORE for name, at in self.writes)

    def _late_piece(self, layer: int, stream: Tensor, live: Live, held: list[Tensor], *, last: bool) -> Tensor:
        """The same for units that join here: only their changed tokens are projected."""
        run, seen = self.kept.run, self.kept.seen[layer]
        self._layer, self._live, self._stored, changed = layer, live, None, self._changed(layer, live)
        rows, pos = live.places()
        if len(changed):
            at = torch.from_numpy(changed)
            self._making = True
            with suppress(StopForward):
                run.packed_block(layer, stream[:, at], rows[at], pos[at])
        made, self._made = self._made, None
        z = late_z(seen, live, made, changed, last=last)
        if last:
            stream = stream[:, torch.from_numpy(live.offset + live.counts - 1)]
            self._live = at_last(live)
            rows, pos = self._live.places()
        self._given = z[None]
        with standing_still(seen.projections), run.model.instrument.visiting(self._visits(layer, self._live, held)):
            return run.packed_block(layer, stream, rows, pos)

    def _changed(self, layer: int, live: Live) -> np.ndarray:
        """Places of the tokens whose stream was written before block `layer`."""
        before = [("resid_pre", layer), ("embed", None) if layer == 0 else ("resid_post", layer - 1)]
        found = [token for site in before for w in self.writes.get(site, ()) for token, _ in self._cells(live, w)]
        return np.unique(np.concatenate(found)) if found else np.zeros(0, dtype=np.int64)

    # -- writing ----------------------------------------------------------------------------------------------------
    def _visits(self, layer: int, live: Live, held: list[Tensor]) -> list[Placed]:
        """Writers at the block's modules, in the order of the forward, and the reader of the site that is read."""
        model, visits = self.kept.run.model, []
        for (name, at), writes in self.writes.items():
            if at == layer and name not in (*BEFORE, "resid_pre", "resid_post"):
                tap = model.tap(name, layer)
                if tap.side != "attention":
                    visits.append(
                        (tap, layer, True, self._writer(live, writes, in_place=tap.scale == 1.0 and tap.side != "mid"))
                    )
        visits.sort(key=lambda v: v[0].side == "mid")
        if self.read is not None and self.read[1] == layer:
            ends = torch.from_numpy(live.offset + live.counts - 1)
            visits.append((model.tap(*self.read), layer, False, lambda view: held.append(view[0, ends].clone())))
        return visits

    def _writer(self, live: Live, writes: list[Write], *, in_place: bool) -> Callable[[Tensor], Tensor | None]:
        def visit(view: Tensor) -> Tensor | None:
            view = view if in_place else view.clone()
            self._apply(view[0], live, writes)
            return None if in_place else view

        return visit

    def _write(self, stream: Tensor, live: Live, site: tuple[str, int | None]) -> None:
        if site in self.writes:
            self._apply(stream[0], live, self.writes[site])

    def _apply(self, tokens: Tensor, live: Live, writes: list[Write]) -> None:
        for write in writes:
            for token, cells in self._cells(live, write):
                write.apply(tokens, (torch.from_numpy(token).to(tokens.device),), torch.from_numpy(cells))

    def _cells(self, live: Live, write: Write) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Places of the tokens that a write touches among those of `live`, and the numbers of its cells."""
        table = np.full((self.n_items, self.kept.run.n_rows), -1)
        table[live.work.item, live.work.row] = np.arange(len(live.first))
        unit = table[write.item, write.row]
        cells = np.flatnonzero((unit >= 0) & (write.pos >= live.first[unit]))
        if len(cells):
            yield live.tokens_of(unit[cells], write.pos[cells]), cells

    # -- attention --------------------------------------------------------------------------------------------------
    @contextmanager
    def _attention(self) -> Iterator[None]:
        with handle_attention(self.kept.run.model.runner, self._on_attention):
            yield

    def _on_attention(self, module: nn.Module, call: AttentionCall, delegate: Callable[..., Any]) -> Any:
        live, layer = self._live, self._layer
        if live is None or module is not self.kept.run.model.tap("k", layer).module:
            return delegate(module, call.q, call.k, call.v, call.mask, **call.kwargs)
        if self._making:
            self._making, self._made = False, Made(module, call.q, call.k, call.v, dict(call.kwargs), delegate)
            raise StopForward
        if self._given is not None:
            z, self._given = self._given, None
            self._write_z(z, live)
            return z, None
        whole = self._last and self._stored is None
        for key in () if self._stored is not None else ("k", "v"):
            if (key, layer) in self.writes:
                self._apply(getattr(call, key)[0].transpose(0, 1), live, self.writes[key, layer])
        if whole:
            self._stored = (call.k, call.v)
            raise StopForward
        if ("q", layer) in self.writes:
            self._apply(call.q[0].transpose(0, 1), live, self.writes["q", layer])
        z = self._mixed(module, call, delegate, live)
        self._write_z(z, live)
        return z, None

    def _write_z(self, z: Tensor, live: Live) -> None:
        site = ("z", self._layer)
        if site in self.writes and self.kept.run.model.tap(*site).side == "attention":
            self._apply(z[0], live, self.writes[site])

    def _mixed(self, module: nn.Module, call: AttentionCall, delegate: Callable[..., Any], live: Live) -> Tensor:
        seen, patterns = self.kept.seen[self._layer], self.patterns.get(self._layer)
        apart = np.zeros(len(live.first), dtype=bool)
        if patterns is not None:
            apart = np.isin(live.work.item, list(patterns.by_item))
        source = live_before(live) if self._stored is not None else live
        groups, parts = live.groups(apart), []
        if self._together(call) and self._stored is None and len(groups) > 1 and not apart.any():
            return mixed_at_once(call, delegate, seen, live)[None]
        for units, at in groups:
            first, n = int(live.first[units[0]]), int(live.counts[units[0]])
            q = _unpacked(call.q, at, len(units), n)
            k, v = self._keys(call, seen, source, units)
            rows = torch.from_numpy(live.work.row[units])
            inner = AttentionCall(module, q, k, v, seen.mask_from(first, rows), dict(call.kwargs))
            if apart[units[0]] and patterns is not None:
                inner.mask = seen.mask_at(first, rows)
                z = patterns.mixed(inner, first, live.work.item[units].tolist(), live.work.row[units].tolist())
            else:
                z = delegate(module, q, k, v, inner.mask, **call.kwargs)[0]
            parts.append(z.flatten(0, 1))
        return torch.cat(parts)[None] if len(parts) > 1 else parts[0][None]

    @staticmethod
    def _together(call: AttentionCall) -> bool:
        """Whether one larger call of attention is quicker than one for each first position."""
        return call.q.device.type != "cpu"

    def _keys(self, call: AttentionCall, seen: Seen, source: Live, units: np.ndarray) -> tuple[Tensor, Tensor]:
        """Keys and values [unit, kv_head, pos, d_head] of units, with the clean ones before each unit's first position."""
        own = (call.k, call.v) if self._stored is None else self._stored
        if (source.first[units] != source.first[units[0]]).any():
            return self._ragged_keys(own, seen, source, units)
        first, n = int(source.first[units[0]]), int(source.counts[units[0]])
        found = []
        for mine, clean in zip(own, (seen.k, seen.v), strict=True):
            tail = _unpacked(mine, int(source.offset[units[0]]), len(units), n)
            found.append(tail if first == 0 else torch.cat([_rows(clean, source.work.row[units], first), tail], 2))
        return found[0], found[1]

    def _ragged_keys(
        self, own: tuple[Tensor, Tensor], seen: Seen, source: Live, units: np.ndarray
    ) -> tuple[Tensor, Tensor]:
        """The same for units that start at different positions: clean keys, overwritten from each unit's first on."""
        counts, found = source.counts[units], []
        begin, end = int(source.offset[units[0]]), int(source.offset[units[-1]] + counts[-1])
        unit = torch.from_numpy(np.arange(len(units)).repeat(counts))
        pos = torch.from_numpy(
            np.arange(end - begin) - (source.offset[units] - begin - source.first[units]).repeat(counts)
        )
        for mine, clean in zip(own, (seen.k, seen.v), strict=True):
            whole = clean[torch.from_numpy(source.work.row[units])].transpose(1, 2).contiguous()
            whole[unit, pos] = mine[0, :, begin:end].transpose(0, 1)
            found.append(whole.transpose(1, 2))
        return found[0], found[1]

    # -- the end ----------------------------------------------------------------------------------------------------
    def _in_order(self, values: Tensor, live: Live, work: Work) -> Tensor:
        out = values.new_empty(len(work), values.shape[-1])
        out[torch.from_numpy(live.number)] = values
        return out

    def _at_end(self, work: Work, stream: Tensor, live: Live | None) -> Tensor:
        """The last stream of every unit in the order of `work`, with the writes to what leaves the last block."""
        clean = self.kept.run.streams[-1][:, -1]
        out = clean[torch.from_numpy(work.row)].clone()
        if live is not None:
            out[torch.from_numpy(live.number)] = stream[0]
        n_pos = self.kept.run.n_pos
        ends = Live(work, np.arange(len(work)), np.full(len(work), n_pos - 1), n_pos)
        self._write(out[None], ends, ("resid_post", self.kept.run.model.n_layers - 1))
        return out


def mixed_at_once(call: AttentionCall, delegate: Callable[..., Any], seen: Seen, live: Live) -> Tensor:
    """z [token, head, d_head] of units that start at different positions, by one call: every unit attends from the first position
    of any, with clean queries, keys and values before its own."""
    device, first = call.q.device, int(live.first.min())
    rows = torch.from_numpy(live.work.row).to(device)
    unit = torch.from_numpy(np.arange(len(live.first)).repeat(live.counts)).to(device)
    pos = live.places()[1].to(device)
    made = (call.q, call.k, call.v)
    q, k, v = (put(clean, rows, (unit, pos), new) for clean, new in zip((seen.q, seen.k, seen.v), made, strict=True))
    z = delegate(call.module, q[:, :, first:], k, v, seen.mask_from(first, rows), **call.kwargs)[0]
    return z[unit, pos - first]


def live_before(live: Live) -> Live:
    """The units of `at_last` with all their tokens."""
    return Live(live.work, live.number, live.work.start, live.n_pos)


def _unpacked(packed: Tensor, at: int, n_units: int, n: int) -> Tensor:
    """[1, head, token, d] from token `at` on, as [unit, head, pos, d]."""
    return packed[0, :, at : at + n_units * n].unflatten(1, (n_units, n)).transpose(0, 1)


def _rows(clean: Tensor, rows: np.ndarray, first: int) -> Tensor:
    """Clean keys or values before `first` of each unit's row; rows that are one row are not copied."""
    if (rows == rows[0]).all():
        return clean[int(rows[0]), None, :, :first].expand(len(rows), -1, -1, -1)
    return clean[torch.from_numpy(rows)][:, :, :first]
