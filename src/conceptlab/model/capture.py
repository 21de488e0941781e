"""Read sites: only those asked for, only at the positions asked for, only real tokens."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from conceptlab.errors import SiteError
from conceptlab.model.instrument import Instrument, Visit
from conceptlab.model.layout import Layout, Positions


@dataclass(frozen=True, eq=False)
class Activations:
    """Values of real tokens: `acts["resid_post"]` is [token, layer, d_model], `z` [token, layer, head, d_head], `mlp_post`
    [token, layer, d_mlp], `pattern` [token, layer, head, key_pos] (0 beyond a row's end), ends of the stream [token, …].

    `row` and `position` [token] say which text and which real token; `layers` names the layer axis of each site.
    """

    values: dict[str, Tensor]
    row: np.ndarray
    position: np.ndarray
    layers: dict[str, tuple[int, ...]]

    def __getitem__(self, site: str) -> Tensor:
        if site not in self.values:
            raise SiteError(f"{site!r} was not captured; captured were {', '.join(self.values)}")
        return self.values[site]

    def at(self, site: str, layer: int) -> Tensor:
        """One layer of one site, [token, …]."""
        if layer not in self.layers.get(site, ()):
            raise SiteError(
                f"L{layer}.{site} was not captured; captured layers of {site} are {self.layers.get(site, ())}"
            )
        return self[site][:, self.layers[site].index(layer)]


class Collector:
    """Fills preallocated [token, layer, …] tensors while chunks of rows run, so memory is held once."""

    def __init__(self, counts: Sequence[int], instrument: Instrument, positions: Positions, max_keys: int) -> None:
        self.starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        self.instrument, self.positions, self.max_keys = instrument, positions, max_keys
        self.values: dict[str, Tensor] = {}
        self.rows: Sequence[int] = ()

    def begin(self, rows: Sequence[int]) -> None:
        """The next forward runs these rows of the batch."""
        self.rows = rows

    def reader(self, site: str, axis: int | None, n_layers: int, keep_graph: bool) -> Visit:
        """A visitor that stores layer number `axis` (None: an end of the stream, without a layer axis)."""

        def visit(view: Tensor) -> None:
            layout = self._layout()
            picked = view if keep_graph else view.detach()
            offset = layout.offset + layout.n_cols - view.shape[1] if site in ("k", "v") else None
            rows, cols = layout.cells(self._chunk_positions(), n_cols=view.shape[1], offset=offset)
            cells = picked[rows.to(view.device), cols.to(view.device)]
            if site == "pattern":
                cells = self._align_keys(cells, rows, layout)
            self._store(site, axis, n_layers, cells, keep_graph)

        return visit

    def _layout(self) -> Layout:
        if self.instrument.layout is None:
            raise SiteError("nothing is running: capture inside a forward")
        return self.instrument.layout

    def _chunk_positions(self) -> Positions:
        if (
            isinstance(self.positions, str)
            or not len(self.positions)
            or not isinstance(self.positions[0], (list, tuple))
        ):
            return self.positions
        return [self.positions[r] for r in self.rows]  # type: ignore[misc]

    def _align_keys(self, cells: Tensor, rows: Tensor, layout: Layout) -> Tensor:
        """Shift left-padded rows so that key 0 is the first real token, and fill up to the longest row of the batch."""
        aligned = cells.new_zeros((*cells.shape[:-1], self.max_keys))
        for row in rows.unique().tolist():
            start, length = int(layout.pad_left[row]), int(layout.length[row])
            aligned[rows == row, ..., :length] = cells[rows == row][..., start : start + length]
        return aligned

    def _store(self, site: str, axis: int | None, n_layers: int, cells: Tensor, keep_graph: bool) -> None:
        target = torch.cat([torch.arange(self.starts[r], self.starts[r + 1]) for r in self.rows]).to(cells.device)
        total = int(self.starts[-1])
        if site not in self.values:
            shape = (total, *cells.shape[1:]) if axis is None else (total, n_layers, *cells.shape[1:])
            self.values[site] = cells.new_zeros(shape)
        if axis is not None and self.values[site].shape[2:] != cells.shape[1:]:
            raise SiteError(f"layers of {site} differ in shape here; capture them one layer at a time (layers=[...])")
        if keep_graph:
            index = (target,) if axis is None else (target, torch.full_like(target, axis))
            self.values[site] = self.values[site].index_put(index, cells)
        elif axis is None:
            self.values[site][target] = cells
        else:
            self.values[site][target, axis] = cells
