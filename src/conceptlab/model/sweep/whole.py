"""Run changed copies of clean rows with all their positions, from the block of the change on: for models whose positions cannot be
skipped (state-space layers, encoders, attention that bypasses transformers' interface)."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from conceptlab.model.attention import AttentionCall, handle_attention
from conceptlab.model.instrument import Placed
from conceptlab.model.sweep.clean import Kept
from conceptlab.model.sweep.packed import Writes
from conceptlab.model.sweep.pattern import PatternEdits
from conceptlab.model.sweep.work import Work
from conceptlab.model.sweep.writes import Write


@dataclass(eq=False)
class Whole:
    """One sweep over kept rows; `at` is the position that is read. Units join at the block of their change."""

    kept: Kept
    writes: Writes
    patterns: dict[int, PatternEdits]
    n_items: int
    read: tuple[str, int] | None = None
    at: int = -1
    _units: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64), init=False)
    _work: Work | None = field(default=None, init=False)
    _layer: int = field(default=0, init=False)

    def run(self, work: Work) -> Tensor:
        """The stream (or the site that is read) at the read position of every unit of `work`, [unit, width]."""
        run, self._work = self.kept.run, work
        self._units = np.zeros(0, dtype=np.int64)
        top = run.model.n_layers if self.read is None else self.read[1] + 1
        stream, held = run.streams.new_empty(0, run.n_pos, run.streams.shape[-1]), []
        with handle_attention(run.model.runner, self._on_attention), torch.no_grad():
            for layer in range(int(work.join.min()), top):
                self._layer = layer
                stream = self._grown(layer, stream)
                with run.model.instrument.visiting(self._visits(layer, held)):
                    stream = run.block(layer, stream, torch.from_numpy(work.row[self._units]))
        if self.read is not None:
            out = held[0].new_empty(len(work), held[0].shape[-1])
            out[torch.from_numpy(self._units)] = held[0]
            return out
        return self._at_end(work, stream)

    def _grown(self, layer: int, stream: Tensor) -> Tensor:
        new = np.flatnonzero((self._work.join <= layer) & ~np.isin(np.arange(len(self._work)), self._units))  # type: ignore[union-attr, arg-type]
        fresh = self.kept.run.streams[layer][torch.from_numpy(self._work.row[new])]  # type: ignore[union-attr]
        self._units = np.concatenate([self._units, new])
        stream = torch.cat([stream, fresh])
        self._write(stream, ("embed", None) if layer == 0 else ("resid_post", layer - 1))
        self._write(stream, ("resid_pre", layer))
        return stream

    def _at_end(self, work: Work, stream: Tensor) -> Tensor:
        out = self.kept.run.streams[-1][torch.from_numpy(work.row)].clone()
        out[torch.from_numpy(self._units)] = stream
        self._units = np.arange(len(work))
        self._write(out, ("resid_post", self.kept.run.model.n_layers - 1))
        return out[:, self.at]

    def _visits(self, layer: int, held: list[Tensor]) -> list[Placed]:
        model, visits = self.kept.run.model, []
        for (name, at), writes in self.writes.items():
            if at == layer and name not in ("q", "k", "v", "pattern", "resid_pre", "resid_post"):
                tap = model.tap(name, layer)
                if tap.side != "attention":
                    visits.append((tap, layer, True, self._writer(writes)))
        visits.sort(key=lambda v: v[0].side == "mid")
        if self.read is not None and self.read[1] == layer:
            visits.append((model.tap(*self.read), layer, False, lambda view: held.append(view[:, self.at].clone())))
        return visits

    def _writer(self, writes: list[Write]) -> Callable[[Tensor], Tensor]:
        def visit(view: Tensor) -> Tensor:
            view = view.clone()
            self._apply(view, writes)
            return view

        return visit

    def _write(self, stream: Tensor, site: tuple[str, int | None]) -> None:
        if site in self.writes:
            self._apply(stream, self.writes[site])

    def _apply(self, view: Tensor, writes: list[Write]) -> None:
        table = np.full((self.n_items, self.kept.run.n_rows), -1)
        table[self._work.item[self._units], self._work.row[self._units]] = np.arange(len(self._units))  # type: ignore[union-attr]
        for write in writes:
            unit = table[write.item, write.row]
            cells = np.flatnonzero(unit >= 0)
            if len(cells):
                where = (
                    torch.from_numpy(unit[cells]).to(view.device),
                    torch.from_numpy(write.pos[cells]).to(view.device),
                )
                write.apply(view, where, torch.from_numpy(cells))

    def _on_attention(self, module: nn.Module, call: AttentionCall, delegate: Callable[..., Any]) -> Any:
        taps = self.kept.run.model.stack.blocks[self._layer].taps
        if "k" not in taps or taps["k"].module is not module:
            return delegate(module, call.q, call.k, call.v, call.mask, **call.kwargs)
        for key in ("q", "k", "v"):
            if (key, self._layer) in self.writes:
                changed = getattr(call, key).clone()
                self._apply(changed.transpose(1, 2), self.writes[key, self._layer])
                setattr(call, key, changed)
        patterns, work = self.patterns.get(self._layer), self._work
        if patterns is not None and np.isin(work.item[self._units], list(patterns.by_item)).any():  # type: ignore[union-attr]
            z = patterns.mixed(call, 0, work.item[self._units].tolist(), work.row[self._units].tolist())  # type: ignore[union-attr]
        else:
            z = delegate(module, call.q, call.k, call.v, call.mask, **call.kwargs)[0]
        if ("z", self._layer) in self.writes and taps["z"].side == "attention":
            z = z.clone()
            self._apply(z, self.writes["z", self._layer])
        return z, None
